"""Examples on disk: their tokens in one array, and where each has its holes."""

import array
import itertools
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from flexmdm_jax.data.cache import damaged, writable
from flexmdm_jax.data.documents import Skipped
from flexmdm_jax.data.splits import SPLITS
from flexmdm_jax.data.tokenizers import MOST_CHARACTERS, Tokenizer
from flexmdm_jax.reading import read_array
from flexmdm_jax.tasks.finetune.formats import Parts

# Part of the name of each cached folder: another format has another folder.
FORMAT = 2
_CHUNK = 1000


class Table(NamedTuple):
  """What is stored of the examples of a split.

  Attributes:
    tokens: those of all examples, one after another.
    ends: where each piece of an example ends in it: what is given, a hole, what
      is given, and so on; the last is the example's length.
    rows: (number of pieces, number of the row) of each example.
  """

  tokens: array.array
  ends: array.array
  rows: array.array


def tokenise(
  examples: Iterator[tuple[str, int, Parts]],
  tokenizer: Tokenizer,
  max_length: int,
  skipped: Skipped,
  prefix_tokenizer: Tokenizer | None = None,
  around: tuple[Sequence[int], Sequence[int]] = ((), ()),
) -> dict[str, Table]:
  """Tokenises examples, each of their pieces by itself.

  Args:
    examples: split, number of the row, and text of each.
    tokenizer: the tokenizer of the text.
    max_length: tokens of the longest example that is kept.
    skipped: counts what is left out, as "too_long".
    prefix_tokenizer: the tokenizer of the prefixes; by default that of the
      text.
    around: ids before and after every prefix.

  Returns:
    The table of each split.
  """
  tables = {
    split: Table(*(array.array("i") for _ in Table._fields)) for split in SPLITS
  }

  def short(example):
    given, holes = example[2]
    if sum(map(len, (*given, *holes))) <= MOST_CHARACTERS * max_length:
      return True
    skipped["too_long"] += 1
    return False

  examples = filter(short, examples)
  while chunk := list(itertools.islice(examples, _CHUNK)):
    prefixes = (prefix_tokenizer or tokenizer).encode_batch(
      [given[0] for _, _, (given, _) in chunk]
    )
    others = iter(
      tokenizer.encode_batch(
        [
          text
          for _, _, (given, holes) in chunk
          for text in itertools.chain(*zip(holes, given[1:], strict=True))
        ]
      )
    )
    for (split, row, (_, holes)), prefix in zip(chunk, prefixes, strict=True):
      pieces = [
        [*around[0], *prefix, *around[1]],
        *itertools.islice(others, 2 * len(holes)),
      ]
      ends = list(itertools.accumulate(map(len, pieces)))
      if ends[-1] > max_length:
        skipped["too_long"] += 1
        continue
      table = tables[split]
      table.tokens.extend(itertools.chain(*pieces))
      table.ends.extend(ends)
      table.rows.extend([len(ends), row])
  return tables


def save(folder: pathlib.Path, tables: Mapping[str, Table]) -> None:
  """Writes the files that `HoleRecords` opens, for all splits."""
  for split, table in tables.items():
    with writable(folder.parent):
      for name, values in table._asdict().items():
        np.save(folder / f"{split}.{name}.npy", np.array(values, np.int32))


class HoleRecords(Sequence):
  """Records of a split, by index.

  Each is a dict of `tokens` int32[n], `ends` int32[2h + 1], where in them each
  piece ends (what is given and the h holes in turn), and `row`, the number of
  its row among those of the files.

  Attributes:
    lengths: int32[N], the tokens of each record.
  """

  def __init__(self, folder: pathlib.Path, split: str):
    """Opens a split; InputError if it is damaged."""
    try:
      self._tokens, self._ends, rows = (
        read_array(folder / f"{split}.{name}.npy") for name in Table._fields
      )
      pieces, self._rows = np.array(rows).reshape(-1, 2).T
      self._pieces = np.cumsum([0, *pieces])
      if self._pieces[-1] != len(self._ends) or (pieces % 2 != 1).any():
        raise ValueError("its examples do not fit their pieces")
      self.lengths = np.array(self._ends)[self._pieces[1:] - 1]
      self._begins = np.cumsum([0, *self.lengths])
      # Within an example the pieces follow each other.
      steps = np.diff(self._ends, prepend=0)
      steps[self._pieces[:-1]] = self._ends[self._pieces[:-1]]
      if self._begins[-1] != len(self._tokens) or (steps < 0).any():
        raise ValueError("its holes do not fit its tokens")
    except ValueError as error:
      raise damaged(folder) from error

  def __len__(self) -> int:
    return len(self._rows)

  def __getitem__(self, index: int) -> dict[str, Any]:
    index = range(len(self))[index]
    first, last = self._begins[index : index + 2]
    begin, end = self._pieces[index : index + 2]
    return {
      "tokens": np.array(self._tokens[first:last]),
      "ends": np.array(self._ends[begin:end]),
      "row": int(self._rows[index]),
    }


def pieces(
  record: Mapping[str, Any],
) -> tuple[list[np.ndarray], list[np.ndarray]]:
  """Parts a record into what is given and what is in its holes."""
  found = np.split(record["tokens"], record["ends"][:-1])
  return found[::2], found[1::2]
