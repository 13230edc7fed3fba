"""Rows: the one form of a training example, a batch and a sampler's start.

A row is tokens in L positions, of which some are frozen, and gaps, of which
some are open. An empty start, a prompt, an infilling and the subgoals of a plan
differ in nothing else; an example holds, beside what is given, what a model is
to learn to put there. A batch is rows stacked.

Rows with open gaps are FlexMDM's. Those without are its baselines': there the
length of a fixed-length MDM is always L, and padding is a token to be
predicted; the pad of an autoregressive model ends a sequence.

Source: arXiv 2509.01025, "conditional generation and infilling".
"""

import abc
import dataclasses
import itertools
import zlib
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from flexmdm_jax.errors import InputError
from flexmdm_jax.vocab import Vocab

Tokens = Sequence[int] | np.ndarray


class Rows(NamedTuple):
  """One row, or a batch of rows; an example, or the state at time 0.

  Attributes:
    tokens: left-aligned, the pad from `length` on. A mask in a start is one
      that is to be revealed.
    length: numbers of tokens.
    frozen: tokens that are given: never deleted, never masked.
    open_gaps: gaps into which masks may be inserted, gap j just before token j
      and gap `length` after the last one; the gaps that form inside an open gap
      are open too. False beyond the length.
  """

  tokens: Int[Array, "*b L"]
  length: Int[Array, "*b"]
  frozen: Bool[Array, "*b L"]
  open_gaps: Bool[Array, "*b L+1"]

  def crop(self, L: int) -> "Rows":
    """Cuts the rows to room for L tokens.

    Raises:
      InputError: one has more tokens, as those of a fixed length do.
    """
    longest = int(np.max(self.length))
    if longest > L:
      raise InputError(
        f"a row of {longest} tokens cannot be cropped to {L}: only rows with"
        " open gaps can, to at least their length."
      )
    return Rows(
      self.tokens[..., :L],
      self.length,
      self.frozen[..., :L],
      self.open_gaps[..., : L + 1],
    )


# The public name of rows that sampling starts from.
Start = Rows


def stack(rows: Iterable[Rows]) -> Rows:
  """Stacks rows into a batch, as NumPy arrays."""
  return Rows(*(np.stack(x) for x in zip(*rows, strict=True)))


def growing_row(
  tokens: Tokens, frozen: Iterable[int], L: int, vocab: Vocab
) -> Rows:
  """Makes a row with every gap open.

  Args:
    tokens: the sequence.
    frozen: positions of the tokens that are given.
    L: room of the row.
    vocab: the id space.

  Raises:
    InputError: there are more than L tokens.
  """
  return Rows(
    _pad_out(tokens, L, vocab.pad),
    np.array(len(tokens), np.int32),
    _marks(frozen, L),
    np.arange(L + 1) <= len(tokens),
  )


def hole_row(
  prefix: Tokens, hole: Tokens, suffix: Tokens, L: int, vocab: Vocab
) -> Rows:
  """Makes a row that is given but for its hole, whose gaps alone are open.

  Args:
    prefix: tokens before the hole; a prompt has nothing after it.
    hole: tokens in it; none at the start of sampling.
    suffix: tokens after it.
    L: room of the row.
    vocab: the id space.

  Raises:
    InputError: there are more than L tokens.
  """
  return holes_row([prefix, suffix], L, vocab, [hole])


def holes_row(
  parts: Sequence[Tokens],
  L: int,
  vocab: Vocab,
  holes: Sequence[Tokens] | None = None,
) -> Rows:
  """Makes a row that is given but for the holes between its parts.

  Args:
    parts: the tokens between the holes, two parts at least; the first and the
      last may be empty.
    L: room of the row.
    vocab: the id space.
    holes: tokens in the holes, one less than there are parts; None where all
      are empty, as at the start of sampling.

  Raises:
    InputError: there are more than L tokens.
  """
  row = closed_holes_row(parts, L, vocab, holes or [()] * (len(parts) - 1))
  # Gap j is just before token j: a hole of n tokens has n + 1.
  hidden = ~row.frozen[: row.length]
  open_gaps = np.zeros(L + 1, bool)
  open_gaps[: row.length] |= hidden
  open_gaps[1 : row.length + 1] |= hidden
  begins = np.cumsum([len(part) for part in parts[:-1]])
  before = [0, *(len(hole) for hole in (holes or [()] * len(begins))[:-1])]
  open_gaps[begins + np.cumsum(before)] = True
  return row._replace(open_gaps=open_gaps)


