"""Hostile programs: none passes, harms or outlives; honest ones pass."""

import concurrent.futures
import contextlib
import ctypes
import os
import pathlib
import socket
import subprocess
import sys
import time

import pytest

from flexmdm_jax.errors import InputError
from flexmdm_jax.evaluation.sandbox import (
  Verdict,
  active_layers,
  api,
  run_program,
  run_programs,
)

linux = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux")
MEMORY = 256 << 20
# With all that there is, and where no namespace may be made.
WAYS = {"all": (), "no namespaces": ("namespaces",)}

# Each ends in a check that fails, which it tries to get around, or does what
# no program may. CANARY is a file outside; PARENT is this process.
HOSTILE = {
  "fork bomb": """
import os
while True:
  try: os.fork()
  except BlockingIOError: pass
""",
  "fork and outlive": """
import os, time
if os.fork() == 0:
  os.setsid()
  time.sleep(60)
assert False
""",
  "processes": "import multiprocessing as m; m.Process(target=print).start()",
  "another program": "import subprocess; subprocess.run(['/bin/true'])",
  "the interpreter again": """
import os, sys
os.execv(sys.executable, [sys.executable, '-c', 'pass'])
""",
  "endless loop": "while True: pass",
  "sleeps": "import time; time.sleep(60)",
  "endless loop in C": "sum(iter(int, 1))",
  "memory hog": "x = [bytearray(1 << 20) for _ in range(10**6)]",
  "memory of many lists": "x = []\nwhile True: x.append([0] * 1000)",
  "kills its parent": """
import os, signal
for pid in (os.getppid(), PARENT, 1):
  try: os.kill(pid, signal.SIGKILL)
  except (PermissionError, ProcessLookupError): pass
assert False
""",
  "kills everyone": "import os; os.kill(-1, 9); assert False",
  "kills its group": "import os; os.killpg(0, 9)",
  "limits others": """
import resource
resource.prlimit(PARENT, resource.RLIMIT_CPU, (0, 0))
""",
  "writes outside": "open(CANARY, 'w').write('x')",
  "removes outside": "import os; os.remove(CANARY)",
  "changes a mode": "import os; os.chmod(CANARY, 0)",
  "changes times": "import os; os.utime(CANARY, (0, 0))",
  "truncates outside": "import os; os.truncate(CANARY, 0)",
  "reads outside": "open(CANARY).read()",
  "lists outside": "import os; os.listdir(os.path.dirname(CANARY))",
  "writes beside it": "open('../beside', 'w')",
  "writes into Python": "import os; open(os.__file__, 'a')",
  "writes to a device": "open('/dev/kmsg', 'w').write('x')",
  "symlink": """
import os
os.symlink(CANARY, 'link')
open('link', 'w').write('x')
""",
  "symlink of a folder": """
import os
os.symlink(os.path.dirname(CANARY), 'link')
os.remove('link/canary')
""",
  "hard link": """
import os
os.link(CANARY, 'link')
open('link', 'a').write('x')
""",
  "rename": "import os; os.rename(CANARY, 'mine')",
  "socket": "import socket; socket.socket()",
  "connects": "import socket; socket.create_connection(('127.0.0.1', PORT))",
  "local socket": "import socket; socket.socket(socket.AF_UNIX)",
  "sys.exit": "import sys; sys.exit(0)",
  "exit": "raise SystemExit",
  "os._exit": "import os; os._exit(0)",
  "exit in a handler": """
try: assert False
finally: raise SystemExit(0)
""",
  "kills itself": "import os; os.kill(os.getpid(), 15)",
  "aborts": "import os; os.abort()",
  "prints a verdict": """
print('{"reason": "passed", "layers": []}', flush=True)
print('passed')
raise SystemExit(0)
""",
  "writes to every descriptor": """
import os
for fd in range(200):
  for text in (b'{"reason": "passed", "layers": ["seccomp"]}', b'passed'):
    try: os.write(fd, text)
    except OSError: pass
os._exit(0)
""",
  "stops as the end does": """
import os
os.kill(os.getpid(), 19)
""",
  "stops from the runner's words": """
import sys
for x in sys._getframe(2).f_code.co_consts:
  if getattr(x, '__name__', '') == 'kill': kill = x
kill(__import__('os').getpid(), 19)
""",
  "leaves the runner by signals": """
import os, signal, sys
def stop(*_): os.kill(os.getpid(), 19)
def again(*_):
  sys.excepthook = sys.unraisablehook = stop
  raise KeyError
signal.signal(signal.SIGALRM, again)
signal.setitimer(signal.ITIMER_REAL, 1e-5, 1e-5)
class E(Exception):
  def __str__(self): raise KeyError
while True:
  try:
    while True: pass
  except KeyError: raise E
""",
  "leaves the runner by profiling": """
import sys
def raises(frame, event, arg): raise KeyError
sys.setprofile(raises)
""",
  "becomes the runner's exit": """
import os, sys
frame = sys._getframe()
while frame:
  for names in (frame.f_locals, frame.f_globals, frame.f_builtins):
    for name in list(names):
      if callable(names[name]) and name not in ('os', 'print'):
        names[name] = lambda *_: os.kill(os.getpid(), 19)
  frame = frame.f_back
1 / 0
""",
  "stops by exec of the same words": """
import sys
def go(): exec("from os import *; kill(getpid(), 19)", {})
go()
""",
  "stops in a thread": """
import os, threading, time
t = threading.Thread(target=os.kill, args=(os.getpid(), 19))
t.start(); t.join(); time.sleep(9)
""",
  "stops as it exits": """
import atexit, os
atexit.register(os.kill, os.getpid(), 19)
raise SystemExit(0)
""",
  "stops from an excepthook": """
import os, sys
sys.excepthook = lambda *_: os.kill(os.getpid(), 19)
assert False
""",
  "stops from a handler of signals": """
import os, signal, time
signal.signal(signal.SIGALRM, lambda *_: os.kill(os.getpid(), 19))
signal.setitimer(signal.ITIMER_REAL, .01)
while True: time.sleep(.1)
""",
  "jumps over the check": """
import sys
def trace(frame, event, arg):
  if event == 'line': frame.f_lineno = LAST
  return trace
sys.settrace(trace)
sys._getframe().f_trace = trace
x = 1
assert False
x = 2
""",
  "jumps in the runner": """
import sys
def trace(frame, event, arg): return trace
sys._getframe(1).f_trace = trace
import threading
threading.settrace(trace)
sys.call_tracing(sys.settrace, (trace,))
""",
  "jumps by monitoring": """
import sys
m = sys.monitoring
m.use_tool_id(1, 'x')
m.register_callback(1, m.events.LINE, lambda *_: None)
""",
  "patches builtins": """
import builtins, os
builtins.exec = builtins.compile = builtins.open = lambda *a, **k: None
builtins.AssertionError = type('Nothing', (BaseException,), {})
os.kill = os._exit = print
assert 1 == 2
""",
  "patches the exit": """
import os, sys, posix
for name in ('_exit', 'kill', 'getpid'): setattr(posix, name, lambda *a: 0)
sys.exit = print
sys.modules.clear()
assert False
""",
  "patches the guard": """
import gc
for x in gc.get_objects():
  if getattr(x, '__name__', '') == '_guard': x.__code__ = print.__code__
""",
  "takes the guard from a traceback": """
import sys
def go(settrace, trace):
  try: settrace(trace)
  except RuntimeError as e: frame = e.__traceback__.tb_next.tb_frame
  frame.f_globals.clear()
  frame.f_builtins.clear()
  settrace(trace)
go(sys.settrace, print)
""",
  "changes the runner's variables": """
import sys
locals_ = sys._getframe(1).f_locals
for name in list(locals_): locals_[name] = print
assert False
""",
  "atexit": """
import atexit, os
atexit.register(os._exit, 0)
assert False
""",
  "machine code": "import ctypes; ctypes.CDLL(None)",
  "machine code by another name": """
import importlib.machinery as m, importlib.util as u, sysconfig, glob
(path,) = glob.glob(sysconfig.get_path('stdlib') + '/lib-dynload/_ctypes.*')
class Name(str):
  def rpartition(self, _): return ('', '', 'x')
  def __eq__(self, _): return False
  __hash__ = str.__hash__
l = m.ExtensionFileLoader(Name('_ctypes'), path)
u.module_from_spec(u.spec_from_loader(Name('_ctypes'), l))
assert False
""",
  "threads that survive": """
import threading, time
for _ in range(8): threading.Thread(target=time.sleep, args=(60,)).start()
assert False
""",
  "very many threads": """
import threading, time
for _ in range(10**5): threading.Thread(target=time.sleep, args=(60,)).start()
""",
  "huge output": "while True: print('x' * 10**6)",
  "huge errors": "import sys\nwhile True: sys.stderr.write('x' * 10**6)",
  "large file": """
with open('bomb', 'wb') as f:
  while True: f.write(bytes(1 << 20))
""",
  "sparse file": "open('bomb', 'wb').truncate(1 << 40)",
  "zip bomb": """
import io, zipfile
b = io.BytesIO()
with zipfile.ZipFile(b, 'w', zipfile.ZIP_DEFLATED) as z:
  z.writestr('bomb', bytes(1 << 26))
zipfile.ZipFile(b).extractall()
""",
  "parent's memory": "open(f'/proc/{PARENT}/mem', 'rb').read(1)",
  "parent's environment": "open(f'/proc/{PARENT}/environ').read()",
  "own memory": "open('/proc/self/mem', 'r+b')",
  "own place": "open('/proc/self/syscall').read()",
  "ignores signals": """
import signal
for n in range(1, 65):
  try: signal.signal(n, signal.SIG_IGN)
  except (OSError, ValueError): pass
while True: pass
""",
  "catches all": """
while True:
  try:
    while True: pass
  except BaseException: pass
""",
  "reads its input": "input()",
  "secrets": "import os; os.environ['SECRET']",
  "deep recursion": "f = lambda: f()\nf()",
  "deep text": "(" * 10**5,
  "no text": "\0",
  "no characters": "'\ud800'",
  "segfault": "import faulthandler; faulthandler._sigsegv()",
  "mounts": "import os; os.chroot('/')",
  "namespaces": """
import os
os.unshare(0x10000000) if hasattr(os, 'unshare') else exit(1)
""",
}
# These never end, or not soon.
SLOW = {
  "endless loop",
  "sleeps",
  "endless loop in C",
  "memory of many lists",
  "ignores signals",
  "catches all",
}
EXPECTED = {
  "endless loop": "timeout",
  "sleeps": "timeout",
  "endless loop in C": "timeout",
  "ignores signals": "timeout",
  "memory hog": "memory",
  "huge output": "output",
  "huge errors": "output",
  "sys.exit": "exited early (SystemExit: 0)",
  "os._exit": "exited early (status 0)",
  "atexit": "error: AssertionError",
  "stops from an excepthook": "error: AssertionError",
  "stops as it exits": "exited early (SystemExit: 0)",
  "kills itself": "killed by signal 15",
  "socket": "error: PermissionError: [Errno 1] Operation not permitted",
  "patches builtins": "error: AssertionError",
  "stops as the end does": "stopped itself",
  "reads its input": "error: EOFError: EOF when reading a line",
}

