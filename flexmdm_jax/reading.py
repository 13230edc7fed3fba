"""Files are read here, wherever they come from.

Regular files alone, as a pipe may never end; of a bounded size, in UTF-8, and
of the types that the reader expects. What is wrong becomes one line that names
the file, the line and the fix.
"""

import collections
import contextlib
import json
import math
import pathlib
import stat
from collections.abc import Callable, Iterator, Mapping
from typing import Any, BinaryIO

import numpy as np

from flexmdm_jax.errors import InputError, clear_library_errors, first_line

# A tokenizer.json of 256,000 ids has 33 MB.
_FILE_BYTES = 256 << 20
_LINE_BYTES = 64 << 20
# Python's own parser and writer give up at some 1,000 levels.
_MOST_LEVELS = 64
_COPY = "give a good copy"
_TYPES = {
  dict: "an object",
  list: "a list",
  str: "a text",
  int: "a whole number",
  float: "a number",
  bool: "true or false",
  type(None): "null",
}

# Types of the values of an object's keys, all of which it must have.
Keys = Mapping[str, type | tuple[type, ...]]


def open_file(path: str | pathlib.Path, fix: str = _COPY) -> BinaryIO:
  """Opens a regular file to read its bytes.

  Raises:
    InputError: it is missing, unreadable, a folder, a pipe or a device; the
      error ends with `fix`.
  """
  path = pathlib.Path(path)
  with clear_read_errors(path, fix):
    if not stat.S_ISREG(path.stat().st_mode):
      raise ValueError("not a regular file")
    return path.open("rb")


@contextlib.contextmanager
def clear_read_errors(path: pathlib.Path, fix: str = _COPY) -> Iterator[None]:
  """Makes one InputError of whatever an unreadable file raises."""
  try:
    yield
  except (OSError, EOFError, ValueError) as error:
    if isinstance(error, InputError):
      raise
    reason = getattr(error, "strerror", None) or first_line(error)
    raise InputError(f"cannot read {path} ({reason}): {fix}.") from error


def read_text(path: str | pathlib.Path, fix: str = _COPY) -> str:
  """Reads a text file of at most 256 MiB, whose lines may end as on Windows.

  Raises:
    InputError: as `open_file`, or it is too large or not in UTF-8.
  """
  with open_file(path, fix) as file, clear_read_errors(path, fix):
    content = file.read(_FILE_BYTES + 1)
    if len(content) > _FILE_BYTES:
      raise ValueError(f"larger than {_FILE_BYTES >> 20} MiB")
    return content.decode("utf-8-sig").replace("\r\n", "\n")


def read_json(
  path: str | pathlib.Path, keys: Keys | None = None, fix: str = _COPY
) -> dict[str, Any]:
  """Reads a file that holds one JSON object.

  Args:
    path: the file.
    keys: keys that the object must have, with the types of their values.
    fix: the end of an error.

  Raises:
    InputError: as `read_text`, it is no JSON as `parse_json` takes it, or no
      such object.
  """
  text = read_text(path, fix)
  with clear_read_errors(path, fix):
    parsed = parse_json(text)
    require_keys(parsed, keys or {})
    return parsed


def read_json_lines(
  path: str | pathlib.Path, keys: Keys | None = None, fix: str = _COPY
) -> Iterator[tuple[int, dict[str, Any]]]:
  """Reads a file with a JSON object a line; yields its number and the object.

  Args:
    path: the file, of any length; a line has at most 64 MiB.
    keys: as for `read_json`.
    fix: the end of an error.

  Raises:
    InputError: as `read_json`; the error names the line.
  """
  with open_file(path, fix) as file, clear_read_errors(path, fix):
    for number, line in enumerate(lines(file), 1):
      try:
        if line is None:
          raise ValueError(f"longer than {_LINE_BYTES >> 20} MiB")
        row = parse_json(line)
        require_keys(row, keys or {})
      except ValueError as error:
        raise ValueError(f"line {number}: {first_line(error)}") from error
      yield number, row


