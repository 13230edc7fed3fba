"""Layouts of plans: FlexMDM's anchors, and its two fixed-length baselines.

Source: arXiv 2509.01025, experiment "maze planning" and its MDM baseline.
"""

import abc
import dataclasses

import numpy as np

from flexmdm_jax.errors import InputError
from flexmdm_jax.rows import Layout, Rows, Tokens, fixed_row, until_pad


class Positions(abc.ABC):
  """Guess of the positions of subgoals in a path that is not known."""

  @abc.abstractmethod
  def __call__(self, K: int, rng: np.random.Generator) -> np.ndarray:
    """Returns int[K] strictly increasing positions."""

  @abc.abstractmethod
  def last(self) -> int:
    """Returns the largest position that can come out."""


@dataclasses.dataclass(frozen=True)
class EvenPositions(Positions):
  """Positions spaced evenly from the first to the last of `mean_length`."""

  mean_length: int

  def __call__(self, K: int, rng: np.random.Generator) -> np.ndarray:
    """Returns the same positions each time; InputError if K do not fit."""
    if self.mean_length < K:
      raise InputError(
        f"mean_length={self.mean_length} has no room for {K} subgoals: take"
        " the mean length of the training paths."
      )
    return np.linspace(0, self.mean_length - 1, K).round().astype(int)

  def last(self) -> int:
    """Returns the last of `mean_length` positions."""
    return self.mean_length - 1


@dataclasses.dataclass(frozen=True, eq=False)
class LawPositions(Positions):
  """Positions drawn from training paths: the true law, blind to the problem.

  Attributes:
    pool: int[N, K], `subgoal_index` of N >= 1 training paths.

  Raises:
    InputError: it is of another shape.
  """

  pool: np.ndarray

  def __post_init__(self):
    if self.pool.ndim != 2 or self.pool.size == 0:
      raise InputError(
        f"a pool of shape {self.pool.shape} is not int[N, K]: pass"
        " subgoal_index of at least one training path."
      )

  def __call__(self, K: int, rng: np.random.Generator) -> np.ndarray:
    """Draws a row of the pool; InputError if it has not K positions."""
    if self.pool.shape[1:] != (K,):
      raise InputError(
        f"a pool of shape {self.pool.shape} has no positions of {K} subgoals:"
        f" pass subgoal_index of training paths with {K}."
      )
    return self.pool[rng.integers(len(self.pool))]

  def last(self) -> int:
    """Returns the largest position in the pool."""
    return int(self.pool.max())


@dataclasses.dataclass(frozen=True, eq=False)
class PinnedLayout(Layout):
  """Layout of the paper's MDM baseline: subgoals are pinned at a guess.

  Training pins them at their true positions, which only the path tells; a
  start must guess.

  Attributes:
    positions: the guess.

  Raises:
    InputError: a guess can fall beyond the room.
  """

  positions: Positions

  def __post_init__(self):
    if self.positions.last() >= self.room:
      raise InputError(
        f"subgoals may be pinned at position {self.positions.last()}, beyond"
        f" max_length={self.room}: raise max_length."
      )

  def encode(self, path: Tokens, subgoal_index: Tokens) -> Rows:
    """Makes the example of a path, frozen at its subgoals.

    Raises:
      InputError: the path is too long.
    """
    return fixed_row(path, subgoal_index, self.max_length, self.vocab.pad)

  def start(self, subgoals: Tokens, rng: np.random.Generator) -> Rows:
    """Makes a row of masks, but for subgoals at positions drawn with `rng`."""
    where = self.positions(len(subgoals), rng)
    row = fixed_row([], where, self.max_length, self.vocab.mask)
    row.tokens[where] = subgoals
    return row

  def decode(self, tokens: Tokens, length: int) -> list[int]:
    """Reads the path of a sample: the tokens before the first pad."""
    return until_pad(tokens[:length], self.vocab.pad)


@dataclasses.dataclass(frozen=True)
class PrefixLayout(Layout):
  """Layout of a stronger MDM baseline: first the subgoals, then the path.

  Attributes:
    num_subgoals: K.
  """

  num_subgoals: int

  @property
  def max_length(self) -> int:
    """Positions of a row, L: the subgoals and the path."""
    return self.num_subgoals + self.room

  def encode(self, path: Tokens, subgoal_index: Tokens) -> Rows:
    """Makes the example of a path.

    Raises:
      InputError: the path is too long, or has not K subgoals.
    """
    subgoals = [path[i] for i in subgoal_index]
    return self._row(subgoals, path, self.vocab.pad)

  def start(self, subgoals: Tokens) -> Rows:
    """Makes a row of the subgoals, frozen, then masks."""
    return self._row(subgoals, [], self.vocab.mask)

  def decode(self, tokens: Tokens, length: int) -> list[int]:
    """Reads the path of a sample, from behind the subgoals to the first pad."""
    return until_pad(tokens[self.num_subgoals : length], self.vocab.pad)

  def _row(self, subgoals, path, fill) -> Rows:
    if len(subgoals) != self.num_subgoals:
      raise InputError(
        f"a problem has {len(subgoals)} subgoals, not num_subgoals="
        f"{self.num_subgoals}: use one number of subgoals throughout."
      )
    prefix = range(self.num_subgoals)
    return fixed_row([*subgoals, *path], prefix, self.max_length, fill)
