"""Layouts: how a problem becomes a training example and a sampler's start.

An example, and a start, is a dict of arrays for rows of L positions:

  tokens     int32[L], pad from `length` on; in a start, masks are what is to
             be revealed.
  length     int32[], number of tokens.
  frozen     bool[L], tokens that are given: never deleted, never masked.
  open_gaps  bool[L+1], whether tokens may be inserted just before token j;
             j = length is the gap after the last one, beyond it all is False.

Layouts with gaps are FlexMDM's. Those without are its fixed-length baselines:
there the length is always L, and padding is a token to be predicted. The
autoregressive one has no gaps either; its pad ends a sequence.

Source: arXiv 2509.01025, experiment "maze planning" and its MDM baseline.
"""

import abc
import dataclasses
from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import Int

from flexmdm_jax.errors import InputError
from flexmdm_jax.vocab import Vocab

Tokens = Sequence[int] | np.ndarray
Row = dict[str, np.ndarray]


def pad_out(tokens: Tokens, L: int, fill: int) -> Int[np.ndarray, " L"]:
  """`tokens`, then `fill` up to L positions.

  Raises:
    InputError: there are more than L tokens.
  """
  if len(tokens) > L:
    raise InputError(
      f"a sequence has {len(tokens)} tokens, more than max_length={L}: raise"
      " max_length or drop it."
    )
  row = np.full(L, fill, np.int32)
  row[: len(tokens)] = tokens
  return row


def growing_row(
  tokens: Tokens, frozen: Iterable[int], L: int, vocab: Vocab
) -> Row:
  """A row into which FlexMDM may insert everywhere; `frozen` are positions."""
  return {
    "tokens": pad_out(tokens, L, vocab.pad),
    "length": np.array(len(tokens), np.int32),
    "frozen": _marks(frozen, L),
    "open_gaps": np.arange(L + 1) <= len(tokens),
  }


def fixed_row(tokens: Tokens, frozen: Iterable[int], L: int, fill: int) -> Row:
  """A row of L tokens, `fill` after the given ones, with no open gap."""
  return {
    "tokens": pad_out(tokens, L, fill),
    "length": np.array(L, np.int32),
    "frozen": _marks(frozen, L),
    "open_gaps": np.zeros(L + 1, bool),
  }


def crop_row(row: Row, L: int) -> Row:
  """A growing row with room for L tokens only.

  Raises:
    InputError: it has more tokens.
  """
  if row["length"] > L:
    raise InputError(
      f"a row of {row['length']} tokens cannot be cropped to {L}: only growing"
      " rows can, to at least their length."
    )
  return {
    "tokens": row["tokens"][:L],
    "length": row["length"],
    "frozen": row["frozen"][:L],
    "open_gaps": row["open_gaps"][: L + 1],
  }


def _marks(positions: Iterable[int], L: int) -> np.ndarray:
  """bool[L], True at the given positions."""
  marks = np.zeros(L, bool)
  marks[list(positions)] = True
  return marks


def until_pad(tokens: Iterable[int], pad: int) -> list[int]:
  """The tokens before the first pad."""
  tokens = [int(token) for token in tokens]
  return tokens[: tokens.index(pad)] if pad in tokens else tokens


@dataclasses.dataclass(frozen=True)
class AnchorLayout:
  """FlexMDM's plans: the subgoals are anchors, the path grows between them.

  Attributes:
    vocab: the id space.
    max_length: L, room for the path.
  """

  vocab: Vocab
  max_length: int

  def encode(self, path: Tokens, subgoal_index: Tokens) -> Row:
    """The example of a path, frozen at its subgoals; InputError if too long."""
    return growing_row(path, subgoal_index, self.max_length, self.vocab)

  def start(self, subgoals: Tokens, rng: np.random.Generator) -> Row:
    """The subgoals alone, frozen; nothing is drawn."""
    del rng
    everywhere = range(len(subgoals))
    return growing_row(subgoals, everywhere, self.max_length, self.vocab)

  def decode(self, tokens: Tokens, length: int) -> list[int]:
    """The path of a sample: its first `length` tokens."""
    return [int(token) for token in tokens[:length]]


