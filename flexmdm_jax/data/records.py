"""Token records: documents, tokenised and stored once.

A document longer than the model is cut into pieces; each piece is a record.
Splits are made of whole documents, so that no held-out document is trained on.

Source: arXiv 2509.01025, experiment "OpenWebText", for the cut.
"""

import array
import collections
import contextlib
import hashlib
import itertools
import json
import logging
import os
import pathlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from array_record.python.array_record_data_source import ArrayRecordDataSource
from array_record.python.array_record_module import ArrayRecordWriter

from flexmdm_jax.data.cache import cached_folder, damaged, writable
from flexmdm_jax.data.documents import Skipped, Source
from flexmdm_jax.data.splits import SPLITS, content_split, require_split
from flexmdm_jax.data.tokenizers import (
  MOST_CHARACTERS,
  CharTokenizer,
  Tokenizer,
)
from flexmdm_jax.errors import InputError
from flexmdm_jax.reading import read_array, read_json, require_keys

LONG_RULES = ("split", "drop")
# Part of every data set's name: raise it when the files below change.
_FORMAT = 1
_METADATA = {
  "alphabet": (list, type(None)),
  "bytes": dict,
  "splits": dict,
}
# Documents given to the tokenizer at once, which spreads them over the cores.
_CHUNK = 1000
_CHUNK_CHARACTERS = 1 << 24


def split_text(
  text: str,
  encode: Callable[[str], list[int]],
  max_length: int,
  long: str = "split",
) -> tuple[list[tuple[str, list[int]]], int]:
  """Cuts a text until each piece has at most `max_length` tokens.

  Every cut is at the blank line nearest the middle, as in the paper, which
  leaves whole paragraphs. A piece without one has to be cut where no author
  ended it, at a line break, else a space, else between two characters, or be
  left out. Cutting keeps all text, but such pieces begin and end mid-sentence;
  leaving out keeps the law of whole paragraphs, without the long ones. The
  white space at a cut belongs to neither piece.

  Args:
    text: text to cut.
    encode: function that makes the ids of a text.
    max_length: length of the longest piece, in tokens.
    long: rule for a long piece without a blank line, "split" or "drop".

  Returns:
    The pieces in order, each with its ids, and the number of pieces left out: a
    single character that is too long is, whatever the rule.
  """
  pieces, dropped = [], 0
  pending = [text]
  while pending:
    piece = pending.pop()
    ids = _encode_short(piece, encode, max_length)
    if ids is not None and len(ids) <= max_length:
      pieces.append((piece, ids))
    elif cut := _cut(piece, _CUTS if long == "split" else _CUTS[:1]):
      left, right = piece[: cut[0]], piece[cut[1] :]
      pending += [half for half in (right, left) if half.strip()]
    elif long == "split" and len(piece) > 1:
      middle = len(piece) // 2
      pending += [piece[middle:], piece[:middle]]
    else:
      dropped += 1
  return pieces, dropped


def _encode_short(
  piece: str, encode: Callable[[str], list[int]], max_length: int
) -> list[int] | None:
  """Encodes a piece, or returns None once its beginning has too many tokens.

  Halving a text of 8 MB would else read all of it 13 times.
  """
  for factor in (4, 16, 64):
    begin = factor * max_length
    if len(piece) <= 2 * begin:
      break
    # The beginning may end within a token, which then is several.
    if len(encode(piece[:begin])) > 2 * max_length + MOST_CHARACTERS:
      return None
  return encode(piece) if len(piece) <= MOST_CHARACTERS * max_length else None


_CUTS = (re.compile(r"\n\s*\n"), re.compile(r"\n"), re.compile(r"\s+"))


def _cut(text: str, patterns: Sequence[re.Pattern]) -> tuple[int, int] | None:
  """Finds the place nearest the middle of the first pattern that occurs."""
  places = (_nearest(text, pattern) for pattern in patterns)
  return next(filter(None, places), None)


def _nearest(text: str, pattern: re.Pattern) -> tuple[int, int] | None:
  """Finds the match nearest the middle, the first of two that are as near.

  Args:
    text: text to search; matches at its ends do not count.
    pattern: pattern whose matches lie in one run of white space each.
  """
  middle, width, size = len(text) // 2, 1000, len(text)
  while True:
    begin, end = max(0, middle - width), min(size, middle + width)
    whole = begin == 0 and end == size
    if not whole:  # a run that the window cuts does not count
      window = text[begin:end]
      right = begin + len(window.rstrip())
      begin, end = end - len(window.lstrip()), right
    spans = (match.span() for match in pattern.finditer(text, begin, end))
    spans = [(a, b) for a, b in spans if 0 < a and b < size]
    if spans or whole:
      best = min(spans, key=lambda x: abs(sum(x) - size), default=None)
      # What lies beyond the window is as far from the middle as its ends.
      near = min(size - 2 * begin, 2 * end - size)
      if whole or abs(sum(best) - size) < near:
        return best
    width *= 8