def closed_holes_row(
  parts: Sequence[Tokens], L: int, vocab: Vocab, holes: Sequence[Tokens]
) -> Rows:
  """Makes a row that is given but for its holes, whose lengths are fixed.

  Args:
    parts: the tokens between the holes.
    L: room of the row.
    vocab: the id space.
    holes: tokens in the holes, one less than there are parts: with pads in an
      example of a fixed-length MDM, masks only at the start of sampling.

  Raises:
    InputError: there are more than L tokens.
  """
  pieces = [parts[0]]
  for hole, part in zip(holes, parts[1:], strict=True):
    pieces += [hole, part]
  tokens = np.concatenate([np.asarray(piece, np.int32) for piece in pieces])
  given = np.repeat(
    np.arange(len(pieces)) % 2 == 0, [len(piece) for piece in pieces]
  )
  row = growing_row(tokens, np.flatnonzero(given), L, vocab)
  return row._replace(open_gaps=np.zeros(L + 1, bool))


def fixed_row(tokens: Tokens, frozen: Iterable[int], L: int, fill: int) -> Rows:
  """Makes a row of a fixed length, with every gap closed.

  Args:
    tokens: what stands first.
    frozen: positions of the tokens that are given.
    L: length of the row.
    fill: the token after them: the pad of an example, the mask of a start.

  Raises:
    InputError: there are more than L tokens.
  """
  return Rows(
    _pad_out(tokens, L, fill),
    np.array(L, np.int32),
    _marks(frozen, L),
    np.zeros(L + 1, bool),
  )


def causal_row(
  tokens: Tokens, frozen: Iterable[int], L: int, vocab: Vocab
) -> Rows:
  """Makes a row that is read from left to right, with every gap closed.

  Args:
    tokens: the sequence, or the prompt of a start.
    frozen: positions in it of the tokens that are given.
    L: room of the row; its first token is the mask, which is no text and stands
      for the beginning.
    vocab: the id space.

  Raises:
    InputError: there are more than L - 1 tokens.
  """
  given = [0, *(i + 1 for i in frozen)]
  row = growing_row([vocab.mask, *tokens], given, L, vocab)
  return row._replace(open_gaps=np.zeros(L + 1, bool))


def _pad_out(tokens: Tokens, L: int, fill: int) -> Int[np.ndarray, " L"]:
  if len(tokens) > L:
    raise InputError(
      f"a sequence has {len(tokens)} tokens, more than max_length={L}: raise"
      " max_length or drop it."
    )
  row = np.full(L, fill, np.int32)
  row[: len(tokens)] = tokens
  return row


def _marks(positions: Iterable[int], L: int) -> Bool[np.ndarray, " L"]:
  marks = np.zeros(L, bool)
  marks[list(positions)] = True
  return marks


def empty_start(B: int, L: int, vocab: Vocab) -> Rows:
  """Makes `B` empty rows with room for `L` tokens: unconditional generation."""
  return anchor_start([[] for _ in range(B)], L, vocab)


def prompt_start(
  prompts: Sequence[Sequence[int]], L: int, vocab: Vocab
) -> Rows:
  """Makes rows that continue their prompts: only the gap after it is open.

  Args:
    prompts: token ids of each row's prompt.
    L: room of a row, prompt included.
    vocab: the id space.

  Raises:
    InputError: a prompt is longer than L, or holds the mask or an unknown id.
  """
  _require_ids(prompts, L, vocab, "prompt")
  return _start((hole_row(p, [], [], L, vocab) for p in prompts), L)


def infill_start(
  prefixes: Sequence[Sequence[int]],
  suffixes: Sequence[Sequence[int]],
  L: int,
  vocab: Vocab,
) -> Rows:
  """Makes rows that fill the hole between a prefix and a suffix.

  Args:
    prefixes: token ids before each row's hole.
    suffixes: token ids after it; as many rows.
    L: room of a row, prefix and suffix included.
    vocab: the id space.

  Raises:
    InputError: numbers of rows differ, prefix and suffix together are longer
      than L, or they hold the mask or an unknown id.
  """
  if len(prefixes) != len(suffixes):
    raise InputError(
      f"{len(prefixes)} prefixes but {len(suffixes)} suffixes: give one of"
      " each to a row (an empty list is allowed)."
    )
  pairs = list(zip(prefixes, suffixes, strict=True))
  return holes_start(pairs, L, vocab, "prefix and suffix")


