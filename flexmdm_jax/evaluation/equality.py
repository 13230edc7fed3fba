"""Equality of mathematical answers, by math-verify in a process of its own.

An answer such as 9^{9^{9^9}} keeps Python's integers busy for ever, where no
handler of a signal is called: only the end of a process stops it. A timer ends
this one. math-verify's own limits need such handlers, in a main thread, and are
off.

This file is also the program of that process: it is run by its path, and
imports nothing of ours then.
"""

import contextlib
import json
import subprocess
import sys
import threading

_MEMORY_BYTES = 2 << 30


class Equality:
  """A process that compares answers; another follows one that has ended.

  It ends with the process that uses it, and may be used by many threads.
  """

  def __init__(self, seconds: float):
    """Starts nothing yet.

    Args:
      seconds: time for one comparison.
    """
    self._seconds = seconds
    self._process: subprocess.Popen | None = None
    self._lock = threading.Lock()

  def tell(self, right: str, answer: str) -> bool | None:
    """Tells whether an answer equals the right one.

    Returns:
      None where time or memory ran out.

    Raises:
      RuntimeError: the process cannot start.
    """
    with self._lock:
      if self._process is None:
        self._start()
      said = self._ask(right, answer)
      if said is None:
        self._end()
      return said

  def _start(self) -> None:
    self._process = subprocess.Popen(
      # -P: the modules beside this file are not to be found by their names.
      [sys.executable, "-P", __file__, str(self._seconds)],
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      stderr=subprocess.DEVNULL,
    )
    if not self._process.stdout.readline():
      self._end()
      raise RuntimeError("the process that compares answers does not start")

  def _ask(self, *pair: str) -> bool | None:
    with contextlib.suppress(BrokenPipeError):
      self._process.stdin.write(json.dumps(pair).encode() + b"\n")
      self._process.stdin.flush()
    line = self._process.stdout.readline()
    return json.loads(line) if line else None

  def _end(self) -> None:
    self._process.kill()
    self._process.wait()
    with contextlib.suppress(BrokenPipeError):
      self._process.stdin.close()
    self._process.stdout.close()
    self._process = None


def main() -> None:
  """Compares pairs of a right number and an answer, a line each."""
  import resource  # Linux and macOS have it
  import signal

  import math_verify

  boxes = [math_verify.LatexExtractionConfig(boxed_match_priority=0)]

  def parsed(text):
    return math_verify.parse(
      f"\\boxed{{{text}}}", extraction_config=boxes, parsing_timeout=None
    )

  seconds = float(sys.argv[1])
  with contextlib.suppress(OSError, ValueError):
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
  print("ready", flush=True)
  for line in sys.stdin:
    right, answer = json.loads(line)
    signal.setitimer(signal.ITIMER_REAL, seconds)  # ends this process
    try:
      same = math_verify.verify(
        parsed(right), parsed(answer), timeout_seconds=None
      )
    except Exception:  # whatever sympy says of what is no mathematics
      same = False
    signal.setitimer(signal.ITIMER_REAL, 0)
    print(json.dumps(bool(same)), flush=True)


if __name__ == "__main__":
  main()
