"""Examples on disk: their tokens in one array, and where each has its hole."""

import array
import itertools
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from flexmdm_jax.data.cache import damaged, writable
from flexmdm_jax.data.documents import Skipped
from flexmdm_jax.data.splits import SPLITS
from flexmdm_jax.data.tokenizers import MOST_CHARACTERS, Tokenizer
from flexmdm_jax.reading import read_array
from flexmdm_jax.tasks.finetune.formats import Parts

# Part of the name of each cached folder: another format has another folder.
FORMAT = 1
_CHUNK = 1000

# By split: the flat tokens, and (begin, end, length, row) of each example.
Tables = Mapping[str, tuple[array.array, array.array]]


def tokenise(
  examples: Iterator[tuple[str, int, Parts]],
  tokenizer: Tokenizer,
  max_length: int,
  skipped: Skipped,
  prefix_tokenizer: Tokenizer | None = None,
  around: tuple[Sequence[int], Sequence[int]] = ((), ()),
) -> Tables:
  """Tokenises examples, each of their three parts by itself.

  Args:
    examples: split, number of the row, and text of each.
    tokenizer: the tokenizer of the text.
    max_length: tokens of the longest example that is kept.
    skipped: counts what is left out, as "too_long".
    prefix_tokenizer: the tokenizer of the prefixes; by default that of the
      text.
    around: ids before and after every prefix.
  """
  tables = {split: (array.array("i"), array.array("i")) for split in SPLITS}

  def short(example):
    if sum(map(len, example[2])) <= MOST_CHARACTERS * max_length:
      return True
    skipped["too_long"] += 1
    return False

  examples = filter(short, examples)
  while chunk := list(itertools.islice(examples, _CHUNK)):
    prefixes, holes, suffixes = zip(
      *(parts for _, _, parts in chunk), strict=True
    )
    encoded = tokenizer.encode_batch([*holes, *suffixes])
    holes, suffixes = encoded[: len(chunk)], encoded[len(chunk) :]
    prefixes = (prefix_tokenizer or tokenizer).encode_batch(prefixes)
    for (split, row, _), prefix, hole, suffix in zip(
      chunk, prefixes, holes, suffixes, strict=True
    ):
      prefix = [*around[0], *prefix, *around[1]]
      begin, end = len(prefix), len(prefix) + len(hole)
      length = end + len(suffix)
      if length > max_length:
        skipped["too_long"] += 1
        continue
      tokens, spans = tables[split]
      tokens.extend([*prefix, *hole, *suffix])
      spans.extend([begin, end, length, row])
  return tables


def save(folder: pathlib.Path, tables: Tables) -> None:
  """Writes the files that `HoleRecords` opens, for all splits."""
  for split, (tokens, spans) in tables.items():
    with writable(folder.parent):
      np.save(folder / f"{split}.tokens.npy", np.array(tokens, np.int32))
      table = np.array(spans, np.int32).reshape(-1, 4)
      np.save(folder / f"{split}.spans.npy", table)


class HoleRecords(Sequence):
  """Records of a split, by index.

  Each is a dict of `tokens` int32[n], `hole` (begin, end), where in them the
  hole is, and `row`, the number of its row among those of the files.

  Attributes:
    lengths: int32[N], the tokens of each record.
  """

  def __init__(self, folder: pathlib.Path, split: str):
    """Opens a split; InputError if it is damaged."""
    try:
      self._tokens = read_array(folder / f"{split}.tokens.npy")
      self._spans = np.array(read_array(folder / f"{split}.spans.npy", ndim=2))
      begin, end, length, _ = self._spans.T
      self._begins = np.cumsum([0, *length])
      holes = (begin >= 0) & (end >= begin) & (length >= end)
      if self._begins[-1] != len(self._tokens) or not holes.all():
        raise ValueError("its holes do not fit its tokens")
    except ValueError as error:
      raise damaged(folder) from error
    self.lengths = self._spans[:, 2]

  def __len__(self) -> int:
    return len(self._spans)

  def __getitem__(self, index: int) -> dict[str, Any]:
    index = range(len(self))[index]
    first, last = self._begins[index : index + 2]
    begin, end, _, row = map(int, self._spans[index])
    return {
      "tokens": np.array(self._tokens[first:last]),
      "hole": (begin, end),
      "row": row,
    }