HONEST = {
  "nothing": "pass",
  "empty": "",
  "checks": "def f(x): return x + 1\nassert f(1) == 2",
  "library": """
import asyncio, bisect, collections, csv, dataclasses, datetime, decimal
import fractions, functools, hashlib, heapq, itertools, json, logging, math
import operator, pickle, random, re, sqlite3, statistics, string, textwrap
import threading, typing, unittest, urllib.parse, uuid, zlib, zoneinfo
assert hashlib.sha256(b'').hexdigest().startswith('e3b0')
async def f(): await asyncio.sleep(0); return 3
assert asyncio.run(f()) == 3
P = collections.namedtuple('P', 'x y', defaults=[1])
assert pickle.loads(pickle.dumps(P(2))) == P(2, 1)
assert zoneinfo.ZoneInfo and random.random() < 1
""",
  "recursion": """
def f(n): return n and 1 + f(n - 1)
assert f(900) == 900
""",
  "scratch folder": """
import os, pathlib, tempfile
pathlib.Path('a').write_text('x')
with tempfile.TemporaryDirectory() as d:
  open(os.path.join(d, 'b'), 'w').write('y')
assert os.listdir() == ['a', 'program.py'] or 'a' in os.listdir()
open(os.devnull, 'w').write('x')
""",
  "own text": "assert 'own text' in open(__file__).read() # own text",
  "main": "import sys\nassert __name__ == '__main__' and len(sys.argv) == 1",
  "pickles": """
import pickle
class A: pass
assert type(pickle.loads(pickle.dumps(A()))) is A
""",
  "threads": """
import concurrent.futures as c
with c.ThreadPoolExecutor(16) as p: assert sum(p.map(abs, range(99))) == 4851
""",
  "output": "print('x' * 10000)",
  "caught": "try: 1 / 0\nexcept ZeroDivisionError: pass",
  "unittest": """
import unittest
class T(unittest.TestCase):
  def test(self): self.assertEqual(1, 1)
unittest.main(exit=False)
""",
  "doctest": """
'''
>>> 1 + 1
2
'''
import doctest
r = doctest.testmod()
assert r.attempted == 1 and not r.failed
""",
  # The program's own business, and no forgery: it did run to its end.
  "equal to all": """
class A:
  def __eq__(self, other): return True
assert A() == 3
""",
  "leaves threads": """
import threading, time
threading.Thread(target=time.sleep, args=(60,)).start()
""",
  "leaves handlers": "import atexit, os; atexit.register(os._exit, 1)",
}