class TextRecords(Sequence):
  """Records of a split, by index.

  Each is a dict of `tokens` int32[n] and `characters`, their number in the
  text of the piece.

  Attributes:
    lengths: int32[N], the number of tokens of each record.
  """

  def __init__(self, folder: pathlib.Path, split: str):
    """Opens a split that `prepare` wrote.

    Raises:
      InputError: a file is damaged; reading a record can find that too.
    """
    self._folder = folder
    with self._readable():
      self.lengths = np.array(read_array(folder / f"{split}.lengths.npy"))
      self._characters = read_array(folder / f"{split}.characters.npy")
      path = folder / f"{split}.array_record"
      self._source = ArrayRecordDataSource(str(path))

  def __len__(self) -> int:
    return len(self.lengths)

  def __getitem__(self, index: int) -> dict[str, Any]:
    index = range(len(self))[index]  # array_record takes no other index
    with self._readable():
      tokens = np.frombuffer(self._source[index], "<i4")
    return {"tokens": tokens, "characters": int(self._characters[index])}

  @contextlib.contextmanager
  def _readable(self) -> Iterator[None]:
    """Makes one InputError of whatever a damaged file raises."""
    try:
      yield
    except (OSError, RuntimeError, ValueError) as error:
      raise damaged(self._folder) from error


class TextSet:
  """Prepared data set of text.

  Attributes:
    folder: the folder that holds it.
    metadata: "tokenizer" (its fingerprint), "alphabet" (a `CharTokenizer`'s,
      else None), "max_length", "long" and, for each split in "splits",
      "documents", "records", "tokens", "characters", "unknown" (tokens that
      stand for an unknown character) and "skipped", by kind.
  """

  def __init__(self, folder: pathlib.Path, setting: str = "data"):
    """Opens a folder that `prepare` wrote.

    Args:
      folder: the folder.
      setting: name of this text's settings in an error.

    Raises:
      InputError: the folder is damaged.
    """
    self.folder = folder
    self._setting = setting
    try:
      self.metadata = read_json(folder / "metadata.json", _METADATA)
      for split in self.metadata["splits"].values():
        require_keys(split, {"records": int})
      wanted = self.metadata["bytes"]
      sizes = {name: (folder / name).stat().st_size for name in wanted}
    except (OSError, ValueError) as error:
      raise damaged(folder) from error
    if sizes != wanted:
      raise damaged(folder)

  def records(self, split: str) -> TextRecords:
    """Opens the records of a split.

    Raises:
      InputError: there is no such split, or it is empty.
    """
    require_split(split)
    if not self.metadata["splits"].get(split, {"records": 0})["records"]:
      raise InputError(
        f"this text has no {split} documents: set {self._setting}.{split}, or"
        " give more documents."
      )
    return TextRecords(self.folder, split)


def prepare(
  folder: str | os.PathLike,
  sources: Mapping[str, Source],
  tokenizer: Tokenizer | None,
  *,
  max_length: int,
  long: str = "split",
  setting: str = "data",
) -> TextSet:
  """Tokenises documents into a folder, unless they are there already.

  The folder's name is a hash of the documents, the tokenizer and the settings;
  see `cached_folder`.

  With a source for "train" alone, a hash of each document decides its split,
  80 / 10 / 10 %. With more, a document of "train" that is also one of the
  others is left out, and counted as "duplicate".

  Args:
    folder: folder in which data sets are kept.
    sources: source of each split; "train" at least.
    tokenizer: tokenizer of the text; None for a `CharTokenizer` of the
      characters that the training documents have.
    max_length: length of the longest record, in tokens.
    long: rule for long pieces, see `split_text`.
    setting: name of these sources' settings in an error.

  Raises:
    InputError: a setting is out of range, a source cannot be read or has no
      document, or the folder cannot be written or is damaged.
  """
  if max_length < 1:
    raise InputError(f"data.max_length={max_length} must be at least 1.")
  if long not in LONG_RULES:
    raise InputError(
      f"data.long={long!r} is unknown: choose one of {', '.join(LONG_RULES)}."
    )
  if "train" not in sources:
    raise InputError(
      f"{setting}.train is not set: give the documents to train on."
    )
  recipe = [
    _FORMAT,
    {split: source.fingerprint() for split, source in sources.items()},
    tokenizer.fingerprint if tokenizer else "char",
    max_length,
    long,
  ]
  final = cached_folder(
    folder,
    "text",
    recipe,
    lambda temporary: _write(
      temporary, sources, tokenizer, max_length, long, setting
    ),
  )
  return TextSet(final, setting)


