"""Sampling by events: exact where it can be, in as few calls as it may."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flexmdm_jax as fm
from flexmdm_jax.sampling.draws import ORDERS
from flexmdm_jax.schedules import Linear, Power
from tests import laws
from tests.laws import VOCAB, L, quick_jit
from tests.stats import chi_square

NUM = 20_000
EMPTY = fm.empty_start(NUM, L, VOCAB)
LENGTHS_FIRST = fm.lengths_first()
POWER = fm.JointInterpolant(Power(1.7), Power(2.89))

quick_sample = quick_jit(fm.sample, static_argnums=(3, 4, 5))


def draw(law, config, path=LENGTHS_FIRST, start=EMPTY, gap_law=True):
  denoiser = law.denoiser(path.insertion, gap_law, one_time=False)
  key = jax.random.key(0)
  return quick_sample(key, denoiser, start, path, VOCAB, config)


def is_exact(law, samples):
  """No impossible sample, and the others in proportion."""
  assert law.tv(samples) < 2 * law.floor(NUM)
  assert law.p_value(samples) > 1e-3
  lengths = {len(x) for x in law.outcomes}
  assert set(np.unique(samples.length)) == lengths
  assert not samples.truncated.any()


# One call for the length, and one for each token.
ENOUGH = L + 2


@pytest.mark.parametrize("name", ["PAPER", "THREE", "FULL"])
def test_short_laws_exactly_in_a_call_a_token_and_one(name):
  law = getattr(laws, name)
  samples = draw(law, fm.SamplerConfig(ENOUGH))
  is_exact(law, samples)
  np.testing.assert_array_equal(samples.calls, samples.length + 1)


@pytest.mark.parametrize(
  "order",
  [
    "margin",
    *(
      pytest.param(order, marks=pytest.mark.slow)
      for order in ORDERS
      if order not in ("spread", "margin")
    ),
  ],
)
def test_any_order(order):
  law = laws.THREE
  samples = draw(law, fm.SamplerConfig(ENOUGH, confidence=order))
  is_exact(law, samples)
  np.testing.assert_array_equal(samples.calls, samples.length + 1)


def test_what_is_certain_is_revealed_at_once():
  law = laws.THREE
  config = fm.SamplerConfig(ENOUGH, confidence="entropy", entropy_budget=1e-3)
  samples = draw(law, config)
  is_exact(law, samples)
  # Lengths 0, 1 and 3 tell all; of the two of length 4 one token does.
  length = np.asarray(samples.length)
  wanted = np.where(length == 4, 3, np.where(length == 0, 1, 2))
  np.testing.assert_array_equal(samples.calls, wanted)


@pytest.mark.slow
def test_groups_and_few_steps_save_calls():
  law = laws.THREE
  three = draw(law, fm.SamplerConfig(ENOUGH, group=3))
  most = 1 + -(-np.asarray(three.length) // 3)
  assert (three.calls <= most).all()
  few = draw(law, fm.SamplerConfig(3))
  assert few.calls.max() == 3
  for samples in (three, few):
    assert not (samples.tokens == VOCAB.mask).any()
    # Tokens that are drawn together do not see each other; lengths are exact.
    assert law.tv(samples) < 0.5
    assert chi_square(samples.length, law.length_law()) > 1e-3


@pytest.mark.slow
def test_tokens_that_come_and_clear_up_together():
  law = laws.THREE
  samples = draw(law, fm.SamplerConfig(32), POWER)
  assert law.tv(samples) < 0.02
  assert 2 < samples.calls.mean() < 24
  assert samples.calls.max() <= 32


@pytest.mark.slow
def test_a_head_of_means():
  law = laws.THREE
  samples = draw(law, fm.SamplerConfig(32), POWER, gap_law=False)
  assert samples.calls.max() <= 32
  mean = np.mean(samples.length)
  wanted = law.mean_length()
  assert abs(mean - wanted) < 0.05 * wanted
  assert law.tv(samples) < 0.1


def test_fixed_length():
  law = laws.FIXED
  start, path = fm.mask_start(NUM, L, VOCAB), fm.MDM(Linear())
  samples = draw(law, fm.SamplerConfig(ENOUGH), path, start)
  is_exact(law, samples)
  np.testing.assert_array_equal(samples.calls, L)


def test_no_call_when_all_rows_are_done():
  calls = []

  def denoiser(tokens, length, t):
    jax.debug.callback(lambda t: calls.append(np.array(t)), t)
    return fm.Prediction(
      jnp.zeros((*tokens.shape, VOCAB.size)),
      jnp.full((tokens.shape[0], tokens.shape[1] + 1), -jnp.inf),
    )

  start = jax.tree.map(
    lambda *rows: jnp.concatenate(rows),
    fm.mask_start(1, 4, VOCAB),
    fm.mask_start(1, 4, VOCAB)._replace(
      tokens=jnp.array([[0, VOCAB.mask, VOCAB.pad, VOCAB.pad]]),
      length=jnp.array([2]),
    ),
    fm.prompt_start([[0]], 4, VOCAB)._replace(
      open_gaps=jnp.zeros((1, 5), bool)
    ),
  )
  samples = fm.sample(
    jax.random.key(0), denoiser, start, POWER, VOCAB, fm.SamplerConfig(30)
  )
  jax.block_until_ready(samples)
  jax.effects_barrier()
  np.testing.assert_array_equal(samples.calls, [4, 1, 0])
  assert len(calls) == 4
  assert not (samples.tokens == VOCAB.mask).any()
