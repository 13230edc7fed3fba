"""The sampler's contract: what it keeps, what it reports, how it compiles."""

import functools
import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

import flexmdm_jax as fm
from flexmdm_jax.sampling import loop
from flexmdm_jax.sampling.config import METHODS
from flexmdm_jax.schedules import Linear
from tests.laws import quick_jit

VOCAB = fm.Vocab(size=5, mask=3, pad=4)
INTERPOLANT = fm.JointInterpolant(Linear(), Linear())
L = 6


def toy(tokens, length, t):
  """A denoiser whose answer depends on all that a row holds."""
  inside = jnp.arange(L) < length[:, None]
  content = jnp.sum(jnp.where(inside, tokens + 1, 0), axis=1) + 10 * length
  phase = content[:, None].astype(jnp.float32) + jnp.arange(L + 1.0)
  logits = jnp.sin(phase[:, :L, None] * jnp.arange(1.0, 6.0))
  return fm.Prediction(3 * logits, jnp.cos(phase) - t[:, None])


def hungry(tokens, length, t):
  """Wants more tokens than there is room for, in every gap."""
  return toy(tokens, length, t)._replace(
    log_gaps=jnp.full((tokens.shape[0], L + 1), 5.0)
  )


def mixed_start():
  """Unconditional, prompt, infilling, anchors and two holes in one batch."""
  holes = jnp.array([[False, True, False, True, False, False, False]])
  starts = [
    fm.empty_start(1, L, VOCAB),
    fm.prompt_start([[0, 1]], L, VOCAB),
    fm.infill_start([[2]], [[0, 2]], L, VOCAB),
    fm.anchor_start([[1, 1]], L, VOCAB),
    fm.prompt_start([[2, 0, 0, 1]], L, VOCAB)._replace(open_gaps=holes),
  ]
  return jax.tree.map(lambda *rows: jnp.concatenate(rows), *starts)


def draw(key, start, denoiser=toy, trace=False, **config):
  # XLA's compiler aborts on a finish at optimisation level 1 (jax 0.10.2, CPU).
  run = fm.sample if config.get("finish") else quick_sample
  config = fm.SamplerConfig(**{"steps": 8, **config})
  return run(key, denoiser, start, INTERPOLANT, VOCAB, config, trace)


quick_sample = quick_jit(fm.sample, static_argnums=(1, 3, 4, 5, 6))


def take(tree, rows):
  return jax.tree.map(lambda x: x[rows], tree)


def assert_same(ours, theirs):
  jax.tree.map(np.testing.assert_array_equal, ours, theirs)


@pytest.mark.parametrize(
  ("field", "shape"),
  [("length", (2,)), ("frozen", (5, L + 1)), ("open_gaps", (5, L))],
)
def test_wrong_start_is_named(field, shape):
  start = mixed_start()
  wrong = jnp.zeros(shape, getattr(start, field).dtype)
  with pytest.raises(fm.InputError, match=rf"start\.{field} has shape"):
    draw(jax.random.key(0), start._replace(**{field: wrong}))


def test_wrong_number_of_keys():
  with pytest.raises(fm.InputError, match="pass one key or 5 keys"):
    draw(jax.random.split(jax.random.key(0), 3), mixed_start())


@pytest.mark.parametrize(
  "config",
  [
    {},
    pytest.param(
      dict(corrections=1, confidence="margin", entropy_budget=0.5),
      marks=pytest.mark.slow,
    ),
    pytest.param(dict(method="midpoint"), marks=pytest.mark.slow),
    pytest.param(
      dict(method="adaptive", window_scale=2.0, max_window=3),
      marks=pytest.mark.slow,
    ),
    pytest.param(dict(method="tau_leaping", finish=3), marks=pytest.mark.slow),
  ],
  ids=["events", "corrections", "midpoint", "window", "finish"],
)
def test_row_depends_on_its_key_and_start_alone(config):
  keys = jax.random.split(jax.random.key(1), 5)
  start = mixed_start()
  batch = draw(keys, start, **config)
  some = jnp.array([3, 1])
  assert_same(take(batch, some), draw(keys[some], take(start, some), **config))
  # Row 0 again, with other mates under other keys.
  mixed = draw(
    keys[jnp.array([0, 0, 1, 2, 3])],
    take(start, jnp.array([0, 2, 4, 0, 3])),
    **config,
  )
  assert_same(take(mixed, 0), take(batch, 0))
  assert not np.array_equal(mixed.tokens[1:], batch.tokens[1:])


