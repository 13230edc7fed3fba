import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flexmdm_jax as fm
from flexmdm_jax.sampling import in_batches, loop, sample_in_batches
from flexmdm_jax.schedules import Linear

L = 6
VOCAB = fm.Vocab(size=5, mask=3, pad=4)
LINEAR = fm.JointInterpolant(Linear(), Linear())


def uniform(tokens, length, t):
  """Knows nothing: every token is as likely, every gap misses one."""
  B = tokens.shape[0]
  return fm.Prediction(jnp.zeros((B, L, VOCAB.size)), jnp.zeros((B, L + 1)))


def drawing(steps):
  return functools.partial(
    fm.sample,
    denoiser=uniform,
    interpolant=LINEAR,
    vocab=VOCAB,
    config=fm.SamplerConfig(steps),
  )


def test_batches_change_nothing():
  start = fm.prompt_start([[0], [1, 1], [], [2], [0, 0]], L, VOCAB)
  draw = drawing(steps=4)
  key = jax.random.key(0)
  whole = draw(key, start=start)
  for batch_size in (2, 5, 9):
    parts = in_batches(draw, key, start, batch_size)
    np.testing.assert_array_equal(parts.tokens, whole.tokens)
    np.testing.assert_array_equal(parts.length, whole.length)
    np.testing.assert_array_equal(parts.truncated, whole.truncated)


def test_batch_size_below_one_is_refused():
  start = fm.empty_start(2, L, VOCAB)
  with pytest.raises(fm.InputError, match="batch_size=0"):
    in_batches(drawing(steps=1), jax.random.key(0), start, 0)
  with pytest.raises(fm.InputError, match="batch_size=0"):
    config = fm.SamplerConfig(1)
    key = jax.random.key(0)
    sample_in_batches(key, uniform, start, LINEAR, VOCAB, config, 0)


def test_rows_that_begin_alike_long_share_a_batch():
  start = fm.prompt_start([[0] * n for n in (4, 1, 3, 0, 2)], L, VOCAB)
  seen = []

  def draw(keys, start):
    seen.append(start.length.tolist())
    rows = jnp.asarray(start.length)
    return fm.sampling.Samples(start.tokens, rows, rows > 2, rows, start.frozen)

  samples = in_batches(draw, jax.random.key(0), start, 2)
  assert seen == [[0, 1], [2, 3], [4, 0]]
  np.testing.assert_array_equal(samples.length, start.length)
  np.testing.assert_array_equal(samples.tokens, start.tokens)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Told:
  """A denoiser whose rows become as long as their first token says."""

  lengths: jax.Array
  ignores_padding = True

  def __call__(self, tokens, length, t):
    wanted = self.lengths[tokens[:, 0]].astype(jnp.float32)
    there = length.astype(jnp.float32)
    missing = jnp.maximum(wanted - there, 1e-6) / there
    inside = jnp.arange(tokens.shape[1] + 1) <= length[:, None]
    log_gaps = jnp.where(inside, jnp.log(missing)[:, None], -jnp.inf)
    seen = jnp.sum(jnp.where(inside[:, 1:], tokens, 0), axis=1)
    phase = (seen[:, None] + jnp.arange(tokens.shape[1])).astype(jnp.float32)
    logits = jnp.sin(phase[..., None] * jnp.arange(1.0, VOCAB.size + 1))
    return fm.Prediction(2 * logits, log_gaps)


@pytest.mark.parametrize(
  "path", [pytest.param("linear", marks=pytest.mark.slow), "lengths_first"]
)
def test_batches_that_meet_change_nothing_but_the_canvas(path, monkeypatch):
  L, steps = 48, 16
  denoiser = Told(jnp.array([4, 40, 4, 4, 4]))
  start = fm.prompt_start([[int(i % 3 == 1)] for i in range(13)], L, VOCAB)
  start = start._replace(open_gaps=start.open_gaps.at[:, 0].set(False))
  fixed = (LINEAR, VOCAB)
  if path == "lengths_first":
    fixed = (fm.paths.lengths_first(), VOCAB)
  config = fm.SamplerConfig(steps, buckets=(8,))
  whole = fm.sample(jax.random.key(1), denoiser, start, *fixed, config)
  on_canvas, positions = loop._on_canvas_alone, []

  def counting(C, key, denoiser, state, *more):
    done = 0 if isinstance(state, fm.Start) else int(state.steps)
    after = on_canvas(C, key, denoiser, state, *more)
    positions.append(C * len(key) * (int(after.steps) - done))
    return after

  monkeypatch.setattr(loop, "_on_canvas_alone", counting)

  def draw(key, start):
    return fm.sample(key, denoiser, start, *fixed, config)

  apart = in_batches(draw, jax.random.key(1), start, 3)
  cost = sum(positions)
  positions.clear()
  meeting = sample_in_batches(
    jax.random.key(1), denoiser, start, *fixed, config, 3
  )
  for samples in (apart, meeting):
    jax.tree.map(np.testing.assert_array_equal, samples, whole)
  # Short and long rows came in turns.
  assert whole.length.min() <= 4 and whole.length.max() >= 40
  assert sum(positions) < 0.75 * cost
