import math

import pytest

from flexmdm_jax.errors import InputError
from flexmdm_jax.metrics.diversity import distinct_n, unigram_entropy


def test_unigram_entropy_by_hand():
  # Uniform over four; one token; laws 1/4 and 3/4.
  assert unigram_entropy([[3, 1, 0, 2]]) == pytest.approx(math.log(4))
  assert unigram_entropy([[7, 7, 7]]) == 0
  third = -(0.25 * math.log(0.25) + 0.75 * math.log(0.75))
  assert unigram_entropy([[5, 5, 9, 5]]) == pytest.approx(third)


def test_unigram_entropy_is_the_mean_of_each_sequences_own():
  # Not the entropy of all tokens together, which here would be log 2.
  assert unigram_entropy([[0, 0], [1, 1]]) == 0
  both = unigram_entropy([[0, 1], [2] * 50])
  assert both == pytest.approx(math.log(2) / 2)


def test_empty_sequences_are_left_out():
  assert unigram_entropy([[], [0, 1]]) == pytest.approx(math.log(2))
  assert unigram_entropy([[]]) == unigram_entropy([]) == 0


def test_distinct_n_by_hand():
  sequences = [[1, 2, 1, 2], [2, 1], []]
  assert distinct_n(sequences, 1) == 2 / 6
  # 12, 21, 12 and 21: nothing spans the two sequences.
  assert distinct_n(sequences, 2) == 2 / 4
  assert distinct_n(sequences, 3) == 2 / 2
  assert distinct_n(sequences, 5) == 0
  with pytest.raises(InputError, match="n >= 1, got 0"):
    distinct_n(sequences, 0)
