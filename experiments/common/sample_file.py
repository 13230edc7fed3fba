"""A file of samples, written as they come and put in order at the end.

While they are made, finished lines are in FILE.partial, whose first line has
the settings: the same command goes on from there. FILE itself is replaced once
all are there.
"""

import contextlib
import fcntl
import hashlib
import json
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, BinaryIO

import jax
import numpy as np

from experiments.common import sample_rows
from experiments.common.sample_rows import Row
from flexmdm_jax import files
from flexmdm_jax.errors import InputError, first_line
from flexmdm_jax.inference import Generation, Model, Preset
from flexmdm_jax.reading import open_file, parse_json, require_keys

_BEGINNING = b'{"settings": {'
_OWN = ("row", "sample", "tokens", "text", "filled", "truncated", "calls")


class SampleFile(contextlib.AbstractContextManager):
  """A file of samples that is being written.

  Attributes:
    lines: the lines that are there, by their places.
  """

  def __init__(
    self,
    path: str | pathlib.Path,
    settings: Mapping[str, Any],
    place: Sequence[str] = ("row", "sample"),
  ):
    """Begins a file, or goes on with one.

    Args:
      path: the file to be.
      settings: all that decides the samples, JSON-ready.
      place: keys of a line, of whole numbers, that are its place in the file.

    Raises:
      InputError: what is there was begun with other settings, is damaged, or
        is written by another process; or it cannot be written.
    """
    self.path = pathlib.Path(path)
    self._partial = self.path.with_name(self.path.name + ".partial")
    self._place = dict.fromkeys(place, int)
    self.lines: dict[tuple[int, ...], str] = {}
    if self._partial.exists():
      open_file(self._partial, "remove it, or choose another name").close()
    with self._clear_errors():
      self.path.parent.mkdir(parents=True, exist_ok=True)
      self._file: BinaryIO = self._partial.open("a+b")
    try:
      self._begin(json.loads(json.dumps({"settings": settings})))
    except BaseException:
      self._file.close()
      raise

  def write(self, lines: Mapping[tuple[int, ...], Mapping[str, Any]]) -> None:
    """Writes lines by their places.

    Raises:
      InputError: the disk is full.
    """
    new = {place: json.dumps(line) for place, line in lines.items()}
    self._append(new.values())
    self.lines |= new

  def finish(self) -> None:
    """Writes the file in order, and removes what was there of it.

    Raises:
      InputError: it cannot be written.
    """
    ordered = [line for _, line in sorted(self.lines.items())]
    files.write_text(self.path, "\n".join(ordered) + "\n")
    with self._clear_errors():
      self._partial.unlink()

  def __exit__(self, *_) -> None:
    self._file.close()

  def _begin(self, header: dict[str, Any]) -> None:
    """Reads what is there, or writes the header."""
    try:
      fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
      raise InputError(
        f"{self._partial} is being written by another process: wait for it, or"
        " choose another file."
      ) from error
    except OSError:
      pass  # a file system without locks
    with open_file(self._partial) as file:
      there = list(file)
    whole = [line for line in there if line.endswith(b"\n")]
    if there and not whole:  # a torn header, or a file that is not ours
      n = len(_BEGINNING)
      if there[0][:n] != _BEGINNING[: len(there[0])]:
        raise self._foreign()
    if whole:
      self._read(whole, header["settings"])
    # What stands behind the last whole line was torn.
    with self._clear_errors():
      self._file.truncate(sum(map(len, whole)))
    if not whole:
      self._append([json.dumps(header)])

  def _read(self, whole: Sequence[bytes], now: Mapping[str, Any]) -> None:
    """Reads the lines that are there, which are kept as they are."""
    for number, line in enumerate(whole, 1):
      try:
        row = parse_json(line)
        require_keys(row, self._place if number > 1 else {"settings": dict})
      except ValueError as error:
        raise InputError(
          f"cannot go on with {self._partial} (line {number}:"
          f" {first_line(error)}): remove that file to begin anew, or choose"
          " another name."
        ) from error
      if number == 1:
        self._require_same(row["settings"], now)
      else:
        place = tuple(row[key] for key in self._place)
        self.lines[place] = line.decode().rstrip("\n")

  def _require_same(
    self, there: Mapping[str, Any], now: Mapping[str, Any]
  ) -> None:
    """Refuses to go on with other settings; names the first that differs."""
    for name in [*now, *there]:
      if there.get(name) != now.get(name):
        raise InputError(
          f"{self._partial} was begun with {name}={there.get(name)!r:.80}, but"
          f" now it is {now.get(name)!r:.80}: give the same settings to go on,"
          " or remove that file to begin anew."
        )

  def _foreign(self) -> InputError:
    return InputError(
      f"{self._partial} is no file of samples: remove it, or choose another"
      " name."
    )

  def _append(self, lines: Iterable[str]) -> None:
    with self._clear_errors():
      self._file.write("".join(f"{x}\n" for x in lines).encode())
      self._file.flush()

  @contextlib.contextmanager
  def _clear_errors(self):
    try:
      yield
    except OSError as error:
      raise InputError(
        f"cannot write {self._partial} ({error.strerror}): choose a file that"
        " you may write, on a disk with free space. The same command goes on"
        " where it stopped."
      ) from error


def settings(
  model: Model, way: Preset, rows: Sequence[Row], num: int, seed: int
) -> dict[str, Any]:
  """Lists all that decides samples, JSON-ready."""
  return {
    "flexmdm_jax": files.package_version(),
    "model": f"hash {fingerprint(model)}",
    "rows": f"{len(rows)} of hash {sample_rows.digest(rows)}",
    "num": num,
    "seed": seed,
    **vars(way.sampler),
    "path": way.path.to_config(),
  }


def fingerprint(model: Model) -> str:
  """Hashes some values of each parameter, and what makes tokens of text.

  Training moves every parameter, so that a few values tell models apart.
  """
  ends = jax.jit(lambda params: jax.tree.map(_ends, params))
  found = hashlib.sha256()
  for value in jax.tree.leaves(ends(dict(model.denoiser.params))):
    found.update(np.asarray(value).tobytes())
  tokenizer = model.tokenizer and model.tokenizer.fingerprint
  schedules = model.interpolant.to_config()
  about = (model.method, model.form, tokenizer, schedules, model.max_length)
  found.update(repr(about).encode())
  return found.hexdigest()[:16]


def sample_line(
  row: Row, place: tuple[int, int], generation: Generation
) -> dict[str, Any]:
  """Makes the line of a sample; its own keys win over those it carries."""
  others = {key: x for key, x in row.others.items() if key not in _OWN}
  line = {"row": place[0], "sample": place[1], **others}
  line["tokens"] = generation.tokens
  if generation.text is not None:
    line["text"] = generation.text
  line["filled"] = generation.filled
  line["truncated"] = generation.truncated
  line["calls"] = generation.calls
  return line


def _ends(x: jax.Array) -> list[jax.Array]:
  """Picks a parameter's first and last values."""
  if not x.ndim:
    return [x]
  corner = x.ndim - 1
  return [x[(0,) * corner][:16], x[(-1,) * corner][-16:]]
