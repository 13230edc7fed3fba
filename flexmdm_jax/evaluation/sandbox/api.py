"""Runs programs that a model wrote; docs/sandbox.md tells what holds them."""

import concurrent.futures
import contextlib
import dataclasses
import functools
import json
import math
import os
import pathlib
import subprocess
import sys
import sysconfig
from collections.abc import Iterable, Iterator

from flexmdm_jax.errors import InputError

_FOLDER = pathlib.Path(__file__).parent
# An interpreter maps some 20 MiB before it runs a line.
_LEAST_MEMORY = 32 << 20
_END_SECONDS = 10
_MOST_CHARACTERS = 4 << 20
_START = f"import sys; sys.path[:0] = [{str(_FOLDER)!r}]; import supervisor"


@dataclasses.dataclass(frozen=True)
class Verdict:
  """How a program ended.

  Attributes:
    passed: whether it ran to its end.
    reason: one line that begins with fixed words: "passed", "timeout",
      "memory", "output", "error: ", "exited early", "stopped itself" or
      "killed by signal ".
  """

  passed: bool
  reason: str


def run_program(
  program: str, *, seconds: float, memory_bytes: int, unsafe: bool = False
) -> Verdict:
  """Runs a Python program shut in, and tells whether it ran to its end.

  Args:
    program: its text. It runs as `__main__` in a scratch folder, in a new
      interpreter of this Python with the standard library alone.
    seconds: wall time from its first line on.
    memory_bytes: address space, at least 32 MiB.
    unsafe: runs it also where this machine cannot shut it in.

  Raises:
    InputError: if a limit is out of range, or this machine cannot shut a
      program in.
    RuntimeError: if the sandbox itself fails, whatever the program does.
  """
  _check_limits(seconds, memory_bytes)
  if not isinstance(program, str):
    raise InputError(f"program is {type(program).__name__}, must be text")
  if len(program) > _MOST_CHARACTERS:
    return Verdict(False, "error: the program is longer than 4 MiB")
  said = _supervise(program, seconds, memory_bytes, unsafe)
  if said.get("refused"):
    raise InputError(_refusal(said["layers"]))
  line = "".join(c if c.isprintable() else "?" for c in said["reason"])
  return Verdict(line == "passed", line[:300])


def run_programs(
  programs: Iterable[str],
  *,
  seconds: float,
  memory_bytes: int,
  num_workers: int | None = None,
  unsafe: bool = False,
) -> Iterator[Verdict]:
  """Runs programs in parallel; verdicts come in the order of the programs.

  Args:
    programs: texts, which are all read at once.
    seconds: as of `run_program`, as are memory_bytes and unsafe.
    memory_bytes: address space of each.
    num_workers: programs at a time; None takes one for each core.
    unsafe: runs them also where this machine cannot shut them in.

  Raises:
    InputError: as `run_program`.
    RuntimeError: as `run_program`.
  """
  _check_limits(seconds, memory_bytes)
  if num_workers is None:
    num_workers = len(os.sched_getaffinity(0)) if _is_linux() else 1
  if num_workers < 1:
    raise InputError(f"num_workers is {num_workers}, must be at least 1")
  run = functools.partial(
    run_program, seconds=seconds, memory_bytes=memory_bytes, unsafe=unsafe
  )
  return _in_order(run, list(programs), num_workers)


def _in_order(run, programs, num_workers):
  with concurrent.futures.ThreadPoolExecutor(num_workers) as pool:
    yield from pool.map(run, programs)


def active_layers() -> tuple[str, ...]:
  """Tells what shuts a program in on this machine, by running an empty one.

  Returns:
    Some of "user", "mount", "pid", "network", "ipc" (namespaces), "rlimits",
    "no_new_privs", "landlock", "unprivileged user", "seccomp" and "witness",
    which tells the end of a program from what it claims.

  Raises:
    InputError: off Linux.
    RuntimeError: if the sandbox itself fails.
  """
  return tuple(_supervise("", 10.0, 256 << 20, True)["layers"])


