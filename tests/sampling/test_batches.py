import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flexmdm_jax as fm
from flexmdm_jax.sampling.loop import in_batches
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
