"""Where the steps of a grid end."""

import jax
import numpy as np
import pytest

import flexmdm_jax as fm
from flexmdm_jax.sampling import grids
from flexmdm_jax.schedules import Cosine, Linear, Power, Sine

LINEAR = fm.JointInterpolant(Linear(), Linear())
PATHS = {
  "linear": LINEAR,
  "power": fm.JointInterpolant(Power(1.7), Power(2.89)),
  "sine_cosine": fm.JointInterpolant(Sine(), Cosine()),
  "lengths_first": fm.lengths_first(),
  "fixed_length": fm.MDM(Linear()),
}
every_path = pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)


@every_path
@pytest.mark.parametrize("grid", grids.NAMES)
def test_from_begin_to_one_ascending(path, grid):
  for begin in (0.0, 0.5):
    for num_steps in (1, 7, 64):
      times = grids.times(grid, num_steps, path, begin, 1.5)
      assert times.shape == (num_steps + 1,)
      assert times.dtype == np.float32
      assert (times[0], times[-1]) == (begin, 1.0)
      assert (np.diff(times) > 0).all()


def test_even_times_and_their_exponent():
  even = grids.times("time", 4, LINEAR)
  np.testing.assert_allclose(even, [0, 0.25, 0.5, 0.75, 1])
  late = grids.times("time", 4, LINEAR, exponent=2.0)
  np.testing.assert_allclose(late, [0, 7 / 16, 12 / 16, 15 / 16, 1])


def test_own_times():
  own = (0.0, 0.2, 1.0)
  np.testing.assert_allclose(grids.times(own, 2, LINEAR), own)
  np.testing.assert_allclose(grids.times(own, 2, LINEAR, 0.5), [0.5, 0.6, 1])
  with pytest.raises(fm.InputError, match=r"grid has 3 times.*give 5 times"):
    grids.times(own, 4, LINEAR)


@every_path
def test_share_of_events_is_that_of_drawn_times(path):
  num = 20_000
  drawn = np.stack(fm.draw_times(jax.random.key(0), path, num))
  t = np.linspace(0.0, 1.0, 4097)
  share = grids.event_share(path, t)
  assert share[-1] == 1
  assert (np.diff(share) >= 0).all()
  # Kolmogorov and Smirnov's distance of 2 num times, pairwise dependent.
  seen = np.searchsorted(np.sort(drawn.ravel()), t, side="right") / drawn.size
  assert np.abs(seen - share).max() < 1.95 / num**0.5 + 1e-3


def test_share_of_events_by_hand():
  # Both linear: present by t; clean by t + (1 - t) log(1 - t).
  t = np.linspace(0.0, 1.0, 4097)
  rest = np.where(t < 1, (1 - t) * np.log1p(-np.minimum(t, 1 - 1e-9)), 0.0)
  np.testing.assert_allclose(
    grids.event_share(LINEAR, t), t + rest / 2, atol=3e-4
  )


@every_path
def test_each_step_has_an_equal_share_of_the_events(path):
  num, num_steps = 20_000, 5
  drawn = np.stack(fm.draw_times(jax.random.key(1), path, num))
  share = grids.event_share(path, np.array([0.0, 1.0]))[0]
  times = grids.times("events", num_steps, path)
  # What happens at 0 happens before all steps.
  later = drawn[drawn > 0]
  np.testing.assert_allclose(later.size / drawn.size, 1 - share, atol=0.02)
  counts, _ = np.histogram(later, times)
  # Events come in pairs: twice the variance of a multinomial count, at most.
  sigma = np.sqrt(2 * later.size / num_steps)
  assert (np.abs(counts - later.size / num_steps) < 5 * sigma).all()