def _write(folder, sources, tokenizer, max_length, long, setting) -> None:
  """Writes the files of a `TextSet`."""
  if tokenizer is None:
    tokenizer = CharTokenizer(_alphabet(sources, setting))
  skipped = collections.defaultdict(Skipped)
  writers = {split: _Writer(folder, split) for split in SPLITS}
  documents = _documents(sources, skipped)
  unread = MOST_CHARACTERS * max_length  # is longer than a record, unread
  while chunk := _chunk(documents):
    texts = [text for _, text in chunk if len(text) <= unread]
    encoded = iter(tokenizer.encode_batch(texts))
    for split, text in chunk:
      ids = next(encoded) if len(text) <= unread else None
      if ids is not None and len(ids) <= max_length:
        pieces, dropped = [(text, ids)], 0
      else:
        pieces, dropped = split_text(text, tokenizer.encode, max_length, long)
      if dropped:
        skipped[split]["too_long"] += dropped
      writers[split].add(pieces, tokenizer.unknown)
  splits = {
    split: {**writer.close(), "skipped": dict(skipped[split])}
    for split, writer in writers.items()
  }
  for split in sources:
    if not splits[split]["records"]:
      raise _no_documents(split, skipped, setting)
  if any(skipped.values()):
    logging.warning("skipped rows of text: %s", report_skipped(skipped))
  metadata = {
    "tokenizer": tokenizer.fingerprint,
    "alphabet": getattr(tokenizer, "characters", None),
    "max_length": max_length,
    "long": long,
    "splits": splits,
    "bytes": {path.name: path.stat().st_size for path in folder.iterdir()},
  }
  with writable(folder.parent):
    text = json.dumps(metadata, indent=2) + "\n"
    (folder / "metadata.json").write_text(text)


def _chunk(documents: Iterator[tuple[str, str]]) -> list[tuple[str, str]]:
  """Takes the next documents, of which few long ones fill a chunk."""
  chunk, characters = [], 0
  for split, text in itertools.islice(documents, _CHUNK):
    chunk.append((split, text))
    characters += len(text)
    if characters > _CHUNK_CHARACTERS:
      break
  return chunk


def _alphabet(sources: Mapping[str, Source], setting: str) -> set[str]:
  """Collects the characters of the training documents."""
  skipped = collections.defaultdict(Skipped)
  characters = set()
  for split, text in _documents(sources, skipped):
    if split == "train":
      characters.update(text)
  if not characters:
    raise _no_documents("train", skipped, setting)
  return characters


def _documents(
  sources: Mapping[str, Source], skipped: Mapping[str, Skipped]
) -> Iterator[tuple[str, str]]:
  """Yields pairs (split, document); counts what is left out, by split."""
  if sources.keys() == {"train"}:
    for text in sources["train"].documents(skipped["train"]):
      yield content_split(b"text" + text.encode()), text
    return
  held_out = set()
  for split in reversed(SPLITS):  # what is held out is known before "train"
    if split not in sources:
      continue
    for text in sources[split].documents(skipped[split]):
      digest = hashlib.sha256(text.encode()).digest()
      if split != "train":
        held_out.add(digest)
      elif digest in held_out:
        skipped[split]["duplicate"] += 1
        continue
      yield split, text


class _Writer:
  """Writer of the records of one split, their lengths and characters."""

  def __init__(self, folder: pathlib.Path, split: str):
    self._folder, self._split = folder, split
    # One record a group: they are read one by one, in any order.
    path = folder / f"{split}.array_record"
    with writable(folder.parent):
      self._records = ArrayRecordWriter(str(path), "group_size:1")
    self._lengths, self._characters = array.array("i"), array.array("i")
    self._documents = self._unknown = 0

  def add(self, pieces, unknown: int | None) -> None:
    """Writes the pieces of one document."""
    self._documents += bool(pieces)
    for text, ids in pieces:
      with writable(self._folder.parent):
        self._records.write(np.array(ids, "<i4").tobytes())
      self._lengths.append(len(ids))
      self._characters.append(len(text))
      self._unknown += ids.count(unknown)

  def close(self) -> dict[str, int]:
    """Completes the files and returns the split's totals."""
    with writable(self._folder.parent):
      self._records.close()
    for name in ("lengths", "characters"):
      values = np.array(getattr(self, f"_{name}"), np.int32)
      with writable(self._folder.parent):
        np.save(self._folder / f"{self._split}.{name}.npy", values)
    return {
      "documents": self._documents,
      "records": len(self._lengths),
      "tokens": sum(self._lengths),
      "characters": sum(self._characters),
      "unknown": self._unknown,
    }


def _no_documents(
  split: str, skipped: Mapping[str, Skipped], setting: str
) -> InputError:
  return InputError(
    f"{setting}.{split} has no document that can be used"
    f" ({report_skipped(skipped) or 'no rows at all'}): check the files and"
    f" {setting}.text_key."
  )


def report_skipped(skipped: Mapping[str, Skipped]) -> str:
  """Lists the numbers of skipped rows by split and kind, in one line."""
  return "; ".join(
    f"{split}: " + ", ".join(f"{n} {kind}" for kind, n in kinds.items())
    for split, kinds in skipped.items()
    if kinds
  )
