"""The process that shuts a program in, watches it, and tells how it ended.

  caller == job, verdict == supervisor == init     first of the PID namespace
                                       == program  shut in, then Python

The program holds no descriptor but /dev/null and two pipes for its output. It
ran to its end if it stops itself at the place in the stack, as the kernel tells
it, where the runner stopped before the first line; see runner.py. A call from
the program lies deeper, so no Python code reaches that place but the end.

A script of its own, which imports the standard library alone; the job comes
as JSON on one line, the verdict goes out as JSON.
"""

import contextlib
import ctypes
import json
import math
import os
import re
import resource
import select
import shutil
import signal
import sys
import tempfile
import time

import kernel

SCRATCH_BYTES = 64 << 20
FILE_BYTES = 16 << 20
OUTPUT_BYTES = 1 << 20
_MAX_THREADS = 64
_MAX_FILES = 64
_STACK_BYTES = 8 << 20
# Seconds that an interpreter may take to start on a machine that is busy.
_START_SECONDS = 60
_NOBODY = 65534
# The kernel's id of a sandbox's user is its own: none has its files, and none
# counts its threads. Added to a process id, far above people's.
_FIRST_UID = 0x70000000

_DEVICES = [
  "/dev/null",
  "/dev/zero",
  "/dev/full",
  "/dev/random",
  "/dev/urandom",
]
_LIBRARIES = [
  "/lib",
  "/lib64",
  "/usr/lib",
  "/usr/lib64",
  "/usr/share/zoneinfo",
  "/etc/ld.so.cache",
  "/etc/localtime",
]
_NAMESPACES = ("user", "mount", "pid", "network", "ipc")


def _readable(job) -> list[str]:
  """Returns paths that an interpreter needs, none inside another."""
  wanted = {p: os.path.realpath(p) for p in _LIBRARIES if os.path.exists(p)}
  # `/lib` is often a link: the loader asks for it by this name.
  paths = {*wanted, *wanted.values(), *job["python"]}
  inner = {p for p in paths if any(p.startswith(q + "/") for q in paths)}
  return sorted(paths - inner)


def _hidden(job) -> list[str]:
  """Returns the libraries of ctypes, by which machine code would be run."""
  folder = job["dynload"]
  if not os.path.isdir(folder):
    return []
  return [
    os.path.join(folder, name)
    for name in os.listdir(folder)
    if name.startswith("_ctypes") and name.endswith(".so")
  ]


def _enter_namespaces() -> list[str]:
  """Moves this process to what namespaces there are, and returns their names.

  Root maps a user of its own beside itself, which only a process that stays
  outside may do. Others map themselves.
  """
  inner = kernel.PROCESSES | kernel.NETWORK | kernel.IPC | kernel.NAMES
  me, uid, gid = os.getpid(), os.geteuid(), os.getegid()
  go, helper = None, None
  if uid == 0:
    go = os.pipe()
    helper = os.fork()
    if helper == 0:
      with contextlib.suppress(BaseException):
        os.close(go[1])
        if os.read(go[0], 1):
          for kind in ("uid", "gid"):
            with open(f"/proc/{me}/{kind}_map", "w") as file:
              file.write(f"0 0 1\n{_NOBODY} {_FIRST_UID + me} 1\n")
          os._exit(0)
      os._exit(1)
    os.close(go[0])
  try:
    kernel.unshare(kernel.USER | inner)
    unshared = True
  except OSError:
    unshared = False
  mapped = False
  if helper:
    if unshared:
      os.write(go[1], b"1")
    os.close(go[1])
    mapped = os.waitpid(helper, 0)[1] == 0 and unshared
  if unshared and not mapped:
    try:
      with open("/proc/self/setgroups", "w") as file:
        file.write("deny")
      for kind, number in (("uid", uid), ("gid", gid)):
        with open(f"/proc/self/{kind}_map", "w") as file:
          file.write(f"{_NOBODY} {number} 1\n")
    except OSError as error:
      raise _NoNamespacesError(str(error)) from None
  if unshared:
    return list(_NAMESPACES)
  try:
    kernel.unshare(inner)  # root, where users' namespaces are turned off
    return list(_NAMESPACES[1:])
  except OSError:
    return []


