"""The law of lengths: does the model know how long a sequence should be?"""

from collections.abc import Callable, Sequence

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


def wasserstein_1(a: Sequence[int], b: Sequence[int], max_length: int) -> float:
  """Wasserstein-1 distance between the laws of two sets of lengths, in tokens.

  The mean number of tokens by which the lengths of one set must change to
  become those of the other, at best: the area between the cumulative laws.
  """
  law_a, law_b = length_law(a, max_length), length_law(b, max_length)
  return float(np.abs(np.cumsum(law_a - law_b)).sum())


def kolmogorov_smirnov(
  a: Sequence[int], b: Sequence[int], max_length: int
) -> float:
  """Largest distance between the cumulative laws of the lengths, in [0, 1]."""
  law_a, law_b = length_law(a, max_length), length_law(b, max_length)
  return float(np.abs(np.cumsum(law_a - law_b)).max())


DISTANCES: dict[str, Callable[[Sequence[int], Sequence[int], int], float]] = {
  "tv": total_variation,
  "wasserstein_1": wasserstein_1,
  "ks": kolmogorov_smirnov,
}


def length_distances(
  a: Sequence[int], b: Sequence[int], max_length: int
) -> dict[str, float]:
  """Every distance of `DISTANCES` between the laws of two sets of lengths.

  Args:
    a: lengths of N sequences, in tokens.
    b: lengths of M sequences, in tokens.
    max_length: the longest there can be.

  Returns:
    tv and ks in [0, 1], wasserstein_1 in tokens.

  Raises:
    InputError: a set is empty, or a length out of range.
  """
  return {name: f(a, b, max_length) for name, f in DISTANCES.items()}


def length_floor(
  a: Sequence[int],
  b: Sequence[int],
  max_length: int,
  *,
  shuffles: int = 200,
  seed: int = 0,
) -> dict[str, dict[str, float]]:
  """What two sets of these sizes differ by if one law made both.

  No finite set of samples is at distance 0 of the data, and the total variation
  of a few hundred lengths is large even for a perfect model. The two sets are
  pooled and divided at random into sets of their sizes again and again: the
  mean distance of the divisions is the floor that a distance is to be read
  against, and the share of them at least as far apart as `a` and `b` is the
  p-value of the permutation test. A resampling of the data alone would
  repeat its lengths and so put the floor of the total variation too low.

  Args:
    a: lengths of N sequences, in tokens.
    b: lengths of M sequences, in tokens.
    max_length: the longest there can be.
    shuffles: number of random divisions, >= 1.
    seed: of the divisions.

  Returns:
    "floor" and "p_value", each with the names of `DISTANCES`. A p-value is at
    least 1 / (shuffles + 1).

  Raises:
    InputError: a set is empty, a length out of range, or shuffles < 1.
  """
  if shuffles < 1:
    raise InputError(f"shuffles={shuffles} must be at least 1.")
  seen = length_distances(a, b, max_length)
  rng = np.random.default_rng(seed)
  pool = np.concatenate([np.asarray(a, int), np.asarray(b, int)])
  divided = []
  for _ in range(shuffles):
    rng.shuffle(pool)
    divided.append(length_distances(pool[: len(a)], pool[len(a) :], max_length))
  floor, p_value = {}, {}
  for name, distance in seen.items():
    values = np.array([distances[name] for distances in divided])
    floor[name] = float(values.mean())
    # Equal divisions may differ in the last bit.
    as_far = np.sum(values >= distance - 1e-9)
    p_value[name] = float((1 + as_far) / (1 + shuffles))
  return {"floor": floor, "p_value": p_value}


def length_report(
  made: Sequence[int], true: Sequence[int], max_length: int
) -> dict[str, float | dict[str, float]]:
  """The lengths of samples against those of the data, JSON-ready.

  Args:
    made: lengths of the samples, in tokens.
    true: lengths of held-out data, in tokens.
    max_length: the longest there can be.

  Returns:
    `length_tv`, `length_wasserstein_1` and `length_ks`; `length_floor` and
    `length_p_value`, as `length_floor` has them; the mean lengths.

  Raises:
    InputError: a set is empty, or a length out of range.
  """
  distances = length_distances(made, true, max_length)
  floor = length_floor(made, true, max_length)
  return {
    **{f"length_{name}": distance for name, distance in distances.items()},
    "length_floor": floor["floor"],
    "length_p_value": floor["p_value"],
    "mean_length": float(np.mean(made)),
    "mean_length_data": float(np.mean(true)),
  }
