import functools

import hypothesis
import pytest
from hypothesis import strategies

from flexmdm_jax.metrics.edit_similarity import edit_distance, edit_similarity


@pytest.mark.parametrize(
  ("a", "b", "distance"),
  [
    ("", "", 0),
    ("", "abc", 3),
    ("kitten", "sitting", 3),
    ("abc", "abc", 0),
    ("ab", "ba", 2),
  ],
)
def test_small_distances(a, b, distance):
  assert edit_distance(a, b) == edit_distance(b, a) == distance


@hypothesis.given(
  strategies.text("ab\n", max_size=7), strategies.text("ab\n", max_size=7)
)
def test_it_is_levenshteins(a, b):
  @functools.cache
  def distance(i, j):
    if not i or not j:
      return i + j
    return min(
      distance(i - 1, j) + 1,
      distance(i, j - 1) + 1,
      distance(i - 1, j - 1) + (a[i - 1] != b[j - 1]),
    )

  assert edit_distance(a, b) == distance(len(a), len(b))


def test_similarity_is_a_share_of_the_longer_text():
  assert edit_similarity("", "") == 1
  assert edit_similarity("", "a") == 0
  assert edit_similarity("abcd", "abce") == 0.75
