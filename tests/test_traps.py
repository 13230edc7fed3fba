"""Each trap of the public code, and the check that it would fail.

The checks run on ours and, where it is short, on the trap. Elsewhere:
  6  unmasking times truncated in time: tests/test_schedules.py.
  9  a sampler that waits for the host: tests/sampling/test_loop.py,
     test_no_exchange_with_the_host.
  10 a resume that loses the EMA, the optimiser or its place in the data:
     tests/training.
  11 evaluation scripts that do not run: the tests of the binaries.
"""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flexmdm_jax as fm
from flexmdm_jax import schedules
from flexmdm_jax.kernels import insert_unmask as kernel
from flexmdm_jax.sampling import draws
from flexmdm_jax.schedules import Linear, Power
from tests.laws import VOCAB, quick_jit


def test_1_a_row_that_overflows_keeps_what_fits():
  def ours(tokens, length, insertions):
    keep = jnp.full_like(tokens, -1)
    return kernel.insert_unmask(tokens, length, keep, insertions, mask=3, pad=4)

  def trap(tokens, length, insertions):
    fits = length + insertions.sum(axis=1) <= tokens.shape[1]
    return ours(tokens, length, jnp.where(fits[:, None], insertions, 0))

  def right(insert):
    tokens = jnp.array([[0, 1, 2, 4, 4], [0, 1, 2, 4, 4]])
    insertions = jnp.array([[3, 0, 0, 0, 0, 0], [1, 0, 0, 1, 0, 0]])
    tokens, length, truncated = insert(
      tokens, jnp.array([3, 3], jnp.int32), insertions
    )
    return (
      tokens.tolist() == [[3, 3, 0, 1, 2], [3, 0, 1, 2, 3]]
      and length.tolist() == [5, 5]
      and truncated.tolist() == [True, False]
    )

  assert right(ours)
  assert not right(trap)


@functools.partial(quick_jit, static_argnums=(0, 1, 2, 3))
def draw(denoiser, shape, interpolant, config):
  start = fm.mask_start(*shape, VOCAB)
  key = jax.random.key(0)
  return fm.sample(key, denoiser, start, interpolant, VOCAB, config, True)


SHAPE = (128, 64)


def left_for_the_last_step(unmasking, steps, method):
  """Share of masks that no step but the last reveals."""
  B, L = SHAPE

  def denoiser(tokens, length, t):
    return fm.Prediction(jnp.zeros((B, L, 5)), jnp.zeros((B, L + 1)))

  samples = draw(
    denoiser, (B, L), fm.MDM(unmasking), fm.SamplerConfig(steps, method)
  )
  assert not (samples.tokens == VOCAB.mask).any()
  return (samples.trace.tokens[-2] == VOCAB.mask).mean()


def is_share(share, expected):
  """Within 4 standard errors."""
  variance = expected * (1 - expected) / np.prod(SHAPE)
  return abs(share - expected) < 4 * variance**0.5


@dataclasses.dataclass(frozen=True)
class NoHazard(Linear):
  """Trap 2: reveals each mask with probability dt, not h(t) dt."""

  def jump(self, s, u):
    return u - s


@dataclasses.dataclass(frozen=True)
class OneEvent(Linear):
  """Trap 4: reveals a mask if it has exactly one Poisson event."""

  def jump(self, s, u):
    mean = self.hazard(s) * (u - s)
    return mean * jnp.exp(-mean)


@pytest.mark.slow
def test_2_adaptive_reveals_as_many_as_the_hazard_says():
  ours = left_for_the_last_step(Linear(), 16, "adaptive")
  trap = left_for_the_last_step(NoHazard(), 16, "adaptive")
  assert is_share(ours, 1 / 16)
  assert trap > 0.3 and not is_share(trap, 1 / 16)


