"""Mixtures: records of several sources, drawn by their weights.

Which source the n-th record of a run is from, and which of its records it is,
depends on n, the weights and the seed alone: not on processes, batches or
threads. So every process finds the same order, and a resumed run goes on in it.

Weights are shares of the records. The sources take turns in a pattern that
repeats: the k-th record of a source with share w stands where (k + 1/2) / w
falls among the others'. Of the first n records w n are the source's, to within
1/2 + (K - 2) w / 2 of K sources: half a record for two, and at the end of each
pattern exactly.
"""

import fractions
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int

from flexmdm_jax.errors import InputError

_LONGEST_PATTERN = 1_000_000


def parse_weights(
  weights: Mapping[str, float], setting: str = "data.mixture"
) -> dict[str, int]:
  """Converts weights to whole numbers without a common divisor.

  Args:
    weights: weights by name of the source; decimal fractions, of any sum.
    setting: name of the sources in an error.

  Returns:
    Number of records of each source in a pattern; sources of weight 0 are left
    out.

  Raises:
    InputError: a weight is negative or no number, all are 0, or the pattern
      would be longer than a million records.
  """
  exact = {}
  for name in sorted(weights):
    try:
      exact[name] = fractions.Fraction(str(weights[name]))
    except ValueError:
      exact[name] = fractions.Fraction(-1)
    if exact[name] < 0:
      raise InputError(
        f"{setting}.{name}.weight={weights[name]!r} must be a number of at"
        " least 0."
      )
  exact = {name: weight for name, weight in exact.items() if weight}
  if not exact:
    raise InputError(
      f"the weights of {setting} ({', '.join(sorted(weights))}) are all 0:"
      " give one source a weight above 0."
    )
  whole = math.lcm(*(weight.denominator for weight in exact.values()))
  counts = {name: int(weight * whole) for name, weight in exact.items()}
  divisor = math.gcd(*counts.values())
  counts = {name: count // divisor for name, count in counts.items()}
  if sum(counts.values()) > _LONGEST_PATTERN:
    raise InputError(
      f"the weights of {setting} ("
      + ", ".join(f"{name}.weight={weights[name]}" for name in counts)
      + ") have too many digits: give whole numbers, or up to four decimals."
    )
  return counts


class Mixture(Sequence):
  """Sequence of the records of all sources, one source after the other.

  Attributes:
    names: names of the sources, sorted.
    lengths: int32[N], the number of tokens of each record.
  """

  def __init__(
    self, sources: Mapping[str, Sequence[Any]], counts: Mapping[str, int]
  ):
    """Joins sources.

    Args:
      sources: records by name; none is empty, each has `lengths`.
      counts: output of `parse_weights`, with the same names.
    """
    self.names = tuple(sorted(sources))
    self._sources = [sources[name] for name in self.names]
    self._counts = [counts[name] for name in self.names]
    self._sizes = [len(source) for source in self._sources]
    self._begins = np.cumsum([0, *self._sizes])
    self.lengths = np.concatenate([source.lengths for source in self._sources])
    # Equal fractions are equal floats, and others differ by more than 1e-12.
    when = np.concatenate(
      [(np.arange(count) + 0.5) / count for count in self._counts]
    )
    whose = np.repeat(np.arange(len(self._counts)), self._counts)
    self._pattern = whose[np.lexsort((whose, when))]

  def __len__(self) -> int:
    return int(self._begins[-1])

  def __getitem__(self, index: int) -> Any:
    index = range(len(self))[index]
    i = int(np.searchsorted(self._begins, index, side="right")) - 1
    return self._sources[i][index - int(self._begins[i])]

  def epoch(self, seed: int, epoch: int) -> Int[np.ndarray, " N"]:
    """Draws the indices of the records of epoch `epoch`, in order.

    An epoch is as many records as there are. A source with more than its share
    of them takes several epochs to be seen, one with less is seen several
    times in one: each goes through its records in an order of its own, another
    one every time.
    """
    first = epoch * len(self)
    period = len(self._pattern)
    places = (np.arange(len(self)) + first % period) % period
    whose = self._pattern[places]
    rows = np.empty(len(self), np.int64)
    for i, begin in enumerate(self._begins[:-1]):
      mine = np.flatnonzero(whose == i)
      start = self._drawn(i, first)
      rows[mine] = begin + self._draw(seed, i, start, start + len(mine))
    return rows

  def _drawn(self, i: int, n: int) -> int:
    """Number of records from source i among the first n of the mixture."""
    patterns, rest = divmod(n, len(self._pattern))
    part = int(np.count_nonzero(self._pattern[:rest] == i))
    return patterns * self._counts[i] + part

  def _draw(self, seed: int, i: int, start: int, stop: int) -> np.ndarray:
    """Draws `start` to `stop` of source i, through its epochs."""
    size = self._sizes[i]
    epochs = range(start // size, -(-stop // size))
    # The last word is not 0: NumPy takes [a, b] and [a, b, 0] for one seed.
    orders = [
      np.random.default_rng([seed, epoch, 1 + i]).permutation(size)
      for epoch in epochs
    ]
    if not orders:
      return np.empty(0, np.int64)
    return np.concatenate(orders)[start - epochs[0] * size :][: stop - start]

  def balanced(self) -> "Chosen":
    """Takes as many records as there are by weight, none twice.

    It is for evaluation. The sources follow each other, each with records
    spread evenly over it, so that records taken at even distances are by weight
    too.
    """
    pairs = list(zip(self._sizes, self._counts, strict=True))
    size, count = min(pairs, key=lambda pair: fractions.Fraction(*pair))
    rows = []
    for begin, (n, share) in zip(self._begins[:-1], pairs, strict=True):
      taken = max(1, size * share // count)
      rows.append(begin + np.arange(taken) * n // taken)
    return Chosen(self, np.concatenate(rows))


class Chosen(Sequence):
  """Sequence of some records of another sequence.

  Attributes:
    lengths: int32[n], the number of tokens of each record.
  """

  def __init__(self, records: Sequence[Any], rows: Int[np.ndarray, " n"]):
    self._records, self._rows = records, rows
    self.lengths = records.lengths[rows]

  def __len__(self) -> int:
    return len(self._rows)

  def __getitem__(self, index: int) -> Any:
    return self._records[int(self._rows[index])]
