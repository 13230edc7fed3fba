"""Documents: text from files of JSON lines, or from a TFDS data set.

A source yields documents, strings that are not blank. A row that holds none is
skipped and counted by kind: "not_utf8", "not_json", "no_text" (the key is
missing), "not_string", "empty" or "too_large" (a line of more than 64 MiB).
"""

import abc
import collections
import dataclasses
import glob
import gzip
import hashlib
import json
import os
import pathlib
import re
from collections.abc import Iterator
from typing import Any, BinaryIO

from flexmdm_jax.data.cache import Remaining
from flexmdm_jax.errors import InputError, clear_library_errors, first_line
from flexmdm_jax.reading import (
  clear_read_errors,
  lines,
  open_file,
  parse_json,
)

try:
  from compression import zstd  # Python 3.14
except ImportError:
  try:
    from backports import zstd
  except ImportError:
    zstd = None

Skipped = collections.Counter


class Source(abc.ABC):
  """Source of documents, in an order that never changes."""

  @abc.abstractmethod
  def fingerprint(self) -> str:
    """Hash that changes whenever the documents do."""

  @abc.abstractmethod
  def documents(self, skipped: Skipped) -> Iterator[str]:
    """Yields the documents; bad rows are added to `skipped`.

    Raises:
      InputError: the source cannot be read.
    """


@dataclasses.dataclass(frozen=True)
class Files(Source):
  """Files with a JSON object a line, as Hugging Face stores text.

  Attributes:
    paths: the files; a name that ends in .gz or .zst is decompressed.
    text_key: the key of the text.
  """

  paths: tuple[pathlib.Path, ...]
  text_key: str = "text"

  @classmethod
  def find(cls, patterns: str, text_key: str = "text") -> "Files":
    """Finds the files of paths and glob patterns, separated by commas.

    Raises:
      InputError: a path or pattern matches no file.
    """
    paths = []
    for pattern in patterns.split(","):
      name = os.path.expanduser(pattern.strip())
      # A file's name may look like a pattern.
      names = [name] if os.path.exists(name) else sorted(glob.glob(name))
      found = [pathlib.Path(name) for name in names if os.path.isfile(name)]
      if not found:
        raise InputError(
          f"no file matches {pattern.strip()!r}: give JSONL files, or patterns"
          " such as 'data/*.jsonl.gz', separated by commas."
        )
      paths += found
    return cls(tuple(paths), text_key)

  def fingerprint(self) -> str:
    """Hash of the files' contents and the key; names do not count."""
    digests = [self.text_key]
    for path in self.paths:
      with clear_read_errors(path), open_file(path) as file:
        digests.append(hashlib.file_digest(file, "sha256").hexdigest())
    return _hash(digests)

  def documents(self, skipped: Skipped) -> Iterator[str]:
    """Yields the documents of all files; see `Source`."""
    for row in self.rows(skipped):
      text, fault = check_text(row.get(self.text_key, _MISSING))
      if fault:
        skipped[fault] += 1
      else:
        yield text

  def rows(self, skipped: Skipped) -> Iterator[dict[str, Any]]:
    """Yields the objects of all files; lines that hold none are counted."""
    for _, _, row, fault in self.numbered():
      if fault:
        skipped[fault] += 1
      else:
        yield row

  def numbered(
    self,
  ) -> Iterator[tuple[pathlib.Path, int, dict[str, Any], str | None]]:
    """Yields of each line its file, number, object and fault; no blank ones."""
    for path in self.paths:
      for number, line in enumerate(_lines(path), 1):
        if line is None or line.strip():
          yield path, number, *_read_line(line)


def _lines(path: pathlib.Path) -> Iterator[bytes | None]:
  """Yields the lines of a file, decompressed; None for one too large."""
  with (
    open_file(path) as packed,
    Remaining(path, os.fstat(packed.fileno()).st_size) as remaining,
    clear_library_errors(f"cannot read {path}", "give a whole, readable file"),
    _unpacked(path, packed) as file,
  ):
    for line in lines(file):
      remaining.report(packed.tell())
      yield line


