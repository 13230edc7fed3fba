"""Folders of prepared data, named by all that decides their content."""

import contextlib
import hashlib
import json
import logging
import os
import pathlib
import shutil
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

from tqdm import tqdm

from flexmdm_jax.errors import InputError


def cached_folder(
  root: str | os.PathLike,
  kind: str,
  recipe: Any,
  write: Callable[[pathlib.Path], None],
) -> pathlib.Path:
  """Returns the folder of prepared data, written unless it is there already.

  It is written beside its place and renamed at the end: the rest of an
  interrupted preparation is never read, and of several at once the first to
  finish wins.

  Args:
    root: folder of all data sets.
    kind: kind of data, a folder in `root`.
    recipe: all that decides the content, JSON-ready; its hash is the name.
    write: fills an empty folder.

  Raises:
    InputError: the folder cannot be written.
  """
  content = json.dumps(recipe, sort_keys=True).encode()
  folder = pathlib.Path(root).expanduser().absolute() / kind
  final = folder / hashlib.sha256(content).hexdigest()[:16]
  if not final.exists():
    logging.info("preparing %s", final)
    temporary = folder / f"new-{uuid.uuid4().hex}"
    try:
      with writable(folder):
        temporary.mkdir(parents=True)
      write(temporary)
      with writable(folder):
        _rename(temporary, final)
    finally:
      shutil.rmtree(temporary, ignore_errors=True)
  return final


@contextlib.contextmanager
def writable(folder: pathlib.Path) -> Iterator[None]:
  """Makes one InputError of whatever a full or forbidden disk raises.

  array_record raises a RuntimeError: only its own calls are to be inside.
  """
  try:
    yield
  except (OSError, RuntimeError) as error:
    reason = getattr(error, "strerror", None) or str(error).split(";")[0]
    raise InputError(
      f"cannot write the data set to {folder} ({reason}): choose a data"
      " directory that you may write to, with free space."
    ) from error


class Remaining(contextlib.AbstractContextManager):
  """Display of how far a long preparation is, and of the time left.

  A bar where stderr is a terminal; elsewhere a line of the log at times. None
  before the first seconds are over: most preparations are shorter.
  """

  def __init__(self, what: object, total: int, seconds: float = 30.0):
    """Begins a preparation of `total` units; lines are `seconds` apart."""
    self._what, self._total, self._seconds = what, total, seconds
    terminal = sys.stderr.isatty()
    self._bar = tqdm(
      desc=str(what),
      total=total,
      disable=not terminal,
      unit_scale=True,
      dynamic_ncols=True,
      delay=min(seconds, 5.0),
      leave=False,
    )
    self._began = time.monotonic()
    self._next = float("inf") if terminal else self._began + seconds

  def report(self, done: int) -> None:
    """Tells that `done` of the units are done, if it is time to."""
    self._bar.update(done - self._bar.n)
    now = time.monotonic()
    if now >= self._next:
      self._next = now + self._seconds
      left = (now - self._began) * (self._total - done) / max(done, 1) / 60
      share = done / max(self._total, 1)
      logging.info(
        "%s: %.0f%%, %.3g minutes left", self._what, 100 * share, left
      )

  def __exit__(self, *_) -> None:
    self._bar.close()


def damaged(folder: pathlib.Path) -> InputError:
  """Makes the error for a folder that is not as it was written."""
  return InputError(f"the data set in {folder} is damaged: remove that folder.")


def _rename(temporary: pathlib.Path, final: pathlib.Path) -> None:
  """Moves a complete folder to its place, unless another was faster."""
  try:
    temporary.rename(final)
  except OSError:
    if not final.exists():
      raise