def holes_start(
  parts: Sequence[Sequence[Sequence[int]]],
  L: int,
  vocab: Vocab,
  what: str = "infill",
) -> Rows:
  """Makes rows that fill the holes between their parts.

  Args:
    parts: of each row the token ids between its holes, two parts at least.
    L: room of a row, the parts included.
    vocab: the id space.
    what: word for a row, in errors.

  Raises:
    InputError: a row has fewer than two parts, is longer than L, or holds the
      mask or an unknown id.
  """
  for i, row in enumerate(parts):
    if len(row) < 2:
      raise InputError(
        f"{what} {i} has {len(row)} parts and no hole: give at least two, with"
        " a hole between (a part may be empty)."
      )
  _require_ids([list(itertools.chain(*row)) for row in parts], L, vocab, what)
  return _start((holes_row(row, L, vocab) for row in parts), L)


def anchor_start(
  anchors: Sequence[Sequence[int]], L: int, vocab: Vocab
) -> Rows:
  """Makes rows that keep their anchors, in order, with every gap open.

  Args:
    anchors: token ids of each row's anchors (the subgoals of a plan).
    L: room of a row, anchors included.
    vocab: the id space.

  Raises:
    InputError: a row is longer than L, or holds the mask or an unknown id.
  """
  _require_ids(anchors, L, vocab, "row of anchors")
  rows = (growing_row(x, range(len(x)), L, vocab) for x in anchors)
  return _start(rows, L)


def mask_start(B: int, L: int, vocab: Vocab) -> Rows:
  """Makes `B` rows of `L` masks, gaps closed: a fixed-length MDM's start."""
  return _start((fixed_row([], (), L, vocab.mask) for _ in range(B)), L)


def causal_start(
  prompts: Sequence[Sequence[int]], L: int, vocab: Vocab
) -> Rows:
  """Makes rows that an autoregressive model continues, every gap closed.

  Args:
    prompts: token ids of each row's prompt.
    L: room of a row: the mask, which stands for the beginning, and the rest.
    vocab: the id space.

  Raises:
    InputError: as `prompt_start`.
  """
  _require_ids(prompts, L - 1, vocab, "prompt")
  rows = (causal_row(p, range(len(p)), L, vocab) for p in prompts)
  return _start(rows, L)


def _start(rows: Iterable[Rows], L: int) -> Rows:
  """Stacks rows as JAX arrays; none of them, as arrays of 0 rows."""
  rows = list(rows)
  if rows:
    return jax.tree.map(jnp.asarray, stack(rows))
  return Rows(
    jnp.zeros((0, L), jnp.int32),
    jnp.zeros(0, jnp.int32),
    jnp.zeros((0, L), bool),
    jnp.zeros((0, L + 1), bool),
  )


def _require_ids(rows, L, vocab, what) -> None:
  """Refuses rows that are too long, or hold the mask or an unknown id."""
  if L < 1:
    raise InputError(f"L={L} must be at least 1.")
  for i, row in enumerate(rows):
    if len(row) > L:
      raise InputError(
        f"{what} {i} has {len(row)} tokens, more than max_length {L}: shorten"
        " it or raise max_length."
      )
    for token in row:
      if token == vocab.mask:
        raise InputError(
          f"{what} {i} holds the mask id {vocab.mask}: remove it; holes are"
          " open gaps, not masks."
        )
      if not 0 <= token < vocab.size:
        raise InputError(
          f"{what} {i} holds the id {token}, out of range [0, {vocab.size}):"
          " use the tokenizer that the model was trained with."
        )


def until_pad(tokens: Iterable[int], pad: int) -> list[int]:
  """Cuts a sequence at its first pad."""
  tokens = [int(token) for token in tokens]
  return tokens[: tokens.index(pad)] if pad in tokens else tokens


@dataclasses.dataclass(frozen=True)
class Layout(abc.ABC):
  """Way from a sequence to its example and start, and from a sample back.

  Each kind of layout gives `encode`, the example of a sequence, and `start`,
  where sampling one begins; which arguments they take depends on the kind.

  Attributes:
    vocab: the id space.
    room: the longest sequence.
  """

  vocab: Vocab
  room: int

  @property
  def max_length(self) -> int:
    """L, the positions of a row."""
    return self.room

  @abc.abstractmethod
  def encode(self, *sequence: Any) -> Rows:
    """Makes the example of a sequence; InputError if it is too long."""

  @abc.abstractmethod
  def start(self, *given: Any) -> Rows:
    """Makes the row from which sampling starts."""

  def decode(self, tokens: Tokens, length: int) -> list[int]:
    """Reads the sequence of a sample: its first `length` tokens."""
    return [int(token) for token in tokens[:length]]


