"""Length laws and their distances, worked by hand."""

import json

import numpy as np
import pytest
import scipy.stats

from flexmdm_jax.errors import InputError
from flexmdm_jax.metrics import lengths


def test_length_law_and_distances_by_hand():
  np.testing.assert_allclose(
    lengths.length_law([0, 2, 2, 3], 3), [0.25, 0, 0.5, 0.25]
  )
  # Laws (0, 1/2, 1/2, 0) and (0, 1/4, 1/4, 1/2); cumulative (0, 1/2, 1, 1)
  # and (0, 1/4, 1/2, 1), which differ by (0, 1/4, 1/2, 0).
  assert lengths.length_distances([1, 1, 2, 2], [1, 2, 3, 3], 3) == {
    "tv": 0.5,
    "wasserstein_1": 0.75,
    "ks": 0.5,
  }


def test_a_shift_is_seen_by_wasserstein_alone():
  near, far = ([5] * 4, [6] * 4), ([5] * 4, [9] * 4)
  assert lengths.length_distances(*near, 9) == {
    "tv": 1.0,
    "wasserstein_1": 1.0,
    "ks": 1.0,
  }
  assert lengths.wasserstein_1(*far, 9) == 4.0


def test_distances_are_scipys():
  rng = np.random.default_rng(0)
  a, b = rng.poisson(9, 60), rng.poisson(11, 45)
  distances = lengths.length_distances(a, b, 40)
  assert distances["ks"] == pytest.approx(scipy.stats.ks_2samp(a, b).statistic)
  assert distances["wasserstein_1"] == pytest.approx(
    scipy.stats.wasserstein_distance(a, b)
  )


def test_floor_by_hand():
  # {1, 2} divided into two sets of one: always 1 apart.
  result = lengths.length_floor([1], [2], 2, shuffles=20)
  ones = {"tv": 1.0, "wasserstein_1": 1.0, "ks": 1.0}
  assert result == {"floor": ones, "p_value": ones}
  # Divisions of {1, 1, 2, 2} into pairs: 1/3 are {1, 1} and {2, 2}, at
  # distance 1; 2/3 are {1, 2} twice, at 0.
  result = lengths.length_floor([1, 1], [2, 2], 2, shuffles=3000)
  for name in lengths.DISTANCES:
    assert result["floor"][name] == pytest.approx(1 / 3, abs=0.035)  # 4 sigma
    assert result["p_value"][name] == pytest.approx(1 / 3, abs=0.035)


def test_p_values_of_one_law_are_uniform_and_of_two_are_small():
  rng = np.random.default_rng(0)

  def p_values(mean):
    sets = rng.poisson(20, 60), rng.poisson(mean, 60)
    return list(
      lengths.length_floor(*sets, 80, shuffles=49)["p_value"].values()
    )

  same = np.array([p_values(20) for _ in range(200)])
  # A binomial share of 200 at 0.2, 4 standard deviations up; below, ties make
  # the test careful, not blind.
  assert np.all(np.mean(same <= 0.2, axis=0) < 0.2 + 4 * 0.028)
  assert np.all(np.mean(same <= 0.2, axis=0) > 0.05)
  assert max(p_values(28)) == 1 / 50


def test_report_is_json_and_has_the_means():
  report = lengths.length_report([1, 2], [2, 4], 4)
  assert json.loads(json.dumps(report)) == report
  assert report["mean_length"] == 1.5
  assert report["mean_length_data"] == 3.0
  assert report["length_wasserstein_1"] == 1.5
  assert report["length_floor"].keys() == lengths.DISTANCES.keys()


def test_bad_lengths_are_refused():
  with pytest.raises(InputError, match="at least one"):
    lengths.length_law([], 3)
  with pytest.raises(InputError, match=r"not all in \[0, 3\]"):
    lengths.length_distances([1], [4], 3)
  with pytest.raises(InputError, match="shuffles=0"):
    lengths.length_floor([1], [2], 3, shuffles=0)