def test_4_a_step_reveals_what_does_not_survive_it():
  ours = left_for_the_last_step(Linear(), 128, "tau_leaping")
  trap = left_for_the_last_step(OneEvent(), 128, "tau_leaping")
  assert is_share(ours, 1 / 128)
  # With insertions, 7.4 % of the tokens rather than 4.2 %.
  assert trap > 0.014 and not is_share(trap, 1 / 128)


@pytest.mark.slow
def test_3_confidence_is_of_probabilities():
  # A second softmax flattens the first row by more than the second.
  logits = jnp.log(jnp.array([[0.5, 0.5, 0.0], [0.48, 0.26, 0.26]]))

  def first(logits):
    keys = jax.random.split(jax.random.key(0), 2)
    drawn = draws.draw_tokens(keys, logits, 1.0, 1.0)
    return int(jnp.argmax(draws.confidence("top_prob", drawn)))

  assert first(logits) == 0
  assert first(jax.nn.softmax(logits)) == 1

  # The sampler ranks by the same: of two masks, the first is always revealed
  # before the second.
  def denoiser(tokens, length, t):
    rows = jnp.pad(logits, ((0, 0), (0, 2)), constant_values=-jnp.inf)
    return fm.Prediction(
      jnp.broadcast_to(rows, (256, 2, 5)), jnp.zeros((256, 3))
    )

  config = fm.SamplerConfig(4, "adaptive", "top_prob")
  samples = draw(denoiser, (256, 2), fm.MDM(Linear()), config)
  masked = np.asarray(samples.trace.tokens == VOCAB.mask)
  assert (masked.sum(axis=-1) == 1).any()
  assert not (masked[..., 0] & ~masked[..., 1]).any()


def test_5_no_more_is_revealed_than_is_masked():
  masked = jnp.array([False, True, False, True])
  score = jnp.array([0.9, 0.3, 0.8, 0.1])

  def ours(count):
    return draws.most_confident(masked, score, jnp.int32(count))

  def trap(count):
    score_of_masks = jnp.where(masked, score, -jnp.inf)
    _, top = jax.lax.top_k(score_of_masks, count)
    return jnp.zeros(4, bool).at[top].set(True)

  def right(choose):
    return not any((choose(count) & ~masked).any() for count in (1, 2, 3))

  assert right(ours)
  assert not right(trap)


@pytest.mark.parametrize("name", schedules._BY_NAME)
def test_7_the_schedules_are_stored_with_the_model(name):
  cls = schedules._BY_NAME[name]
  parameters = [8.0, 4.0][: len(dataclasses.fields(cls))]
  if cls is schedules.Window:
    parameters = [Power(8.0), 0.0, 0.5]
  schedule = cls(*parameters)
  for interpolant in (
    fm.JointInterpolant(schedule, Linear()),
    fm.JointInterpolant(Linear(), schedule),
  ):
    stored = json.loads(json.dumps(interpolant.to_config()))
    assert fm.JointInterpolant.from_config(stored) == interpolant
    if name != "linear":
      assert interpolant != fm.JointInterpolant(Linear(), Linear())


def test_8_a_new_gap_head_expects_about_one_token():
  def expected_tokens(gap_head):
    model = fm.DiT(
      VOCAB,
      max_length=1024,
      hidden_size=16,
      num_layers=1,
      num_heads=2,
      cond_size=4,
      gap_head=gap_head,
    )
    state = jnp.zeros((1, 4), jnp.int32), jnp.array([4], jnp.int32)
    t = jnp.array([0.5])
    init = jax.jit(model.init_with_output)
    prediction, _ = init(jax.random.key(0), *state, t)
    return np.exp(prediction.log_gaps)

  def sane(gaps):
    return gaps.max() < 1

  ours, trap = expected_tokens("log_rate"), expected_tokens("softplus")
  assert sane(ours) and not sane(trap)
  np.testing.assert_allclose(ours, np.exp(-1), rtol=0.3)
  np.testing.assert_allclose(trap, 1024 * np.log(2), rtol=0.3)