def lines(file: BinaryIO) -> Iterator[bytes | None]:
  """Yields the lines of a file; None for one that is longer than 64 MiB."""
  while line := file.readline(_LINE_BYTES + 1):
    if len(line) <= _LINE_BYTES:
      yield line
      continue
    while line and not line.endswith(b"\n"):
      line = file.readline(1 << 20)
    yield None


def parse_json(text: str | bytes, strict: bool = True) -> Any:
  """Parses JSON that is nested 64 levels deep at most.

  Args:
    text: the JSON; bytes are in UTF-8.
    strict: refuse keys that come twice, and numbers that are not finite.

  Raises:
    ValueError: it is not such; UnicodeDecodeError for bytes in no UTF-8.
  """
  text = text.decode("utf-8-sig") if isinstance(text, bytes) else text
  hooks: dict[str, Callable] = {}
  if strict:
    hooks = {
      "object_pairs_hook": _unique,
      "parse_float": _finite,
      "parse_constant": _finite,
    }
  try:
    parsed = json.loads(text, **hooks)
  except json.JSONDecodeError as error:
    raise ValueError(f"line {error.lineno}: {error.msg}") from error
  except RecursionError as error:
    raise _too_deep() from error
  # Nearly all texts are told by a count of their brackets.
  if text.count("[") + text.count("{") > _MOST_LEVELS:
    _require_shallow(parsed)
  return parsed


def require_keys(parsed: Any, keys: Keys) -> None:
  """Raises ValueError unless `parsed` is an object that has those keys.

  Args:
    parsed: parsed JSON.
    keys: type of the value of each key, or several types; `float` does not
      include whole numbers.
  """
  if type(parsed) is not dict:
    raise ValueError(f"it holds no object but {_TYPES[type(parsed)]}")
  for key, kinds in keys.items():
    kinds = kinds if isinstance(kinds, tuple) else (kinds,)
    if key not in parsed and type(None) not in kinds:
      raise ValueError(f"the key {key!r} is missing")
    if type(parsed.get(key)) not in kinds:
      wanted = " or ".join(_TYPES[kind] for kind in kinds)
      found = _TYPES[type(parsed[key])]
      raise ValueError(f"{key!r} must be {wanted}, not {found}")


def read_array(path: pathlib.Path, ndim: int = 1) -> np.ndarray:
  """Maps a file of whole numbers that `np.save` wrote; reads no pickle.

  Raises:
    InputError: it is damaged or holds another kind of array.
  """
  open_file(path).close()
  with clear_library_errors(f"cannot read {path}", _COPY):
    # A mapped file takes no more memory than it has bytes, whatever it says.
    values = np.load(path, mmap_mode="r", allow_pickle=False)
    if not isinstance(values, np.ndarray) or values.ndim != ndim:
      raise ValueError(f"no array of {ndim} axes")
    if values.dtype != np.int32:
      raise ValueError(f"its type is {values.dtype}, not int32")
    return values


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
  """Makes the object of its pairs; ValueError if a key comes twice."""
  found = dict(pairs)
  if len(found) < len(pairs):
    counts = collections.Counter(name for name, _ in pairs)
    twice = counts.most_common(1)[0][0]
    raise ValueError(f"the key {twice!r} comes twice")
  return found


def _finite(text: str) -> float:
  """Converts a number; ValueError unless it is finite."""
  value = float(text)
  if not math.isfinite(value):
    raise ValueError(f"{text[:40]} is no finite number")
  return value


def _require_shallow(parsed: Any) -> None:
  """Raises ValueError if parsed JSON has too many levels."""
  level = [parsed]
  for _ in range(_MOST_LEVELS + 1):
    parents = [x for x in level if isinstance(x, (dict, list))]
    if not parents:
      return
    level = [
      child
      for x in parents
      for child in (x.values() if isinstance(x, dict) else x)
    ]
  raise _too_deep()


def _too_deep() -> ValueError:
  return ValueError(f"nested deeper than {_MOST_LEVELS} levels")
