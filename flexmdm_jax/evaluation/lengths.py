"""The law of lengths: does the model know how long a sequence should be?"""

from collections.abc import Sequence

import numpy as np

from flexmdm_jax.errors import InputError


def length_law(lengths: Sequence[int], max_length: int) -> np.ndarray:
  """Share of each length.

  Args:
    lengths: of N sequences.
    max_length: the longest there can be.

  Returns:
    f64[max_length + 1], summing to 1.

  Raises:
    InputError: no lengths, or one out of range.
  """
  lengths = np.asarray(lengths, int)
  if lengths.size == 0:
    raise InputError("a length law needs at least one sequence, got none.")
  if lengths.min() < 0 or lengths.max() > max_length:
    raise InputError(
      f"lengths from {lengths.min()} to {lengths.max()} are not all in"
      f" [0, {max_length}]."
    )
  return np.bincount(lengths, minlength=max_length + 1) / lengths.size


def total_variation(
  a: Sequence[int], b: Sequence[int], max_length: int
) -> float:
  """Total variation between the laws of two sets of lengths, in [0, 1]."""
  law_a, law_b = length_law(a, max_length), length_law(b, max_length)
  return float(0.5 * np.abs(law_a - law_b).sum())
