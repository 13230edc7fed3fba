"""Noising finished rows and denoising them again; reveals at the finish."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

import flexmdm_jax as fm
from flexmdm_jax.sampling.canvas import Canvas
from flexmdm_jax.sampling.chain import Chain
from flexmdm_jax.schedules import Linear, Power
from tests import laws
from tests.laws import VOCAB, L, quick_jit
from tests.sampling.test_loop import PATTERNS, mixed_start, toy
from tests.test_exactness import INTERPOLANTS, marginal, rows

POWER = INTERPOLANTS["power"][0]
NUM = 20_000

quick_sample = quick_jit(fm.sample, static_argnums=(3, 4, 5, 6))


def noise(start, t, path=POWER):
  """Rows of a start that the sampler made, taken back to time t."""
  chain = Chain(toy, path, VOCAB, 1.0, 1.0)
  keys = jax.random.split(jax.random.key(0), start.tokens.shape[0])
  canvas = Canvas.of(start)
  # What an empty start inserted has no marks.
  canvas = canvas._replace(marks=jnp.where(start.frozen, canvas.marks, 0))
  return jax.jit(chain.noise)(keys, canvas, jnp.float32(t))


def clean_start(tokens, length):
  shape = tokens.shape
  return fm.Start(
    jnp.asarray(tokens),
    jnp.asarray(length),
    jnp.zeros(shape, bool),
    jnp.ones((shape[0], shape[1] + 1), bool),
  )


def test_noised_rows_have_the_law_of_their_time():
  law, t = laws.PAPER, 0.4
  canvas = noise(clean_start(*rows(law, NUM)), t)
  code = laws.encode(np.asarray(canvas.tokens), np.asarray(canvas.length))
  counts = (code[:, None] == laws.encode(*laws.pack(law.states))).sum(axis=0)
  assert counts.sum() == NUM
  expected = NUM * marginal(law, "power", t)
  assert scipy.stats.chisquare(counts, expected).pvalue > 1e-3
  assert canvas.open_gaps().sum() == (canvas.length + 1).sum()
  assert not canvas.marks.any()


def test_marks_stay_with_their_tokens():
  # 0 2 1 with the two outer tokens frozen, and the gaps beside the 2 closed.
  start = fm.prompt_start([[0, 2, 1]] * 400, L, VOCAB)
  start = start._replace(
    frozen=start.frozen.at[:, 1].set(False),
    open_gaps=jnp.zeros((400, L + 1), bool).at[:, [0, 3]].set(True),
  )
  chain = Chain(toy, POWER, VOCAB, 1.0, 1.0)
  keys = jax.random.split(jax.random.key(0), 400)
  canvas = Canvas.of(start)
  inserted = jnp.zeros((400, L + 1), jnp.int32).at[:, 0].set(2)
  canvas, _ = chain.move(canvas, jnp.full((400, L), -1), inserted)
  clean = jnp.where(canvas.tokens == VOCAB.mask, 0, canvas.tokens)
  noised = chain.noise(keys, canvas._replace(tokens=clean), jnp.float32(0.3))
  length, tokens = np.asarray(noised.length), np.asarray(noised.tokens)
  # The inserted ones may be gone; what the start held is not.
  assert set(length) == {3, 4, 5}
  for row, n, gaps in zip(tokens, length, noised.open_gaps(), strict=True):
    assert (row[n - 3], row[n - 1]) == (0, 1)
    assert row[n - 2] in (2, VOCAB.mask)
    wanted = np.isin(np.arange(L + 1), [*range(n - 2), n])
    np.testing.assert_array_equal(gaps, wanted)
  at = tokens[np.arange(400), length - 2]
  assert set(at) == {2, VOCAB.mask}


@pytest.mark.slow
def test_two_rounds_leave_the_law():
  law = laws.THREE
  # Lengths first, exactly; then half of a second half is masked again.
  path = fm.lengths_first()
  denoiser = law.denoiser(path.insertion, True, one_time=False)
  config = fm.SamplerConfig(
    3 * (L + 2), corrections=2, correction_time=0.5, correction_calls=L + 2
  )
  start = fm.empty_start(NUM, L, VOCAB)
  samples = quick_sample(
    jax.random.key(0), denoiser, start, path, VOCAB, config, False
  )
  assert law.tv(samples) < 2 * law.floor(NUM)
  assert law.p_value(samples) > 1e-3
  # Half of the tokens are masked in each round, a call each.
  once = np.asarray(samples.length) + 1
  more = (np.asarray(samples.calls) - once)[once > 1]
  expected = 2 * (1 - 3 / 7) * (once - 1)[once > 1]
  assert abs(more.mean() - expected.mean()) < 0.05


@pytest.mark.slow
def test_two_rounds_of_insertions_leave_the_law():
  law, t = laws.PAPER, 0.4
  denoiser = law.denoiser(POWER.insertion, True, one_time=False)
  config = fm.SamplerConfig(96, corrections=2, correction_time=t)
  start = fm.empty_start(NUM, L, VOCAB)
  samples = quick_sample(
    jax.random.key(0), denoiser, start, POWER, VOCAB, config, False
  )
  assert law.tv(samples) < 3 * law.floor(NUM)
  assert law.p_value(samples) > 1e-3


@pytest.mark.parametrize(
  "method", ["events", pytest.param("tau_leaping", marks=pytest.mark.slow)]
)
def test_what_is_given_stays(method):
  start = jax.tree.map(lambda x: x[jnp.arange(40) % 5], mixed_start())
  config = fm.SamplerConfig(
    12, method, corrections=2, correction_time=0.3, correction_calls=4
  )
  samples = quick_sample(
    jax.random.key(1),
    jax.tree_util.Partial(toy),
    start,
    POWER,
    VOCAB,
    config,
    True,
  )
  frames, lengths = map(np.asarray, samples.trace)
  changed = (frames[1:] != frames[:-1]).any(axis=(1, 2))
  assert changed[4:].any()
  # Rows become shorter only where they are noised.
  shorter = (np.diff(lengths, axis=0) < 0).any(axis=1)
  assert shorter[[4, 8]].all()
  assert not np.delete(shorter, [4, 8]).any()
  for tokens, length in zip(frames, lengths, strict=True):
    for i, (row, n) in enumerate(zip(tokens, length, strict=True)):
      text = "".join(map(str, row[:n]))
      assert re.fullmatch(PATTERNS[i % 5], text)
      assert (row[n:] == VOCAB.pad).all()
  for end in (4, 8, 12):
    assert not (frames[end] == VOCAB.mask).any()
  assert samples.calls.max() <= 12


def sure_of(missing):
  def denoiser(tokens, length, t):
    B = tokens.shape[0]
    logits = jnp.zeros((B, L, VOCAB.size)).at[:, :, VOCAB.pad].set(-jnp.inf)
    gaps = jnp.full((B, L + 1), -jnp.inf)
    gaps = gaps.at[:, 0].set(jnp.where(length == 0, jnp.log(missing), -jnp.inf))
    return fm.Prediction(logits, gaps)

  return denoiser


@pytest.mark.parametrize(
  "method", ["tau_leaping", pytest.param("adaptive", marks=pytest.mark.slow)]
)
def test_finish_reveals_leftovers_evenly(method):
  # All insertions fall into the only step of the grid.
  config = fm.SamplerConfig(4, method, finish=3, confidence="position")
  start = fm.empty_start(64, L, VOCAB)
  path = fm.JointInterpolant(Linear(), Power(2.0))
  denoiser = jax.tree_util.Partial(sure_of(5.0 + 1e-5))
  samples = quick_sample(
    jax.random.key(0), denoiser, start, path, VOCAB, config, True
  )
  length = np.asarray(samples.trace.length)
  assert (np.isin(length[1:], [5, 6])).all()
  masks = (np.asarray(samples.trace.tokens) == VOCAB.mask).sum(axis=-1)
  five = length[-1] == 5
  assert five.mean() > 0.9
  for i, left in enumerate([0, 5, 3, 1, 0]):
    assert (masks[i, five] == left).all()
  # Leftmost first.
  assert (np.asarray(samples.trace.tokens)[2, five, :2] != VOCAB.mask).all()
  assert (samples.calls == 4).all()