def _drop_user(layers, paths, scratch, seen) -> bool:
  """Becomes an unprivileged user, if one can still read the interpreter.

  And if the supervisor can then still see the place in the stack: `seen`.
  """
  if os.getuid() != 0:
    return True
  if not seen:
    return False
  uid = _NOBODY if "user" in layers else _FIRST_UID + os.getppid()
  if "mount" not in layers:
    for path in paths:
      while path != "/":
        wanted = 0o5 if os.path.isdir(path) else 0o4
        if os.stat(path).st_mode & wanted != wanted:
          return False
        path = os.path.dirname(path)
  try:
    if "mount" not in layers:
      os.chown(scratch, uid, uid)
    with contextlib.suppress(OSError):  # a namespace may forbid it
      os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
  except OSError:
    return False
  return True


def _limit(job, layers) -> None:
  seconds = math.ceil(job["seconds"]) + 1
  limits = {
    resource.RLIMIT_AS: job["memory_bytes"],
    resource.RLIMIT_CPU: seconds,
    resource.RLIMIT_FSIZE: FILE_BYTES,
    resource.RLIMIT_NOFILE: _MAX_FILES,
    resource.RLIMIT_CORE: 0,
    resource.RLIMIT_STACK: _STACK_BYTES,
  }
  if "user" in layers or os.getuid() == 0:
    # Elsewhere it counts the other processes of the person too.
    limits[resource.RLIMIT_NPROC] = _MAX_THREADS
  for name, value in limits.items():
    most = resource.getrlimit(name)[1]
    if most != resource.RLIM_INFINITY:
      value = min(value, most)
    resource.setrlimit(name, (value, value))


def _become_program(job, layers, place, pipes, report) -> None:
  """Shuts this process in, layer by layer, and becomes the interpreter."""
  kernel.die_with_parent()
  os.setsid()
  os.umask(0o022)
  for signal_number in range(1, signal.NSIG):
    with contextlib.suppress(OSError, ValueError):
      signal.signal(signal_number, signal.SIG_DFL)
  seen = "user" in layers or kernel.may_look_into_others()
  nothing = os.open("/dev/null", os.O_RDONLY)
  for number, fd in enumerate((nothing, *pipes)):
    os.dup2(fd, number)
  readable = _readable(job)
  scratch = place
  if "mount" in layers:
    python = [p for p in readable if p.startswith("/tmp/")]
    scratch = "/scratch" if python else "/tmp"
    try:
      kernel.enter_root(
        place, readable, _DEVICES, _hidden(job), scratch, SCRATCH_BYTES
      )
    except OSError as error:
      raise _NoNamespacesError(str(error)) from None
  os.chdir(scratch)
  program = os.path.join(scratch, "program.py")
  with open(program, "wb") as file:
    file.write(job["program"].encode("utf-8", "surrogatepass"))
  buffer = ctypes.create_string_buffer(os.fsencode(job["python"][0]))
  without = job["without"]
  _limit(job, layers)
  kernel.no_new_privileges()
  layers += ["rlimits", "no_new_privs"]
  if "landlock" not in without and kernel.landlock_version():
    read = ["/"] if "mount" in layers else [*readable, *_DEVICES]
    kernel.landlock(read, ["/dev/null", scratch])
    layers.append("landlock")
  if _drop_user(layers, readable, scratch, seen):
    layers.append("unprivileged user")
  kernel.drop_capabilities()
  kernel.die_with_parent()  # a change of user undid it
  if "seccomp" not in without and kernel.seccomp_known():
    with contextlib.suppress(OSError):  # a kernel without; it is then refused
      kernel.seccomp(buffer, files="mount" not in layers)
      layers.append("seccomp")
  os.write(report, json.dumps({"layers": layers}).encode() + b"\n")
  runner = f"{job['runner']}\n_prepare({program!r})()\n"
  kernel.execve(
    buffer,
    [
      job["python"][0],
      "-I",
      "-S",
      "-B",
      "-W",
      "ignore",
      "-X",
      "utf8",
      "-c",
      runner,
    ],
    {
      "HOME": scratch,
      "TMPDIR": scratch,
      "LANG": "C.UTF-8",
      "PATH": "",
      "LD_LIBRARY_PATH": job["libraries"],
      # Else each thread maps 64 MiB, which count as its memory.
      "MALLOC_ARENA_MAX": "1",
    },
  )


