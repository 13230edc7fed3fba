"""What saves work changes no sample: canvases, fused heads, skipped steps."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

import flexmdm_jax as fm
from flexmdm_jax.sampling import loop
from flexmdm_jax.sampling.canvas import canvas_widths, default_buckets
from flexmdm_jax.sampling.placement import Placement
from flexmdm_jax.schedules import Linear, Power
from flexmdm_jax.training.sharding import Rules, make_mesh, tree_shardings
from tests.laws import quick_jit

VOCAB = fm.Vocab(size=40, mask=38, pad=39)
INTERPOLANT = fm.JointInterpolant(Power(1.7), Power(2.89))
L = 20


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Hungry:
  """A model's denoiser that wants rows of about `wanted` tokens."""

  inner: fm.models.denoiser.ModelDenoiser
  wanted: float = dataclasses.field(metadata={"static": True})

  def features(self, tokens, length, t):
    features = self.inner.features(tokens, length, t)
    length = length.astype(jnp.float32)
    missing = jnp.maximum(self.wanted - length, 0.1) / (length + 1)
    log_gaps = 0.1 * features.log_gaps + jnp.log(missing)[:, None]
    return features._replace(log_gaps=log_gaps)

  def __call__(self, tokens, length, t):
    return self.features(tokens, length, t).prediction()


@functools.cache
def network(gap_head="log_rate", dtype=jnp.float32):
  model = fm.DiT(
    VOCAB,
    L,
    hidden_size=16,
    num_layers=1,
    num_heads=2,
    cond_size=8,
    gap_head=gap_head,
    dtype=dtype,
  )
  tokens = jnp.zeros((1, L), jnp.int32)
  params = jax.jit(model.init)(
    jax.random.key(0), tokens, jnp.zeros(1, jnp.int32), jnp.zeros(1)
  )["params"]
  rng = np.random.default_rng(0)
  # Heads and gates are zero at first: no two rows would differ.
  params = jax.tree.map(
    lambda x: x + jnp.asarray(rng.normal(0, 0.5, x.shape), jnp.float32), params
  )
  return fm.denoiser(model, params)


quick_sample = quick_jit(fm.sample, static_argnums=(3, 4, 5, 6))


def draw(denoiser, start=None, steps=12, trace=True, **config):
  start = start or starts()
  config = fm.SamplerConfig(steps, **config)
  return quick_sample(
    jax.random.key(3), denoiser, start, INTERPOLANT, VOCAB, config, trace
  )


def starts():
  rows = [
    fm.empty_start(3, L, VOCAB),
    fm.prompt_start([[1, 2, 3]], L, VOCAB),
    fm.infill_start([[5, 6]], [[7]], L, VOCAB),
    fm.anchor_start([[4, 20, 9]], L, VOCAB),
  ]
  return jax.tree.map(lambda *rows: jnp.concatenate(rows), *rows)


def assert_same(ours, theirs):
  jax.tree.map(np.testing.assert_array_equal, ours, theirs)


@pytest.mark.parametrize(
  "config",
  [
    {},
    pytest.param(dict(method="midpoint"), marks=pytest.mark.slow),
    pytest.param(
      dict(confidence="margin", entropy_budget=1.0, corrections=1),
      marks=pytest.mark.slow,
    ),
    pytest.param(dict(method="tau_leaping", finish=2), marks=pytest.mark.slow),
    pytest.param(
      dict(method="adaptive", confidence="entropy", max_window=3),
      marks=pytest.mark.slow,
    ),
    pytest.param(
      dict(method="adaptive", confidence="position", top_p=0.8),
      marks=pytest.mark.slow,
    ),
  ],
  ids=["events", "midpoint", "corrections", "finish", "window", "nucleus"],
)
def test_samples_are_those_of_the_whole_canvas(config):
  denoiser = Hungry(network(), 14.0)
  whole = draw(denoiser, buckets=(), **config)
  assert 11 < int(whole.length.max()) and int(whole.length.min()) < L
  assert_same(draw(denoiser, buckets=(4, 11), **config), whole)


@pytest.mark.slow
def test_all_logits_at_all_positions_give_the_same_samples():
  denoiser = Hungry(network(), 14.0)
  dense = jax.tree_util.Partial(lambda f, *args: f(*args), denoiser)
  assert_same(draw(dense), draw(denoiser, buckets=()))


@pytest.mark.slow
def test_in_16_bits_the_law_is_the_same():
  denoiser = Hungry(network(dtype=jnp.bfloat16), 8.0)
  start, num = fm.empty_start(800, L, VOCAB), 800

  def counts(seed, **config):
    samples = quick_sample(
      jax.random.key(seed),
      denoiser,
      start,
      INTERPOLANT,
      VOCAB,
      fm.SamplerConfig(8, **config),
      False,
    )
    assert int(samples.length.max()) > 11
    inside = np.arange(L) < np.asarray(samples.length)[:, None]
    return (
      np.bincount(samples.length, minlength=L + 1),
      np.bincount(np.asarray(samples.tokens)[inside], minlength=VOCAB.size),
    )

  # Other bits, so that the two are independent samples of their laws.
  for short, whole in zip(
    counts(1, buckets=(4, 11)), counts(2, buckets=()), strict=True
  ):
    often = short + whole >= 20
    table = [[*x[often], x[~often].sum()] for x in (short, whole)]
    table = np.array(table)[:, np.sum(table, axis=0) > 0]
    assert table.shape[1] > 5 and table.sum() >= 2 * num
    assert scipy.stats.chi2_contingency(table).pvalue > 1e-3


