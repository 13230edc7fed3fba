"""The lock of a work directory: one training writes in it at a time.

It is a file that names its holder, whose time a thread of the holder renews.
A dead process keeps no lock: on the holder's machine it is known at once that
it is dead, and elsewhere, as on a network file system, when the file was not
renewed for a minute. No two clocks are compared.
"""

import contextlib
import hashlib
import json
import logging
import os
import pathlib
import platform
import threading
import time
import uuid
from typing import Any, NamedTuple

from flexmdm_jax.errors import InputError

NAME = "lock.json"
_RENEW_SECONDS = 10.0
_LEASE_SECONDS = 60.0
_PAUSE_SECONDS = 0.05
_LOOKS = 120  # at a holder elsewhere, within the lease


class _Seen(NamedTuple):
  """A lock file at one moment: its text, and when it was renewed."""

  text: str
  renewed: int


class Lock:
  """The right to write in a work directory; a context manager."""

  def __init__(
    self,
    folder: pathlib.Path,
    renew_seconds: float = _RENEW_SECONDS,
    lease_seconds: float = _LEASE_SECONDS,
  ):
    """Takes the lock of a folder, or waits until its holder is seen dead.

    Args:
      folder: the work directory; it must exist.
      renew_seconds: time between renewals.
      lease_seconds: time without a renewal after which a holder on another
        machine is taken for dead.

    Raises:
      InputError: another process, or this one, holds it.
      OSError: the folder cannot be written.
    """
    self._path = pathlib.Path(folder).absolute() / NAME
    self._renew_seconds = renew_seconds
    self._lease_seconds = lease_seconds
    self._text = json.dumps(
      {
        "host": platform.node(),
        "process": os.getpid(),
        "since": time.strftime("%Y-%m-%d %H:%M:%S %z"),
        "machine": _machine(),
        "started": _start_time(os.getpid()),
        "token": uuid.uuid4().hex,
      }
    )
    self._lost = ""
    self._renewed = time.monotonic()
    self._ended = threading.Event()
    self._acquire()
    self._thread = threading.Thread(
      target=self._keep, name="lock of the work directory", daemon=True
    )
    self._thread.start()

  def __enter__(self) -> "Lock":
    return self

  def __exit__(self, *_) -> None:
    self.release()

  def moved(self, folder: pathlib.Path) -> None:
    """Tells the lock that its folder, with it inside, has a new name."""
    self._path = pathlib.Path(folder).absolute() / NAME

  def release(self) -> None:
    """Gives the lock back; what cannot be removed runs out by itself."""
    self._ended.set()
    self._thread.join()
    with contextlib.suppress(OSError):
      if (seen := _look(self._path)) and seen.text == self._text:
        self._path.unlink()

  def require_held(self) -> None:
    """Refuses to go on where another process has taken the lock.

    It can have, if this one was stopped for longer than the lease. This reads
    no file unless the thread has not come to renew it.

    Raises:
      InputError: it has.
    """
    if time.monotonic() - self._renewed > self._lease_seconds / 2:
      self._renew()
    if self._lost:
      raise InputError(self._lost)

  def _acquire(self) -> None:
    """Makes the file, once there is none or its holder is dead."""
    while not _create(self._path, self._text):
      seen = _look(self._path)
      if seen is None:  # removed; or its holder has just released it
        continue
      holder = _parse(seen.text)
      lives = self._has_living_holder(self._path, seen)
      if lives is None:
        continue
      if lives:
        raise InputError(
          f"{self._path.parent} is in use by {_name(holder)}: wait for its end,"
          f" stop it, or choose another workdir. (In a copy, remove {NAME}.)"
        )
      logging.warning(
        "%s was of %s, which is dead: taking it", self._path, _name(holder)
      )
      self._remove(seen)

  def _remove(self, dead: _Seen) -> None:
    """Removes a dead holder's file, unless it is another's by now.

    Of several processes that see it dead, one at a time may: who makes a file
    that is named after that holder. So nobody removes the next holder's.
    """
    name = hashlib.sha256(dead.text.encode()).hexdigest()[:16]
    claim = self._path.with_name(f"{self._path.name}.{name}")
    if not _create(claim, self._text):
      time.sleep(_PAUSE_SECONDS)
      other = _look(claim)
      # It is there for a moment, unless who made it died in that.
      if other is not None and self._has_living_holder(claim, other) is False:
        claim.unlink(missing_ok=True)
      return
    seen = _look(self._path)
    if seen is not None and seen.text == dead.text:
      self._path.unlink()
    claim.unlink(missing_ok=True)

  def _has_living_holder(self, path: pathlib.Path, seen: _Seen) -> bool | None:
    """Tells whether a file's holder lives; None if the file has changed.

    Of a holder elsewhere its renewals tell.
    """
    holder = _parse(seen.text)
    if (lives := _lives(holder)) is not None:
      return lives
    logging.warning(
      "waiting up to %.0f s to see whether %s still holds %s",
      self._lease_seconds,
      _name(holder),
      path,
    )
    # Counted, not timed: while a file system hangs, the holder cannot renew.
    for _ in range(_LOOKS):
      time.sleep(self._lease_seconds / _LOOKS)
      now = _look(path)
      if now is None or now.text != seen.text:
        return None
      if now.renewed != seen.renewed:
        return True
    return False

  def _keep(self) -> None:
    """Renews the lock until it is released; the thread's whole work."""
    while not self._ended.wait(self._renew_seconds):
      self._renew()

  def _renew(self) -> None:
    """Renews the file, or notes that it is another's."""
    try:
      _create(self._path, self._text)  # if somebody removed it by hand
      seen = _look(self._path)
      if seen is not None and seen.text != self._text:
        self._lost = (
          f"{self._path.parent} was taken by {_name(_parse(seen.text))} while"
          " this process was stopped: let that one go on, or stop it and start"
          " this one again."
        )
        return
      os.utime(self._path)
      self._renewed = time.monotonic()
    except OSError:  # the disk may come back; until then the lease runs out
      pass