def _place_in_stack(pid: int) -> tuple | None:
  """Returns a stopped process's system call, stack and program counter.

  Returns:
    The number of the call, its first two arguments, and the two pointers, of
    the main thread; None if it is in no system call, or the kernel won't say.
  """
  try:
    with open(f"/proc/{pid}/syscall") as file:
      words = file.read().split()
  except OSError:
    return None
  return (*words[:3], *words[7:]) if len(words) == 9 else None


def _random_stacks() -> bool:
  """Says whether the next program's stack has another place, as it should."""
  try:
    with open("/proc/sys/kernel/randomize_va_space") as file:
      return file.read().strip() != "0"
  except OSError:
    return False


def _enough(layers) -> bool:
  """Says whether files, processes and the network are shut off."""
  apart = "mount" in layers
  return (
    "witness" in layers
    and "seccomp" in layers
    and (apart or "landlock" in layers)
  )


_HEADER = "Traceback (most recent call last):\n"


def _reason_of(status: int, errors: str, usage, job) -> str:
  """Tells why a program that did not reach its end has ended."""
  if os.WIFSIGNALED(status):
    number = os.WTERMSIG(status)
    spent = usage.ru_utime + usage.ru_stime >= job["seconds"]
    if spent and number in (signal.SIGKILL, signal.SIGXCPU):
      return "timeout"
    return f"killed by signal {number}"
  code = os.WEXITSTATUS(status)
  if code == 1 and _HEADER in errors:
    lines = errors.rpartition(_HEADER)[2].splitlines()
    said = [line for line in lines if re.match(r"[\w.]+(:|$)", line)]
    if said and said[0].startswith("MemoryError"):
      return "memory"
    if said and said[0].startswith("SystemExit"):
      return f"exited early ({said[0]})"
    if said:
      return f"error: {said[0]}"
  # Without memory, nothing can be said of it.
  if code == 1 and usage.ru_maxrss * 1024 > 0.8 * job["memory_bytes"]:
    return "memory"
  return f"exited early (status {code})"


class _NoNamespacesError(Exception):
  """Namespaces that were made, and in which the kernel then forbids all."""

  def told(self) -> dict:
    return {"defect": str(self), "retry": True}