def _is_linux() -> bool:
  return sys.platform == "linux"


def _check_limits(seconds, memory_bytes) -> None:
  number = isinstance(seconds, int | float) and not isinstance(seconds, bool)
  if not (number and math.isfinite(seconds) and 0 < seconds <= 86400):
    raise InputError(f"seconds is {seconds!r}, must be above 0, at most 86400")
  if not isinstance(memory_bytes, int) or memory_bytes < _LEAST_MEMORY:
    raise InputError(
      f"memory_bytes is {memory_bytes!r}, must be an integer of at least"
      f" {_LEAST_MEMORY} (32 MiB)"
    )
  if not _is_linux():
    raise InputError(
      f"programs run in a sandbox on Linux only, this is {sys.platform}: run"
      " it in a Linux container or machine"
    )


def _refusal(layers) -> str:
  return (
    "this machine cannot shut a program in: it lacks user namespaces or"
    " Landlock, or seccomp, or /proc/PID/syscall (it has"
    f" {', '.join(layers)}); allow them, or give unsafe=True where programs"
    " are trusted"
  )


@functools.cache
def _interpreter() -> dict:
  """Returns the paths of this Python: program and library, real ones."""
  stdlib = os.path.realpath(sysconfig.get_path("stdlib"))
  # A virtual environment's own program reads its settings: the base's it is.
  program = getattr(sys, "_base_executable", None) or sys.executable
  names = (program, sys.base_prefix, sys.base_exec_prefix, stdlib)
  return {
    "python": [os.path.realpath(name) for name in names],
    "dynload": os.path.join(stdlib, "lib-dynload"),
    # Of a shared libpython that the program does not find by itself.
    "libraries": os.path.join(os.path.realpath(sys.base_prefix), "lib"),
    "runner": (_FOLDER / "runner.py").read_text(),
  }


def _supervise(program, seconds, memory_bytes, unsafe, without=()) -> dict:
  """Runs the supervisor, and returns what it wrote.

  Args:
    program: text of the program.
    seconds: wall time.
    memory_bytes: address space.
    unsafe: whether too few layers will do.
    without: layers to leave out, of "namespaces", "landlock", "seccomp" and
      "witness"; for tests.
  """
  interpreter = _interpreter()
  job = {
    "program": program,
    "seconds": seconds,
    "memory_bytes": memory_bytes,
    "unsafe": unsafe,
    "without": list(without),
    **interpreter,
  }
  process = subprocess.Popen(
    [
      interpreter["python"][0],
      "-I",
      "-S",
      "-c",
      f"{_START}; supervisor.main()",
    ],
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    env={"LANG": "C.UTF-8", "LD_LIBRARY_PATH": interpreter["libraries"]},
    cwd="/",
    start_new_session=True,
  )
  try:
    # Its input stays open: where it closes, the supervisor ends all.
    with contextlib.suppress(BrokenPipeError):  # its own words come below
      process.stdin.write(json.dumps(job).encode() + b"\n")
      process.stdin.flush()
    out = process.stdout.read()
    errors = process.stderr.read()
  finally:
    with contextlib.suppress(BrokenPipeError):
      process.stdin.close()  # it then ends the program and cleans up
    try:
      process.wait(_END_SECONDS)
    except subprocess.TimeoutExpired:
      process.kill()
      process.wait()
    process.stdout.close()
    process.stderr.close()
  said = json.loads(out) if out else {}
  if "reason" in said or "refused" in said:
    return said
  if said.get("retry") and "namespaces" not in without:
    without = (*without, "namespaces")
    return _supervise(program, seconds, memory_bytes, unsafe, without)
  lines = errors.decode("utf-8", "replace").strip().splitlines()
  why = said.get("defect") or (lines or ["it died"])[-1]
  raise RuntimeError(f"the sandbox could not run a program: {why}")
