"""Files on disk: written whole, with the versions that made them.

What a full or forbidden disk raises becomes one line that names the fix. How
files are read is in `reading`.
"""

import contextlib
import importlib
import importlib.metadata
import json
import os
import pathlib
import platform
import subprocess
from collections.abc import Iterator, Mapping
from typing import Any

import jax

from flexmdm_jax.errors import InputError

# Messages of the operating system and of Orbax's storage layer, and remedies.
_DISK_ERRORS = {
  "no space left": "free some space",
  "resource_exhausted": "free some space",
  "quota exceeded": "free some space",
  "permission denied": "make it writable",
  "read-only file system": "make it writable",
}
_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


def package_version() -> str:
  """Returns the version of this package."""
  return importlib.import_module(__package__).__version__


def versions() -> dict[str, str]:
  """Lists the versions of Python and of the packages that decide a result."""
  found = {name: importlib.metadata.version(name) for name in _PACKAGES}
  return {
    "flexmdm_jax": package_version(),
    "python": platform.python_version(),
    **found,
    "device": jax.devices()[0].device_kind,
  }


def git_commit() -> str | None:
  """Returns the commit of the checkout that holds this package.

  Returns:
    Its hash, with "+changes" where tracked files differ; None outside of a
    checkout of this project.
  """
  root = pathlib.Path(__file__).resolve().parents[1]
  if not (root / ".git").exists():
    return None

  def git(*words):
    command = ["git", "-C", str(root), *words]
    return subprocess.run(
      command, capture_output=True, text=True, check=True, timeout=60
    ).stdout.strip()

  try:
    changed = git("status", "-s", "-uno")
    return git("rev-parse", "HEAD") + ("+changes" if changed else "")
  except (OSError, subprocess.SubprocessError):
    return None


def write_json(path: str | pathlib.Path, result: Mapping[str, Any]) -> None:
  """Writes a result as JSON, in place of the earlier file once complete.

  Raises:
    InputError: the file cannot be written.
  """
  text = json.dumps(result, indent=2) + "\n"
  write_text(path, text)


def write_text(path: str | pathlib.Path, text: str) -> None:
  """Writes a file, in place of the earlier one once it is complete.

  Raises:
    InputError: the file cannot be written.
  """
  path = pathlib.Path(path)
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, text)
  except OSError as error:
    raise InputError(
      f"cannot write {path} ({error.strerror}): choose a file that you may"
      " write, on a disk with free space."
    ) from error


def replace_file(path: str | pathlib.Path, text: str) -> None:
  """Writes a file; its earlier content stays until the new one is complete.

  Raises:
    OSError: it cannot be written.
  """
  path = pathlib.Path(path)
  new = path.with_name(path.name + ".tmp")
  new.write_text(text)
  new.replace(path)


def unused(path: pathlib.Path, word: str) -> pathlib.Path:
  """Returns `path.word-N` with the smallest free N, to move something to."""
  number = 1
  while os.path.lexists(
    aside := path.with_name(f"{path.name}.{word}-{number}")
  ):
    number += 1
  return aside


@contextlib.contextmanager
def clear_disk_errors(folder: pathlib.Path) -> Iterator[None]:
  """Makes one InputError of whatever a full or forbidden disk raises."""
  try:
    yield
  except InputError:
    raise
  except Exception as error:
    text = str(error).lower()
    for sign, fix in _DISK_ERRORS.items():
      if sign in text:
        raise InputError(
          f"cannot write to {folder} ({sign}): {fix} and run the command"
          " again; it resumes from the last complete checkpoint."
        ) from error
    raise


def require_writable(path: str | pathlib.Path) -> None:
  """Refuses, before any work, an output file that cannot be written."""
  path = pathlib.Path(path)
  if path.is_dir():
    raise InputError(f"cannot write {path}: it is a directory, name a file.")
  _require_folder(path.parent, path)


def require_writable_folder(path: str | pathlib.Path) -> None:
  """Refuses, before any work, a folder in which no file can be written."""
  _require_folder(pathlib.Path(path), path)


def _require_folder(folder: pathlib.Path, what: str | pathlib.Path) -> None:
  """Refuses to write `what` into a folder that is none, or is not writable."""
  while not folder.exists():
    folder = folder.parent
  if not folder.is_dir() or not os.access(folder, os.W_OK):
    raise InputError(
      f"cannot write {what}: {folder} is not a directory that you may write to,"
      " choose another."
    )