class Positions(abc.ABC):
  """Where to pin subgoals whose positions in the path are not known."""

  @abc.abstractmethod
  def __call__(self, K: int, rng: np.random.Generator) -> np.ndarray:
    """int[K] strictly increasing positions."""

  @abc.abstractmethod
  def last(self) -> int:
    """The largest position that can come out."""


@dataclasses.dataclass(frozen=True)
class EvenPositions(Positions):
  """Evenly spaced from the first to the last of `mean_length` positions."""

  mean_length: int

  def __call__(self, K: int, rng: np.random.Generator) -> np.ndarray:
    """The same positions each time; InputError if K do not fit."""
    if self.mean_length < K:
      raise InputError(
        f"mean_length={self.mean_length} has no room for {K} subgoals: take"
        " the mean length of the training paths."
      )
    return np.linspace(0, self.mean_length - 1, K).round().astype(int)

  def last(self) -> int:
    """The last of `mean_length` positions."""
    return self.mean_length - 1


@dataclasses.dataclass(frozen=True, eq=False)
class LawPositions(Positions):
  """Drawn from those of training paths: the true law, blind to the problem.

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
    """A row of the pool; InputError if it is not of K subgoals."""
    if self.pool.shape[1:] != (K,):
      raise InputError(
        f"a pool of shape {self.pool.shape} has no positions of {K} subgoals:"
        f" pass subgoal_index of training paths with {K}."
      )
    return self.pool[rng.integers(len(self.pool))]

  def last(self) -> int:
    """The largest position in the pool."""
    return int(self.pool.max())


@dataclasses.dataclass(frozen=True, eq=False)
class PinnedLayout:
  """The paper's MDM baseline: subgoals pinned where they are guessed to be.

  Training pins them at their true positions, which only the path tells; a
  start must guess.

  Attributes:
    vocab: the id space.
    max_length: L, room for the path.
    positions: the guess.

  Raises:
    InputError: a guess can fall beyond L.
  """

  vocab: Vocab
  max_length: int
  positions: Positions

  def __post_init__(self):
    if self.positions.last() >= self.max_length:
      raise InputError(
        f"subgoals may be pinned at position {self.positions.last()}, beyond"
        f" max_length={self.max_length}: raise max_length."
      )

  def encode(self, path: Tokens, subgoal_index: Tokens) -> Row:
    """The example of a path, frozen at its subgoals; InputError if too long."""
    return fixed_row(path, subgoal_index, self.max_length, self.vocab.pad)

  def start(self, subgoals: Tokens, rng: np.random.Generator) -> Row:
    """Masks, but for the subgoals at guessed positions, drawn with `rng`."""
    where = self.positions(len(subgoals), rng)
    row = fixed_row([], where, self.max_length, self.vocab.mask)
    row["tokens"][where] = subgoals
    return row

  def decode(self, tokens: Tokens, length: int) -> list[int]:
    """The path of a sample: what stands before the first pad."""
    return until_pad(tokens[:length], self.vocab.pad)


@dataclasses.dataclass(frozen=True)
class PrefixLayout:
  """A stronger MDM baseline: the subgoals come first, then the whole path.

  Attributes:
    vocab: the id space.
    num_subgoals: K.
    max_path: room for the path.
  """

  vocab: Vocab
  num_subgoals: int
  max_path: int

  @property
  def max_length(self) -> int:
    """L: the subgoals and the path."""
    return self.num_subgoals + self.max_path

  def encode(self, path: Tokens, subgoal_index: Tokens) -> Row:
    """The example of a path; InputError if too long, or not of K subgoals."""
    subgoals = [path[i] for i in subgoal_index]
    return self._row(subgoals, path, self.vocab.pad)

  def start(self, subgoals: Tokens, rng: np.random.Generator) -> Row:
    """The subgoals, frozen, then masks; nothing is drawn."""
    del rng
    return self._row(subgoals, [], self.vocab.mask)

  def decode(self, tokens: Tokens, length: int) -> list[int]:
    """The path of a sample: from behind the subgoals to the first pad."""
    return until_pad(tokens[self.num_subgoals : length], self.vocab.pad)

  def _row(self, subgoals, path, fill) -> Row:
    if len(subgoals) != self.num_subgoals:
      raise InputError(
        f"a problem has {len(subgoals)} subgoals, not num_subgoals="
        f"{self.num_subgoals}: use one number of subgoals throughout."
      )
    prefix = range(self.num_subgoals)
    return fixed_row([*subgoals, *path], prefix, self.max_length, fill)


@dataclasses.dataclass(frozen=True)
class TextLayout:
  """FlexMDM's unconditional sequences: nothing is given.

  Attributes:
    vocab: the id space.
    max_length: L, room for the sequence.
  """

  vocab: Vocab
  max_length: int

  def encode(self, tokens: Tokens) -> Row:
    """The example of a sequence; InputError if too long."""
    return growing_row(tokens, (), self.max_length, self.vocab)

  def start(self) -> Row:
    """The empty row, its one gap open."""
    return growing_row([], (), self.max_length, self.vocab)

  def decode(self, tokens: Tokens, length: int) -> list[int]:
    """The sequence of a sample: its first `length` tokens."""
    return [int(token) for token in tokens[:length]]


@dataclasses.dataclass(frozen=True)
class HoleLayout:
  """FlexMDM's conditional sequences: a hole between what is given.

  An answer to a prompt is a hole with nothing after it.

  Attributes:
    vocab: the id space.
    max_length: L, room for all three.
  """

  vocab: Vocab
  max_length: int

  def encode(self, prefix: Tokens, hole: Tokens, suffix: Tokens) -> Row:
    """The example, frozen but for its hole; InputError if too long."""
    begin, end = len(prefix), len(prefix) + len(hole)
    tokens = np.concatenate([prefix, hole, suffix]).astype(np.int32)
    given = [*range(begin), *range(end, len(tokens))]
    row = growing_row(tokens, given, self.max_length, self.vocab)
    gaps = np.arange(self.max_length + 1)
    return row | {"open_gaps": (begin <= gaps) & (gaps <= end)}

  def start(self, prefix: Tokens, suffix: Tokens) -> Row:
    """What is given, with the one gap between open."""
    return self.encode(prefix, [], suffix)

  def decode(self, tokens: Tokens, length: int) -> list[int]:
    """The sequence of a sample, what was given included."""
    return [int(token) for token in tokens[:length]]


@dataclasses.dataclass(frozen=True)
class PaddedLayout:
  """The MDM baseline's unconditional sequences: padding is predicted.

  Attributes:
    vocab: the id space.
    max_length: L, room for the sequence.
  """

  vocab: Vocab
  max_length: int

  def encode(self, tokens: Tokens) -> Row:
    """The example of a sequence; InputError if too long."""
    return fixed_row(tokens, (), self.max_length, self.vocab.pad)

  def start(self) -> Row:
    """Masks only."""
    return fixed_row([], (), self.max_length, self.vocab.mask)

  def decode(self, tokens: Tokens, length: int) -> list[int]:
    """The sequence of a sample: what stands before the first pad."""
    return until_pad(tokens[:length], self.vocab.pad)


@dataclasses.dataclass(frozen=True)
class AutoregressiveLayout:
  """Sequences read from left to right, behind a token that begins them.

  Attributes:
    vocab: the id space; the mask, which is no text, stands for the beginning.
    max_text: room for the sequence.
  """

  vocab: Vocab
  max_text: int

  @property
  def max_length(self) -> int:
    """L: the beginning and the sequence."""
    return 1 + self.max_text

  def encode(self, tokens: Tokens) -> Row:
    """The example of a sequence; InputError if too long."""
    row = growing_row(
      [self.vocab.mask, *tokens], (0,), self.max_length, self.vocab
    )
    return row | {"open_gaps": np.zeros(self.max_length + 1, bool)}

  def start(self) -> Row:
    """The beginning alone."""
    return self.encode([])

  def decode(self, tokens: Tokens, length: int) -> list[int]:
    """The sequence of a sample: what follows the beginning."""
    return [int(token) for token in tokens[1:length]]
