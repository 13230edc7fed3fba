"""Edit similarity: how near a text is to another, by single characters."""

import numpy as np


def edit_distance(a: str, b: str) -> int:
  """Counts the fewest characters to insert, delete or replace (Levenshtein)."""
  b_codes = np.array([ord(c) for c in b], np.int64)
  columns = np.arange(len(b) + 1)
  row = columns
  for i, c in enumerate(a, 1):
    # What comes from above; then from the left, which costs 1 a column.
    best = np.minimum(row[1:] + 1, row[:-1] + (b_codes != ord(c)))
    best = np.concatenate([[i], best])
    row = np.minimum.accumulate(best - columns) + columns
  return int(row[-1])


def edit_similarity(a: str, b: str) -> float:
  """Computes 1 - edit distance / length of the longer text, in [0, 1].

  It is 1 for equal texts alone, two empty ones among them.
  """
  longer = max(len(a), len(b))
  return 1 - edit_distance(a, b) / longer if longer else 1.0
