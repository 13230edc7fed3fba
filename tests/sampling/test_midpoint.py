"""Two calls a step: the second order, and where the hazard is infinite."""

import jax
import numpy as np
import pytest

import flexmdm_jax as fm
from flexmdm_jax.schedules import Linear, Power
from tests import laws
from tests.laws import VOCAB, L, quick_jit

POWER = fm.JointInterpolant(Power(1.7), Power(2.89))
LAW = laws.Law(
  {
    "": 0.1,
    "0": 0.1,
    "1": 0.1,
    "01": 0.15,
    "010": 0.15,
    "110": 0.1,
    "0110": 0.2,
    "1001": 0.1,
  }
)

quick_sample = quick_jit(fm.sample, static_argnums=(3, 4, 5))


def draw(law, num, path=POWER, start=None, gap_law=True, **config):
  denoiser = law.denoiser(path.insertion, gap_law, one_time=False)
  start = fm.empty_start(num, L, VOCAB) if start is None else start
  config = fm.SamplerConfig(**config)
  key = jax.random.key(0)
  return quick_sample(key, denoiser, start, path, VOCAB, config)


@pytest.mark.slow
def test_order():
  # Sequences that cannot be are an error that has no floor.
  calls, num = np.array([16, 32, 64]), 50_000
  wrong = [
    LAW.wrong(draw(LAW, num, method="midpoint", steps=n))
    for n in calls.tolist()
  ]
  slope = np.polyfit(np.log2(calls), np.log2(wrong), 1)[0]
  # About 150 are wrong at 64 calls: the slope is known to .06.
  assert slope < -1.6


@pytest.mark.slow
def test_closer_than_one_call_a_step():
  num = 20_000
  samples = draw(LAW, num, method="midpoint", steps=16)
  assert LAW.tv(samples) < 0.065
  assert samples.calls.max() <= 16
  assert 8 < samples.calls.mean() < 16
  assert not (samples.tokens == VOCAB.mask).any()
  assert samples.truncated.mean() < 1e-3


@pytest.mark.slow
def test_what_is_missing_may_come_before_the_last_step():
  # The hazard is infinite in the step that ends at the turn.
  num, law = 4000, laws.PAPER
  path = fm.lengths_first(0.5)
  samples = draw(law, num, path, method="midpoint", steps=32)
  assert law.tv(samples) < 0.1
  error = np.std(samples.length) / num**0.5
  assert abs(np.mean(samples.length) - law.mean_length()) < 0.1 + 4 * error
  assert not samples.truncated.any()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["rounded", "poisson"])
def test_numbers_of_the_last_step(kind):
  samples = draw(LAW, 10_000, method="midpoint", steps=32, insertions=kind)
  assert LAW.tv(samples) < 0.04


@pytest.mark.slow
def test_fixed_length():
  start, law = fm.mask_start(10_000, L, VOCAB), laws.FIXED
  path = fm.MDM(Linear())
  samples = draw(law, None, path, start, method="midpoint", steps=64)
  assert law.tv(samples) < 0.03
  assert (samples.length == L).all()
