"""Times and weights integrate without bias, and with less variance near 1."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flexmdm_jax import times

every_exponent = pytest.mark.parametrize("exponent", [1.0, 2.0, 3.0])

# Functions on [0, 1] with their integrals.
FUNCTIONS = [
  (lambda t: jnp.ones_like(t), 1.0),
  (lambda t: t**2, 1 / 3),
  (lambda t: jnp.cos(math.pi / 2 * t), 2 / math.pi),
  (lambda t: (1 - t) ** -0.25, 4 / 3),
  # The mean of the unmasking term of one token, with linear schedules.
  (lambda t: -jnp.log1p(-t), 1.0),
]


def midpoints(n):
  return (jnp.arange(n, dtype=jnp.float32) + 0.5) / n


@every_exponent
@pytest.mark.parametrize(("function", "integral"), FUNCTIONS)
def test_weighted_mean_is_the_integral(function, integral, exponent):
  t, weight = times.importance_times(midpoints(20_000), exponent)
  assert float(jnp.mean(weight * function(t))) == pytest.approx(
    integral, rel=1e-3
  )


@every_exponent
def test_times_stay_below_1(exponent):
  t, weight = times.importance_times(jnp.array([0.0, 1 - 2.0**-24]), exponent)
  assert t[0] == 0.0 and t[1] < 1.0
  assert (weight > 0).all()


def test_by_hand():
  # At u = 3/4, t = 1 - 1/16 and dt/du = 2/4.
  assert times.importance_times(jnp.float32(0.75), 2.0) == (0.9375, 0.5)


def test_one_time_in_each_stratum():
  t, weight = times.stratified_times(jax.random.key(0), 64, 2.0)
  u = 1 - np.sqrt(1 - np.asarray(t, np.float64))
  np.testing.assert_array_equal(np.floor(64 * u), np.arange(64))
  np.testing.assert_allclose(weight, 2 * (1 - u), atol=1e-5)


def test_stratified_estimates_are_unbiased_and_less_variable():
  # Each estimate is a mean of 8 terms; `plain` takes its times anywhere.
  keys = jax.random.split(jax.random.key(1), 4_000)
  plain = times.importance_times(jax.random.uniform(keys[0], (4_000, 8)))
  stratified = jax.vmap(lambda key: times.stratified_times(key, 8))(keys)
  estimates = {
    name: np.mean(weight * np.square(t), axis=1)
    for name, (t, weight) in (("plain", plain), ("strata", stratified))
  }
  for values in estimates.values():
    error = np.std(values) / np.sqrt(len(values))
    assert abs(values.mean() - 1 / 3) < 4 * error
  assert estimates["strata"].var() < estimates["plain"].var() / 10


def test_exponent_2_makes_the_second_moment_finite():
  """One token's unmasking term is 1 / (1 - t) where it is a mask.

  It is one with probability -(1-t) log(1-t), so that its second moment,
  weighted, is the mean of `-weight^2 log(1-t) / (1-t)`: at exponent 2 that is
  the integral of -8 log(1-u), 8; at exponent 1 it grows with every finer grid.
  """

  def second_moment(n, exponent):
    t, weight = times.importance_times(midpoints(n), exponent)
    return float(jnp.mean(weight**2 * -jnp.log1p(-t) / (1 - t)))

  assert second_moment(2_000, 2.0) == pytest.approx(8, rel=1e-2)
  assert second_moment(200, 1.0) > 2 * 8
  assert second_moment(20_000, 1.0) > 2 * second_moment(200, 1.0)


def test_each_piece_between_breaks_has_its_own_end():
  breaks = (0.25, 0.5)
  t, weight = times.importance_times(midpoints(3000), breaks=breaks)
  # As many times in each piece, and the mean of a function unchanged.
  assert np.histogram(t, [0, *breaks, 1])[0].tolist() == [1000] * 3
  assert float(jnp.mean(weight * t**2)) == pytest.approx(1 / 3, rel=1e-4)
  # Denser towards each end: half of a piece's times lie in its last quarter.
  assert (np.asarray(t[:1000]) > 0.75 * 0.25).mean() == pytest.approx(0.5)