@pytest.mark.slow
def test_one_key_gives_each_row_its_own():
  key, start = jax.random.key(2), fm.empty_start(4, L, VOCAB)
  batch = draw(key, start)
  assert_same(take(batch, slice(2)), draw(key, take(start, slice(2))))
  assert len(np.unique(batch.tokens, axis=0)) > 1


@pytest.mark.slow
def test_legacy_keys():
  start = mixed_start()
  old, new = jax.random.PRNGKey(3), jax.random.key(3)
  assert_same(draw(old, start), draw(new, start))
  old, new = jax.random.split(old, 5), jax.random.split(new, 5)
  assert_same(draw(old, start), draw(new, start))


def test_jit_inside_jit():
  # `draw` is a jit around the sampler's own.
  config = fm.SamplerConfig(steps=8)
  key, start = jax.random.key(4), mixed_start()
  alone = fm.sample(key, toy, start, INTERPOLANT, VOCAB, config)
  assert_same(alone, draw(key, start))


def reachable(state, new, fresh="3"):
  """Whether one step may lead from a state to another (digits; 3: mask).

  What it inserts is one of `fresh`.
  """
  if not new:
    return not state
  inserted = new[0] in fresh and reachable(state, new[1:], fresh)
  kept = state and state[0] in ("3", new[0])
  return inserted or (kept and reachable(state[1:], new[1:], fresh))


# What the frozen tokens and closed gaps of `mixed_start` leave possible.
PATTERNS = (".*", "01.*", "2.*02", ".*1.*1.*", "2.*00.*1")


@pytest.mark.parametrize(
  "method",
  [
    "events",
    *(
      pytest.param(method, marks=pytest.mark.slow)
      for method in METHODS
      if method != "events"
    ),
  ],
)
def test_trace(method):
  start = take(mixed_start(), jnp.arange(40) % 5)
  samples = draw(jax.random.key(5), start, trace=True, method=method)
  first, last = start[:2], samples[:2]
  assert_same(tuple(take(samples.trace, 0)), first)
  assert_same(tuple(take(samples.trace, -1)), last)

  inside = np.arange(L) < np.asarray(samples.trace.length)[..., None]
  frames = np.asarray(samples.trace.tokens)
  assert (frames[~inside] == VOCAB.pad).all()
  assert not ((frames[-1] == VOCAB.mask) & inside[-1]).any()

  # States of all rows over time, as digits.
  states = [
    ["".join(map(str, row[:n])) for row, n in zip(*frame, strict=True)]
    for frame in zip(frames, inside.sum(axis=-1), strict=True)
  ]
  for before, after in itertools.pairwise(states):
    # Two calls may insert a mask and reveal it.
    fresh = ["01234" if method == "midpoint" else "3"] * len(before)
    assert all(map(reachable, before, after, fresh))
  for frame in states:
    for row, pattern in enumerate(PATTERNS):
      assert all(re.fullmatch(pattern, text) for text in frame[row::5])
  if method != "midpoint":  # The last step inserts nothing.
    assert (inside[-1] == inside[-2]).all()
  assert samples.length.max() > 4


