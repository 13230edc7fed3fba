"""The law of pairs of adjacent tokens: does a sample hang together locally?"""

from collections.abc import Sequence

import numpy as np

from flexmdm_jax.errors import InputError

# A law of 8 bytes an entry is then at most 128 MiB.
_MAX_IDS = 4095


def bigram_law(sequences: Sequence[Sequence[int]], num_ids: int) -> np.ndarray:
  """Computes the share of each pair of adjacent tokens, of all sequences.

  The beginning and the end count as tokens, so that an empty sequence has one
  pair, and one of n tokens n + 1.

  Args:
    sequences: of N sequences, the token ids.
    num_ids: V, the ids are in [0, V); a small number, as the law is dense.

  Returns:
    f64[V+1, V+1], summing to 1: the pair's first token, and its second. The
    last row is the beginning, the last column the end.

  Raises:
    InputError: no sequences, an id out of range, or V > 4,095.
  """
  if not len(sequences):
    raise InputError("a law of bigrams needs at least one sequence, got none.")
  if not 1 <= num_ids <= _MAX_IDS:
    raise InputError(f"num_ids={num_ids} must be in [1, {_MAX_IDS}].")
  border = np.array([num_ids])
  parts = [border]
  for sequence in sequences:
    parts += [np.asarray(sequence, int), border]
  tokens = np.concatenate(parts)
  inside = (tokens >= 0) & (tokens <= num_ids)
  if not inside.all() or np.sum(tokens == num_ids) != len(sequences) + 1:
    raise InputError(f"ids must be in [0, {num_ids}).")
  pairs = tokens[:-1] * (num_ids + 1) + tokens[1:]
  counts = np.bincount(pairs, minlength=(num_ids + 1) ** 2)
  return counts.reshape(num_ids + 1, num_ids + 1) / len(pairs)


def bigram_total_variation(
  a: Sequence[Sequence[int]], b: Sequence[Sequence[int]], num_ids: int
) -> float:
  """Total variation between the bigrams of two sets of sequences, in [0, 1].

  See `bigram_law` for the arguments and the errors.
  """
  law_a, law_b = bigram_law(a, num_ids), bigram_law(b, num_ids)
  return float(0.5 * np.abs(law_a - law_b).sum())