def lacks(way):
  """Says why this machine cannot hold a program in one of the ways."""
  if sys.platform != "linux":
    return "needs Linux"
  said = api._supervise("", 10.0, MEMORY, False, WAYS[way])
  if said.get("refused"):
    return f"it has only {', '.join(said['layers'])}"
  return None


def in_parallel(programs, way, seconds):
  def run(item):
    return api._supervise(item, seconds, MEMORY, False, WAYS[way])["reason"]

  with concurrent.futures.ThreadPoolExecutor(3) as pool:
    return dict(zip(programs, pool.map(run, programs.values()), strict=True))


def children():
  """Returns processes that this one started, or that were left to it."""
  found = set()
  for task in pathlib.Path("/proc/self/task").iterdir():
    with contextlib.suppress(FileNotFoundError):  # a thread that has ended
      found |= set((task / "children").read_text().split())
  return found


@pytest.fixture
def reaper():
  """Makes this process the heir of all that is left behind."""
  if not pathlib.Path("/proc/thread-self/children").exists():
    pytest.skip("this kernel does not list the children of a process")
  libc = ctypes.CDLL(None)
  libc.prctl(36, 1, 0, 0, 0)
  before = children()
  yield lambda: children() - before
  libc.prctl(36, 0, 0, 0, 0)


