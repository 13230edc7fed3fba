"""How varied samples are: a model can lower its perplexity by repeating itself.

Both numbers depend on the lengths and on the number of sequences, so compare a
model with the data, or with another model, at equal numbers.
"""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from flexmdm_jax.errors import InputError


def unigram_entropy(sequences: Sequence[Sequence[int]]) -> float:
  """Mean over sequences of the entropy of each one's own tokens, in nats.

  A sequence's entropy is that of the law `count of a token / length` over the
  ids that it holds; it is at most log(length). It is taken over the model's own
  ids, without padding, as the sequences are sampled and not as a scorer
  tokenises them again. Empty sequences have no such law and are left out.

  This is the "sample entropy" of the masked diffusion line (arXiv 2406.07524
  and its public code), there of sequences of one fixed length; around 4.9 for
  OpenWebText at 1,024 tokens.

  Args:
    sequences: of N sequences, the token ids.

  Returns:
    nats; 0 if every sequence is empty.
  """
  entropies = []
  for sequence in sequences:
    if len(sequence):
      law = np.array(list(Counter(sequence).values())) / len(sequence)
      entropies.append(-np.sum(law * np.log(law)))
  return float(np.mean(entropies)) if entropies else 0.0


def distinct_n(sequences: Sequence[Sequence[int]], n: int) -> float:
  """Share of different n-grams among all n-grams of all sequences.

  Args:
    sequences: of N sequences, the token ids.
    n: tokens of an n-gram, >= 1; none spans two sequences.

  Returns:
    in (0, 1]; 0 if no sequence has n tokens.

  Raises:
    InputError: n < 1.

  Source: arXiv 1510.03055, "distinct-1" and "distinct-2".
  """
  if n < 1:
    raise InputError(f"distinct_n takes n >= 1, got {n}.")
  grams = [
    tuple(sequence[i : i + n])
    for sequence in sequences
    for i in range(len(sequence) - n + 1)
  ]
  return len(set(grams)) / len(grams) if grams else 0.0
