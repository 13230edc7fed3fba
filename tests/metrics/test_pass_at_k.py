import itertools

import numpy as np
import pytest

from flexmdm_jax.errors import InputError
from flexmdm_jax.metrics.pass_at_k import mean_and_stderr, pass_at_k


@pytest.mark.parametrize(("n", "c"), [(1, 0), (1, 1), (5, 0), (5, 2), (6, 5)])
def test_it_is_the_share_of_sets_that_hold_a_pass(n, c):
  passed = [i < c for i in range(n)]
  for k in range(1, n + 1):
    sets = [any(chosen) for chosen in itertools.combinations(passed, k)]
    assert pass_at_k(n, c, k) == pytest.approx(np.mean(sets), abs=1e-12)


def test_large_numbers_stay_exact():
  assert pass_at_k(1000, 0, 100) == 0
  assert pass_at_k(1000, 1, 100) == pytest.approx(0.1, abs=1e-12)
  assert pass_at_k(1000, 1000, 1) == 1


@pytest.mark.parametrize("wrong", [(2, 3, 1), (2, -1, 1), (2, 1, 3), (2, 1, 0)])
def test_impossible_numbers_are_refused(wrong):
  with pytest.raises(InputError, match=r"must be in \["):
    pass_at_k(*wrong)


def test_the_error_is_over_rows():
  assert mean_and_stderr([0.5]) == (0.5, None)
  mean, error = mean_and_stderr([0, 1, 1, 0])
  assert mean == 0.5
  assert error == pytest.approx(np.sqrt(1 / 3) / 2)