@pytest.mark.slow
def test_a_row_that_fills_all_canvases_is_truncated():
  greedy = Hungry(network(), 60.0)
  whole = draw(greedy, buckets=())
  assert whole.truncated.any() and int(whole.length.max()) == L
  assert_same(draw(greedy, buckets=(4, 15)), whole)


@pytest.mark.slow
def test_gap_laws_on_a_short_canvas():
  whole = draw(network("binned"), buckets=())
  assert_same(draw(network("binned"), buckets=(5,)), whole)
  assert int(whole.length.max()) > 5


@pytest.mark.slow
def test_starts_longer_than_a_canvas():
  start = fm.prompt_start([[1] * 9, [2]], L, VOCAB)
  denoiser = Hungry(network(), 12.0)
  whole = draw(denoiser, start, buckets=())
  assert_same(draw(denoiser, start, buckets=(4, 15)), whole)


def counting(calls):
  def denoiser(tokens, length, t):
    jax.debug.callback(lambda t: calls.append(float(t)), t[0])
    shape = (*tokens.shape, VOCAB.size)
    return fm.Prediction(jnp.zeros(shape), jnp.zeros((shape[0], shape[1] + 1)))

  return denoiser


@pytest.mark.parametrize(
  "method", ["tau_leaping", pytest.param("adaptive", marks=pytest.mark.slow)]
)
def test_steps_in_which_nothing_changes_call_no_network(method):
  calls, steps = [], 60
  config = fm.SamplerConfig(steps, method)
  start = fm.mask_start(2, 4, VOCAB)
  samples = fm.sample(
    jax.random.key(0),
    counting(calls),
    start,
    fm.MDM(Linear()),
    VOCAB,
    config,
    trace=True,
  )
  jax.block_until_ready(samples)
  jax.effects_barrier()
  frames = np.asarray(samples.trace.tokens)
  changed = (frames[1:] != frames[:-1]).any(axis=(1, 2))
  assert 1 <= changed.sum() <= 8
  np.testing.assert_allclose(
    sorted(calls), np.flatnonzero(changed) / steps, rtol=1e-6
  )
  # What may still insert is asked at every step but the last.
  calls.clear()
  start = fm.prompt_start([[0]], 4, VOCAB)
  fm.sample(
    jax.random.key(0), counting(calls), start, INTERPOLANT, VOCAB, config
  ).tokens.block_until_ready()
  jax.effects_barrier()
  assert len(calls) in (steps - 1, steps)


def test_rows_that_see_their_padding_have_one_canvas():
  sees = fm.Transformer(
    VOCAB,
    1024,
    hidden_size=16,
    num_layers=1,
    num_heads=2,
    num_kv_heads=2,
    mlp_size=16,
    mask_padding=False,
  )
  assert canvas_widths(None, fm.denoiser(sees, {}), 1024) == (1024,)
  blind = fm.denoiser(sees.clone(mask_padding=True), {})
  assert canvas_widths(None, blind, 1024) == (63, 127, 255, 511, 767, 1024)


def test_default_canvases():
  assert default_buckets(1024) == (63, 127, 255, 511, 767)
  assert default_buckets(256) == (15, 31, 63, 127, 191)
  assert default_buckets(24) == (7, 15)
  assert default_buckets(8) == default_buckets(1) == ()


@pytest.mark.parametrize(
  "start",
  [
    fm.empty_start(2, L, VOCAB),
    pytest.param(fm.prompt_start([[4] * 10], L, VOCAB), marks=pytest.mark.slow),
  ],
)
def test_only_canvases_that_rows_reach_are_compiled(start):
  denoiser = Hungry(network(), 3.0)
  config = fm.SamplerConfig(2, buckets=(9, 12))
  fixed = (jax.random.key(0), denoiser, start, INTERPOLANT, VOCAB, config)
  before = loop._on_canvas_alone._cache_size()
  samples = fm.sample(*fixed)
  # The empty rows end on the first of the three, the prompt begins on the next.
  assert int(samples.length.max()) <= (9 if start.length[0] == 0 else 12)
  assert loop._on_canvas_alone._cache_size() == before + 1
  if start.length[0] > 0:
    assert_same(quick_sample(*fixed), samples)


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(8, 1, 1), (2, 1, 4)])
def test_samples_are_the_same_on_a_mesh(shape):
  mesh = make_mesh(*shape)
  start = jax.tree.map(lambda x: jnp.concatenate([x, x, x, x]), starts())
  denoiser, config = Hungry(network(), 14.0), fm.SamplerConfig(6, buckets=(7,))
  args = (INTERPOLANT, VOCAB, config, True)
  whole = quick_sample(jax.random.key(3), denoiser, start, *args)
  abstract = jax.eval_shape(
    network().model.init,
    jax.random.key(0),
    start.tokens,
    start.length,
    jnp.zeros(24),
  )["params"]
  placed = jax.device_put(
    network().params,
    tree_shardings(abstract, Rules(embed=None, heads=None), mesh),
  )
  denoiser = Hungry(dataclasses.replace(network(), params=placed), 14.0)
  split = quick_jit(fm.sample, static_argnums=(3, 4, 5, 6, 7))(
    jax.random.key(3), denoiser, start, *args, Placement(mesh)
  )
  assert_same(split, whole)
