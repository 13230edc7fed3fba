"""Checksums of the files in a folder, kept in a file beside them.

A CRC-32 sees every single byte that changed, and what a broken disk or copy
leaves in all but one of 2^32 cases. It guards against accidents, not against
a person. It runs at 4 GB/s of one CPU core, where BLAKE2 does .9.
"""

import concurrent.futures
import contextlib
import contextvars
import json
import os
import pathlib
import zlib
from collections.abc import Callable, Iterator

NAME = "flexmdm_checksums.json"
_BLOCK_BYTES = 4 << 20

_verifying = contextvars.ContextVar("verifying", default=True)


class DamageError(ValueError):
  """A file is not as it was written; the message names it."""


@contextlib.contextmanager
def unverified() -> Iterator[None]:
  """Makes `verify` let everything pass, within the block and this thread."""
  token = _verifying.set(False)
  try:
    yield
  finally:
    _verifying.reset(token)


def write(
  folder: pathlib.Path, covers: Callable[[str], bool] = lambda name: True
) -> None:
  """Notes size and checksum of the files in a folder and below.

  Call it when they are complete. An earlier note is replaced.

  Args:
    folder: where the files are; `flexmdm_checksums.json` is made in it.
    covers: tells by its name, relative to `folder`, whether to note a file.

  Raises:
    OSError: a file cannot be read, or the note cannot be written.
  """
  folder = pathlib.Path(folder)
  names = sorted(
    path.relative_to(folder).as_posix()
    for path in folder.rglob("*")
    if path.is_file()
  )
  names = [name for name in names if name != NAME and covers(name)]
  found = _in_threads(lambda name: _sum(folder / name), names)
  noted = {"crc32": dict(zip(names, found, strict=True))}
  (folder / NAME).write_text(json.dumps(noted, indent=1) + "\n")


def verify(
  folder: pathlib.Path, covers: Callable[[str], bool] = lambda name: True
) -> bool:
  """Compares the files of a folder with what `write` noted.

  Files that came later are not looked at.

  Args:
    folder: as for `write`.
    covers: tells by its name, relative to `folder`, whether to read a file.

  Returns:
    False if the folder has no note: nothing is known of its files.

  Raises:
    DamageError: a file is missing, has another size or another content, or
      cannot be read; or the note is damaged.
  """
  if not _verifying.get():
    return True
  note = pathlib.Path(folder) / NAME
  try:
    noted = json.loads(note.read_text())["crc32"]
    names = [name for name in noted if covers(name)]
    expected = [(int(noted[x][0]), str(noted[x][1])) for x in names]
  except FileNotFoundError:
    return False
  except (OSError, ValueError, TypeError, LookupError) as error:
    raise DamageError(f"{note} is damaged") from error

  def compare(job: tuple[str, tuple[int, str]]) -> str:
    path = folder / job[0]
    try:
      size = path.stat().st_size
      if size != job[1][0]:
        return f"{path} has {size} bytes instead of {job[1][0]}"
      if tuple(_sum(path)) != job[1]:
        return f"{path} has another content than was written"
    except (OSError, ValueError) as error:  # or no name that a file can have
      return f"{path} cannot be read ({error})"
    return ""

  problems = _in_threads(compare, zip(names, expected, strict=True))
  for problem in filter(None, problems):
    raise DamageError(problem)
  return True


def _sum(path: pathlib.Path) -> list:
  """Computes the bytes of a file, and their CRC-32 in hexadecimal digits."""
  size, crc = 0, 0
  block = memoryview(bytearray(_BLOCK_BYTES))
  with path.open("rb", buffering=0) as file:
    while count := file.readinto(block):
      size += count
      crc = zlib.crc32(block[:count], crc)
  return [size, f"{crc:08x}"]


def _in_threads(function, jobs) -> list:
  """Maps a function that mostly waits, or leaves Python's lock to others."""
  # A network file system serves more files at once than a host has cores.
  workers = min(32, 4 * (os.cpu_count() or 1))
  with concurrent.futures.ThreadPoolExecutor(workers) as pool:
    return list(pool.map(function, jobs))