@linux
@pytest.mark.parametrize(
  "way", ["all", pytest.param("no namespaces", marks=pytest.mark.slow)]
)
def test_no_hostile_program_passes_harms_or_outlives(
  way, tmp_path, monkeypatch, reaper
):
  if reason := lacks(way):
    pytest.skip(reason)
  canary = tmp_path / "canary"
  canary.write_text("whole")
  tmp_path.chmod(0o777)
  canary.chmod(0o666)
  before = canary.stat()
  monkeypatch.setenv("SECRET", "canary")
  monkeypatch.setenv("TMPDIR", str(tmp_path))
  with socket.create_server(("127.0.0.1", 0)) as server:
    given = {
      "CANARY": repr(str(canary)),
      "PARENT": str(os.getpid()),
      "PORT": str(server.getsockname()[1]),
      "LAST": "9",
    }
    programs = {}
    for name, text in HOSTILE.items():
      for word, value in given.items():
        text = text.replace(word, value)
      programs[name] = text
    slow = {k: v for k, v in programs.items() if k in SLOW}
    quick = {k: v for k, v in programs.items() if k not in SLOW}
    said = in_parallel(quick, way, 20.0) | in_parallel(slow, way, 0.5)
    server.settimeout(0)
    with pytest.raises(BlockingIOError):
      server.accept()
  assert not [name for name in said if said[name] == "passed"]
  assert EXPECTED == {name: said[name] for name in EXPECTED}
  assert canary.read_text() == "whole"
  after = canary.stat()
  assert (after.st_mode, after.st_mtime) == (before.st_mode, before.st_mtime)
  assert os.listdir(tmp_path) == ["canary"]
  assert not reaper()