@pytest.mark.parametrize("method", ["events", "midpoint", "tau_leaping"])
def test_overflow_is_reported_and_keeps_what_fits(method):
  start = mixed_start()
  samples = draw(jax.random.key(6), start, hungry, method=method)
  np.testing.assert_array_equal(samples.length, L)
  assert samples.truncated.all()
  np.testing.assert_array_equal(samples.tokens[1, :2], [0, 1])
  full = fm.prompt_start([[0] * L] * 5, L, VOCAB)
  closed = full._replace(open_gaps=jnp.zeros((5, L + 1), bool))
  samples = draw(jax.random.key(6), full, hungry, method=method)
  assert samples.truncated.all()
  samples = draw(jax.random.key(6), closed, hungry, method=method)
  assert not samples.truncated.any()
  assert not samples.calls.any()


LAW = np.array([0.5, 0.3, 0.2])


def independent(tokens, length, t):
  """Every token has `LAW`, every gap misses one token."""
  B = tokens.shape[0]
  logits = jnp.log(jnp.array([*LAW, 1.0, 0.0], jnp.float32))
  return fm.Prediction(
    jnp.broadcast_to(logits, (B, L, 5)), jnp.zeros((B, L + 1))
  )


@pytest.mark.parametrize(
  ("config", "law"),
  [
    (dict(temperature=0.5, top_p=0.7), np.array([25, 9, 0]) / 34),
    (dict(method="adaptive", confidence="top_prob"), LAW),
  ],
  ids=["nucleus", "plain"],
)
def test_token_law(config, law):
  # The logits favour the mask id itself, which no token may be.
  start = fm.mask_start(2000, L, VOCAB)
  samples = draw(jax.random.key(7), start, independent, steps=2, **config)
  counts = np.bincount(np.ravel(samples.tokens), minlength=5)
  keep = np.append(np.asarray(law) > 0, [False, False])
  assert counts[~keep].sum() == 0
  expected = counts.sum() * np.asarray(law)[keep[:3]]
  assert scipy.stats.chisquare(counts[keep], expected).pvalue > 1e-3


@pytest.mark.slow
def test_temperature_leaves_the_lengths_alone():
  start = fm.empty_start(64, L, VOCAB)
  cold = draw(jax.random.key(8), start, independent, temperature=0)
  warm = draw(jax.random.key(8), start, independent)
  np.testing.assert_array_equal(cold.length, warm.length)
  assert set(np.ravel(cold.tokens)) == {0, VOCAB.pad}
  assert not np.array_equal(cold.tokens, warm.tokens)


@functools.cache
def tiny_model():
  model = fm.DiT(
    VOCAB, L, hidden_size=8, num_layers=1, num_heads=2, cond_size=4
  )
  start = mixed_start()
  variables = jax.jit(model.init)(
    jax.random.key(0), start.tokens, start.length, jnp.zeros(5)
  )
  return model, variables["params"]


def test_new_parameters_do_not_compile_again():
  model, params = tiny_model()
  start, config = mixed_start(), fm.SamplerConfig(steps=2, buckets=())

  def draw(params):
    denoiser = fm.denoiser(model, params)
    key = jax.random.key(9)
    return fm.sample(key, denoiser, start, INTERPOLANT, VOCAB, config)

  first = draw(params)
  compiled = loop._on_canvas_alone._cache_size()
  second = draw(jax.tree.map(lambda x: x + 1.0, params))
  assert loop._on_canvas_alone._cache_size() == compiled
  assert not np.array_equal(first.tokens, second.tokens)


@pytest.mark.parametrize("method", METHODS)
def test_no_exchange_with_the_host(method):
  # A step that waited for the host could not be traced, or would call back.
  denoiser, start = fm.denoiser(*tiny_model()), mixed_start()
  config = fm.SamplerConfig(4, method)
  jaxpr = jax.make_jaxpr(
    lambda key: fm.sample(key, denoiser, start, INTERPOLANT, VOCAB, config)
  )(jax.random.key(0))
  assert "while[" in str(jaxpr) and "callback" not in str(jaxpr)