def _unpacked(path: pathlib.Path, packed: BinaryIO) -> BinaryIO:
  """Opens the content of an open file, decompressed as its name tells."""
  if path.suffix == ".gz":
    return gzip.GzipFile(fileobj=packed)
  if path.suffix != ".zst":
    return packed
  if zstd is None:
    raise InputError(
      f"{path} needs the package backports.zstd: pip install"
      " 'flexmdm_jax[text]'."
    )
  return zstd.ZstdFile(packed)


@dataclasses.dataclass(frozen=True)
class Tfds(Source):
  """Split of a TFDS data set with a text feature; prepared if it is not.

  Attributes:
    name: a name for `tfds.builder`, or a folder that TFDS has prepared.
    split: the split, such as "train" or "train[:1%]".
    text_key: the name of the feature.
  """

  name: str
  split: str
  text_key: str = "text"

  @classmethod
  def parse(cls, text: str, text_key: str = "text") -> "Tfds":
    """Parses "NAME:SPLIT".

    Raises:
      InputError: `text` has not that form.
    """
    match = re.fullmatch(r"(.+):([^:\[\]]+(\[[^\]]*\])?)", text.strip())
    if not match:
      raise InputError(
        f"{text!r} names no TFDS split: write NAME:SPLIT, such as"
        " 'openwebtext:train[:1%]'."
      )
    return cls(match[1], match[2], text_key)

  def fingerprint(self) -> str:
    """Hash of the data set's name, version and split, and of the key."""
    return _hash([self._builder().info.full_name, self.split, self.text_key])

  def documents(self, skipped: Skipped) -> Iterator[str]:
    """Yields the documents of the split; see `Source`."""
    builder = self._builder()
    if self.text_key not in builder.info.features:
      raise InputError(
        f"the TFDS data set {self.name!r} has no feature {self.text_key!r}: set"
        f" text_key to one of {', '.join(builder.info.features)}."
      )
    try:
      rows = builder.as_data_source(split=self.split)
    except Exception as error:  # TFDS has no narrower one
      raise InputError(
        f"cannot read the split {self.split!r} of the TFDS data set"
        f" {self.name!r} ({first_line(error)}): it must exist, and be prepared"
        " as array_record."
      ) from error
    with Remaining(self.name, len(rows)) as remaining:
      for number, row in enumerate(rows):
        remaining.report(number)
        text, fault = check_text(row[self.text_key])
        if fault:
          skipped[fault] += 1
        else:
          yield text

  def _builder(self) -> Any:
    import tensorflow_datasets as tfds  # slow to import

    folder = os.path.expanduser(self.name)
    try:
      if os.path.isdir(folder):
        return tfds.builder_from_directory(folder)
      builder = tfds.builder(self.name)
      builder.download_and_prepare(file_format="array_record")
    except Exception as error:  # whatever a builder, or its download, raises
      raise InputError(
        f"cannot prepare the TFDS data set {self.name!r}"
        f" ({first_line(error)}): name one that TFDS knows, or a folder that"
        " it has prepared."
      ) from error
    return builder


def _read_line(line: bytes | None) -> tuple[dict[str, Any], str | None]:
  """Parses a line of JSON to (object, None), or to ({}, fault)."""
  if line is None:
    return {}, "too_large"
  try:
    row = parse_json(line, strict=False)
  except UnicodeDecodeError:
    return {}, "not_utf8"
  except ValueError:
    return {}, "not_json"
  return (row, None) if isinstance(row, dict) else ({}, "no_text")


_MISSING = object()


def check_text(value: Any) -> tuple[str, str | None]:
  """Returns (text, None) for a text or its bytes, else ("", fault)."""
  if value is _MISSING:
    return "", "no_text"
  try:
    text = value.decode() if isinstance(value, bytes) else value
    if not isinstance(text, str):
      return "", "not_string"
    text.encode()  # JSON can spell half of a surrogate pair
  except UnicodeError:
    return "", "not_utf8"
  return (text, None) if text.strip() else ("", "empty")


def _hash(content: Any) -> str:
  return hashlib.sha256(json.dumps(content).encode()).hexdigest()
