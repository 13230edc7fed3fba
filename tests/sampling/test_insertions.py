"""Numbers of missing tokens: their laws, and the slots that they fill."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

import flexmdm_jax as fm
from flexmdm_jax.gap_laws import Categorical
from flexmdm_jax.sampling import insertions
from tests.stats import chi_square

NUM = 20_000
# Of the counts 0 to 4; the mean is 1.3 and the variance 1.41.
LAW = np.array([0.3, 0.35, 0.15, 0.15, 0.05])
MEAN = LAW @ np.arange(5)
VARIANCE = LAW @ np.arange(5) ** 2 - MEAN**2


@functools.partial(jax.jit, static_argnums=1)
def draw_row(key, kind, log_gaps, law, probability):
  hazard = -jnp.log1p(-probability)
  return insertions.draw(key, kind, log_gaps, law, probability, hazard)


def draw(kind, mean, probability, law=None):
  log_gaps = jnp.full(NUM, np.log(mean), jnp.float32)
  if law is not None:
    logits = jnp.log(jnp.asarray(law, jnp.float32))
    law = Categorical(jnp.broadcast_to(logits, (NUM, len(law))))
  key = jax.random.key(0)
  return np.asarray(
    draw_row(key, kind, log_gaps, law, jnp.float32(probability))
  )


def has_mean_and_variance(drawn, mean, variance):
  """Within 4 standard errors, of which those of the variance are estimated."""
  x = drawn - mean
  assert abs(x.mean()) < 4 * (variance / NUM) ** 0.5
  assert abs((x**2).mean() - variance) < 4 * (x**2).std() / NUM**0.5


P = 0.6
# Of a number with mean m and variance v, thinned: p m and p^2 v + p (1-p) m.
# The law of least variance around the mean 1.3 is 2 with probability 0.3.
MOMENTS = {
  "thinned": (P * MEAN, P**2 * VARIANCE + P * (1 - P) * MEAN),
  "rounded": (P * MEAN, P**2 * 0.3 * 0.7 + P * (1 - P) * MEAN),
  "poisson": (P * MEAN, P * MEAN),
  "published": (-np.log(1 - P) * MEAN,) * 2,
}


def test_all_kinds_are_tested():
  assert set(MOMENTS) == set(insertions.INSERTIONS)


@pytest.mark.parametrize("kind", MOMENTS)
def test_mean_and_variance(kind):
  law = LAW if kind == "thinned" else None
  has_mean_and_variance(draw(kind, MEAN, P, law), *MOMENTS[kind])


def test_thinned_has_the_thinned_law():
  n = np.arange(5)
  law = LAW @ scipy.stats.binom(n[:, None], P).pmf(n)
  assert chi_square(draw("thinned", MEAN, P, LAW), law) > 1e-3
  assert chi_square(draw("thinned", MEAN, 1.0, LAW), LAW) > 1e-3


@pytest.mark.parametrize("kind", ["poisson", "published"])
def test_poisson(kind):
  law = scipy.stats.poisson(MOMENTS[kind][0]).pmf(np.arange(30))
  assert chi_square(draw(kind, MEAN, P), law) > 1e-3


def test_rounded_takes_the_whole_numbers_beside_the_mean():
  for mean, law in ((2.25, [0, 0, 0.75, 0.25]), (3.0, [0, 0, 0, 1.0])):
    # The logarithm of a whole number may lose it by its last digit.
    drawn = draw("rounded", mean + 1e-6, 1.0)
    if mean == 3.0:
      assert (drawn == 3).mean() > 1 - 1e-3
    else:
      assert chi_square(drawn, law) > 1e-3
  assert not draw("rounded", 2.25, 0.0).any()


def test_insertions_of_a_mean_do_not_depend_on_what_is_beyond():
  some = jnp.array([0.0, 12.0, 40.0, jnp.inf])
  for kind in ("poisson", "rounded"):
    probability = jnp.float32(0.5)
    row = draw_row(jax.random.key(2), kind, jnp.log(some), None, probability)
    assert row[0] == 0
    beyond = jnp.append(jnp.full(30, 1.3), jnp.nan)
    whole = jnp.log(jnp.append(some, beyond))
    whole = draw_row(jax.random.key(2), kind, whole, None, probability)
    # Not even those that are drawn by rejection.
    np.testing.assert_array_equal(whole[:3], row[:3])
    assert kind == "rounded" or whole[3] == row[3] > 10**5


def test_choice():
  law = Categorical(jnp.zeros((1, 3)))
  assert insertions.choose(None, law) == "thinned"
  assert insertions.choose(None, None) == "rounded"
  for kind in insertions.INSERTIONS[1:]:
    assert insertions.choose(kind, law) == insertions.choose(kind, None) == kind
  with pytest.raises(fm.InputError, match=r"insertions='thinned'") as error:
    insertions.choose("thinned", None)
  assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize("method", ["events", "midpoint", "tau_leaping"])
def test_a_head_of_means_cannot_be_thinned(method):
  vocab = fm.Vocab(size=5, mask=3, pad=4)

  def denoiser(tokens, length, t):
    return fm.Prediction(jnp.zeros((1, 6, 5)), jnp.zeros((1, 7)))

  config = fm.SamplerConfig(4, method, insertions="thinned")
  path = fm.JointInterpolant(fm.schedules.Linear(), fm.schedules.Linear())
  start = fm.empty_start(1, 6, vocab)
  with pytest.raises(fm.InputError, match=r"SamplerConfig.insertions="):
    fm.sample(jax.random.key(0), denoiser, start, path, vocab, config)


@pytest.mark.parametrize(
  ("most", "there"), [(6, "xxxx--"), (4, "xxxx--"), (3, "xxx---"), (0, "-" * 6)]
)
def test_slots_by_hand(most, there):
  count = jnp.array([1, 0, 2, 1, 0])
  gap, marks = insertions.slots(count, 6, jnp.int32(most))
  np.testing.assert_array_equal(gap[:4], [0, 2, 2, 3])
  np.testing.assert_array_equal(marks, [c == "x" for c in there])


def test_no_missing_tokens_fill_no_slots():
  _, marks = insertions.slots(jnp.zeros(3, jnp.int32), 4, jnp.int32(4))
  assert not marks.any()


@pytest.mark.parametrize(
  ("most", "comes", "inserted", "full"),
  [
    (6, "x-x---", [1, 0, 1, 0], False),
    (6, "xxxx--", [1, 0, 2, 1], False),
    (4, "xxxx--", [1, 0, 2, 1], False),
    (3, "xxx---", [1, 0, 2, 0], True),
    (3, "x-x---", [1, 0, 1, 0], False),
    (0, "------", [0, 0, 0, 0], True),
  ],
)
def test_what_fills_the_room(most, comes, inserted, full):
  count, most = jnp.array([1, 0, 2, 1]), jnp.int32(most)
  gap, _ = insertions.slots(count, 6, most)
  comes = jnp.array([c == "x" for c in comes])
  number, cut = insertions.fill(count, gap, comes, most)
  np.testing.assert_array_equal(number, inserted)
  assert bool(cut) == full