@linux
@pytest.mark.parametrize("way", WAYS)
def test_honest_programs_pass(way):
  if reason := lacks(way):
    pytest.skip(reason)
  said = in_parallel(HONEST, way, 20.0)
  assert said == dict.fromkeys(HONEST, "passed")


@linux
def test_programs_run_in_parallel_and_in_order():
  if reason := lacks("all"):
    pytest.skip(reason)
  programs = ["pass", "1 / 0", "assert False, 'no\\nline'", "pass"]
  said = run_programs(programs, seconds=10, memory_bytes=MEMORY, num_workers=2)
  assert list(said) == [
    Verdict(True, "passed"),
    Verdict(False, "error: ZeroDivisionError: division by zero"),
    Verdict(False, "error: AssertionError: no"),
    Verdict(True, "passed"),
  ]


@linux
def test_nothing_is_left_when_the_caller_is_killed(reaper):
  if reason := lacks("all"):
    pytest.skip(reason)
  text = (
    "from flexmdm_jax.evaluation.sandbox import run_program as r;"
    "r('import time; print(1); time.sleep(99)', seconds=90, memory_bytes=1<<28)"
  )
  caller = subprocess.Popen([sys.executable, "-c", text])
  tree = pathlib.Path(f"/proc/{caller.pid}/task/{caller.pid}/children")
  deadline = time.monotonic() + 60
  while not tree.read_text() and time.monotonic() < deadline:
    time.sleep(0.05)
  time.sleep(0.5)
  caller.kill()
  caller.wait()
  while (left := reaper()) and time.monotonic() < deadline:
    for pid in left:
      os.waitpid(int(pid), os.WNOHANG)
    time.sleep(0.05)
  assert not left


@linux
def test_layers_are_told_and_too_few_are_refused(monkeypatch):
  layers = active_layers()
  assert {"rlimits", "no_new_privs"} <= set(layers)
  said = api._supervise("", 10.0, MEMORY, False, ("namespaces", "landlock"))
  assert said["refused"] and "landlock" not in said["layers"]
  assert api._supervise("", 10.0, MEMORY, False, ("witness",))["refused"]
  monkeypatch.setattr(api, "_supervise", lambda *_: said)
  with pytest.raises(InputError, match=r"cannot shut a program in.*unsafe"):
    run_program("", seconds=1, memory_bytes=MEMORY)


def test_other_systems_are_refused(monkeypatch):
  monkeypatch.setattr(sys, "platform", "darwin")
  with pytest.raises(InputError, match="on Linux only, this is darwin"):
    run_program("", seconds=1, memory_bytes=MEMORY, unsafe=True)


@linux
@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"seconds": 0}, "seconds is 0, must be above 0"),
    ({"seconds": float("nan")}, "seconds is nan"),
    ({"seconds": True}, "seconds is True"),
    ({"memory_bytes": 1000}, "at least 33554432"),
    ({"memory_bytes": 1e9}, "must be an integer"),
    ({"program": b"pass"}, "program is bytes, must be text"),
  ],
)
def test_bad_limits_are_one_line(change, message):
  given = {"program": "", "seconds": 1, "memory_bytes": MEMORY} | change
  with pytest.raises(InputError, match=message):
    run_program(given.pop("program"), **given)


@linux
def test_bad_workers_are_one_line():
  with pytest.raises(InputError, match="num_workers is 0"):
    run_programs([], seconds=1, memory_bytes=MEMORY, num_workers=0)