def _create(path: pathlib.Path, text: str) -> bool:
  """Makes a file that is not there; False if it is.

  Raises:
    OSError: it cannot be written; none is left.
  """
  try:
    descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
  except FileExistsError:
    return False
  try:
    with os.fdopen(descriptor, "w") as file:
      file.write(text)
  except OSError:
    path.unlink()
    raise
  return True


def _look(path: pathlib.Path) -> _Seen | None:
  """Reads a lock file; None if there is none.

  Opening it makes a network file system ask its server how old the file is.
  """
  try:
    with path.open(errors="replace") as file:
      return _Seen(file.read(), os.fstat(file.fileno()).st_mtime_ns)
  except FileNotFoundError:
    return None


def _parse(text: str) -> dict[str, Any]:
  """Parses a lock file's text; an empty dict if it is half written."""
  try:
    holder = json.loads(text)
  except ValueError:
    return {}
  return holder if isinstance(holder, dict) else {}


def _name(holder: dict[str, Any]) -> str:
  """Names a lock's holder for a message."""
  if not holder:
    return "an unknown process"
  return (
    f"process {holder.get('process')} on host {holder.get('host')} since"
    f" {holder.get('since')}"
  )


def _machine() -> str | None:
  """Names what process ids belong to: one start of a machine, one container.

  None where that cannot be told, which is elsewhere than on Linux.
  """
  try:
    boot = pathlib.Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"{boot} {os.readlink('/proc/self/ns/pid')}"
  except OSError:
    return None


def _lives(holder: dict[str, Any]) -> bool | None:
  """Tells whether a holder's process lives; None if it cannot be told here."""
  process = holder.get("process")
  if holder.get("machine") != _machine() or None in (process, _machine()):
    return None
  try:
    os.kill(process, 0)
  except ProcessLookupError:
    return False
  except (OSError, TypeError, OverflowError):  # another user's; no process id
    return None
  started = _start_time(process)
  # The id may have been given to another process since.
  return None if started is None else started == holder.get("started")


def _start_time(process: int) -> int | None:
  """Reads when a process started, in clock ticks since the machine did.

  Returns:
    -1 if it has ended and waits for its parent to notice; None if that cannot
    be read.
  """
  try:
    text = pathlib.Path(f"/proc/{process}/stat").read_text()
    # Its name, in parentheses, may hold spaces and parentheses.
    state, *fields = text.rpartition(")")[2].split()
    return -1 if state in "ZX" else int(fields[18])
  except (OSError, ValueError, IndexError):
    return None