class _Watch:
  """A running program: its pipes, its stops and its end."""

  def __init__(self, job, place):
    self.job, self.place = job, place
    self.layers = []
    self.init = self.pid = None
    self.status = None

  def start(self) -> None:
    """Forks the init process and the program's."""
    without = self.job["without"]
    layers = [] if "namespaces" in without else _enter_namespaces()
    self.wakeup, wake = os.pipe()
    os.set_blocking(wake, False)
    os.set_blocking(self.wakeup, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake)
    if "pid" in layers:
      self.init = os.fork()
      if self.init == 0:
        self._be_init()
    pipes = [os.pipe() for _ in range(2)]
    report, tell = os.pipe()
    self.pid = os.fork()
    if self.pid == 0:
      try:
        writers = [w for _, w in pipes]
        _become_program(self.job, layers, self.place, writers, tell)
      except _NoNamespacesError as error:
        os.write(tell, json.dumps(error.told()).encode() + b"\n")
      except BaseException as error:
        text = json.dumps({"defect": f"{type(error).__name__}: {error}"})
        os.write(tell, text.encode() + b"\n")
      os._exit(1)
    for _, writer in pipes:
      os.close(writer)
    os.close(tell)
    self.readers = [r for r, _ in pipes]
    self.report = report

  def _be_init(self):
    kernel.die_with_parent()
    signal.set_wakeup_fd(-1)
    os.closerange(0, 1024)
    while True:
      signal.pause()

  def kill(self) -> None:
    """Ends the program and all that it started."""
    for pid in (self.init, self.pid):
      if pid:
        with contextlib.suppress(ProcessLookupError):
          os.kill(pid, signal.SIGKILL)
    for pid in (self.pid, self.init):
      if pid:
        with contextlib.suppress(ChildProcessError):
          os.waitpid(pid, 0)
    self.init = self.pid = None

  def told(self) -> dict:
    """Returns what the program's process told before it was shut in."""
    with open(self.report, "rb") as file:  # it closes when it is replaced
      lines = file.read().splitlines()
    told = [json.loads(line) for line in lines]
    return {key: line[key] for line in told for key in line}

  def watch(self) -> dict:
    """Waits for the program's end, and returns the verdict."""
    told = self.told()
    if "defect" in told or "layers" not in told:
      return told or {"defect": "it died while it was shut in"}
    self.layers = told["layers"]
    poll = select.poll()
    poll.register(0, 0)  # the caller's end: it hangs up when it dies
    poll.register(self.wakeup, select.POLLIN)
    for fd in self.readers:
      poll.register(fd, select.POLLIN)
    size, errors = 0, b""
    begun = None
    deadline = time.monotonic() + _START_SECONDS
    while True:
      left = deadline - time.monotonic()
      if left <= 0:
        if begun is None:
          return {"defect": "the interpreter did not start"}
        return self._says("timeout")
      for fd, event in poll.poll(left * 1000 + 1):
        if fd == 0:
          sys.exit(1)
        elif fd == self.wakeup:
          os.read(fd, 4096)
        elif event & select.POLLIN:
          data = os.read(fd, 65536)
          size += len(data)
          if fd == self.readers[1]:
            errors += data
        else:
          poll.unregister(fd)
      if size > OUTPUT_BYTES:
        return self._says("output")
      pid, status, usage = os.wait4(self.pid, os.WNOHANG | os.WUNTRACED)
      if not pid:
        continue
      if not os.WIFSTOPPED(status):
        self.pid = None
        errors = self._rest_of(errors)
        if begun is None:
          said = errors.decode("utf-8", "replace").strip().splitlines()
          return {"defect": (said or ["the interpreter did not start"])[-1]}
        text = errors.decode("utf-8", "replace")
        return self._says(_reason_of(status, text, usage, self.job))
      place = _place_in_stack(self.pid)
      if begun is None:
        begun = place or ()
        if place and _random_stacks() and "witness" not in self.job["without"]:
          self.layers.append("witness")
        if not (self.job["unsafe"] or _enough(self.layers)):
          return {"refused": True, "layers": self.layers}
        deadline = time.monotonic() + self.job["seconds"]
        os.kill(self.pid, signal.SIGCONT)
      elif "witness" not in self.layers or place == begun:
        return self._says("passed")
      else:
        return self._says("stopped itself")

  def _rest_of(self, errors: bytes) -> bytes:
    """Reads what the pipe of errors still holds."""
    fd = self.readers[1]
    os.set_blocking(fd, False)
    with contextlib.suppress(BlockingIOError):
      while data := os.read(fd, 65536):
        errors += data
    return errors

  def _says(self, reason: str) -> dict:
    return {"reason": reason, "layers": self.layers}


def _remove(place: str) -> None:
  """Removes the scratch folder, whatever modes the program gave to its own."""
  for folder, names, _ in os.walk(place):
    for name in names:
      path = os.path.join(folder, name)
      if not os.path.islink(path):
        os.chmod(path, 0o700)
  shutil.rmtree(place, ignore_errors=True)


def main() -> None:
  """Reads a job, runs its program, and writes the verdict."""
  job = json.loads(sys.stdin.buffer.readline())
  # Whatever happens to this process, the kernel ends the others with it.
  signal.alarm(int(job["seconds"]) + 2 * _START_SECONDS)
  place = tempfile.mkdtemp(prefix="flexmdm_sandbox_")
  watch = _Watch(job, place)
  try:
    watch.start()
    verdict = watch.watch()
  except _NoNamespacesError as error:
    verdict = error.told()
  finally:
    watch.kill()
    _remove(place)
  sys.stdout.write(json.dumps(verdict))
