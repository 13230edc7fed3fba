"""Folders of prepared data, named by all that decides their content."""

import contextlib
import hashlib
import json
import logging
import os
import pathlib
import shutil
import uuid
from collections.abc import Callable, Iterator
from typing import Any

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