class AnchorLayout(Layout):
  """FlexMDM's sequences around anchors; without any, unconditional ones."""

  def encode(self, tokens: Tokens, anchors: Iterable[int] = ()) -> Rows:
    """Makes the example of a sequence.

    Args:
      tokens: the sequence.
      anchors: positions of the tokens that are given.

    Raises:
      InputError: it is too long.
    """
    return growing_row(tokens, anchors, self.max_length, self.vocab)

  def start(self, anchors: Tokens = ()) -> Rows:
    """Makes the row of the anchors alone, frozen."""
    return self.encode(anchors, range(len(anchors)))


class HoleLayout(Layout):
  """FlexMDM's conditional sequences: holes between what is given.

  An answer to a prompt is a hole with nothing after it.
  """

  def encode(self, parts: Sequence[Tokens], holes: Sequence[Tokens]) -> Rows:
    """Makes the example, frozen but for its holes; InputError if too long."""
    return holes_row(parts, self.max_length, self.vocab, holes)

  def start(self, parts: Sequence[Tokens], holes: Sequence[Tokens]) -> Rows:
    """Makes the row of what is given, with the gaps between open."""
    del holes  # whose lengths the model decides
    return holes_row(parts, self.max_length, self.vocab)


class FixedHoleLayout(Layout):
  """The fixed-length MDM's conditional sequences: padding is predicted.

  A hole has room for more than what is in it, since how long that is will not
  be known: anything up to twice the length and 8 tokens, all alike. Where
  nothing follows, as after a question, it has all the room that there is.
  """

  def encode(self, parts: Sequence[Tokens], holes: Sequence[Tokens]) -> Rows:
    """Makes the example, frozen but for its holes; InputError if too long."""
    filled = [
      [*hole, *([self.vocab.pad] * (room - len(hole)))]
      for hole, room in zip(holes, self._rooms(parts, holes), strict=True)
    ]
    return closed_holes_row(parts, self.max_length, self.vocab, filled)

  def start(self, parts: Sequence[Tokens], holes: Sequence[Tokens]) -> Rows:
    """Makes the row of what is given, with the rooms of `encode` as masks."""
    filled = [[self.vocab.mask] * room for room in self._rooms(parts, holes)]
    return closed_holes_row(parts, self.max_length, self.vocab, filled)

  def _rooms(
    self, parts: Sequence[Tokens], holes: Sequence[Tokens]
  ) -> list[int]:
    """Draws the rooms, which depend on the tokens alone."""
    free = max(self.max_length - sum(map(len, (*parts, *holes))), 0)
    content = np.concatenate(
      [np.asarray(x, np.int32) for x in (*parts, *holes)]
    )
    rng = np.random.default_rng(zlib.crc32(content.tobytes()))
    rooms = []
    for i, hole in enumerate(holes):
      last = i == len(holes) - 1 and not len(parts[-1])
      spare = free if last else int(rng.integers(min(len(hole) + 8, free) + 1))
      rooms.append(len(hole) + spare)
      free -= spare
    return rooms


class PaddedLayout(Layout):
  """The fixed-length MDM's sequences: padding is predicted."""

  def encode(self, tokens: Tokens) -> Rows:
    """Makes the example of a sequence; InputError if it is too long."""
    return fixed_row(tokens, (), self.max_length, self.vocab.pad)

  def start(self) -> Rows:
    """Makes the row of masks only."""
    return fixed_row([], (), self.max_length, self.vocab.mask)

  def decode(self, tokens: Tokens, length: int) -> list[int]:
    """Reads the sequence of a sample: the tokens before the first pad."""
    return until_pad(tokens[:length], self.vocab.pad)


class CausalLayout(Layout):
  """Sequences read from left to right, behind a token that begins them."""

  @property
  def max_length(self) -> int:
    """L: the beginning and the sequence."""
    return 1 + self.room

  def encode(self, tokens: Tokens) -> Rows:
    """Makes the example of a sequence; InputError if it is too long."""
    return causal_row(tokens, (), self.max_length, self.vocab)

  def start(self) -> Rows:
    """Makes the row of the beginning alone."""
    return self.encode([])

  def decode(self, tokens: Tokens, length: int) -> list[int]:
    """Reads the sequence of a sample: the tokens after the beginning."""
    return [int(token) for token in tokens[1:length]]


def sequence_layout(method: str, vocab: Vocab, room: int) -> Layout:
  """Makes the layout of unconditional sequences for a method.

  Args:
    method: "flexmdm", "mdm" or "autoregressive".
    vocab: the id space.
    room: the longest sequence.
  """
  layout = {
    "flexmdm": AnchorLayout,
    "mdm": PaddedLayout,
    "autoregressive": CausalLayout,
  }[method]
  return layout(vocab, room)
