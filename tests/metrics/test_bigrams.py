"""The law of pairs of adjacent tokens, worked by hand."""

import numpy as np
import pytest

from flexmdm_jax.errors import InputError
from flexmdm_jax.metrics.bigrams import bigram_law, bigram_total_variation


def test_bigram_law_by_hand():
  # begin 0, 0 1, 1 end; begin end.
  law = bigram_law([[0, 1], []], 2)
  expected = np.zeros((3, 3))
  expected[[2, 0, 1, 2], [0, 1, 2, 2]] = 0.25
  np.testing.assert_array_equal(law, expected)


def test_no_pair_spans_two_sequences():
  assert bigram_law([[0], [1]], 2)[0, 1] == 0


def test_total_variation_by_hand():
  assert bigram_total_variation([[0, 1]], [[0, 1]], 2) == 0
  # Of three pairs each, only the first is shared.
  assert bigram_total_variation([[0, 1]], [[0, 0]], 2) == pytest.approx(2 / 3)
  assert bigram_total_variation([[0]], [[1]], 2) == 1


@pytest.mark.parametrize(
  ("sequences", "num_ids", "says"),
  [
    ([], 2, "at least one"),
    ([[2]], 2, r"ids must be in \[0, 2\)"),
    ([[-1]], 2, r"ids must be in \[0, 2\)"),
    ([[0]], 5000, "num_ids=5000"),
  ],
)
def test_bad_input_is_refused(sequences, num_ids, says):
  with pytest.raises(InputError, match=says):
    bigram_law(sequences, num_ids)
