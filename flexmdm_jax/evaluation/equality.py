"""Equality of mathematical answers, by math-verify in a process of its own.

An answer such as 9^{9^{9^9}} keeps Python's integers busy for ever, where no
signal is heard: only the end of a process stops it. math-verify's own limits
are signals, which work in a main thread alone, and are off.

This file is also the program of that process: it is run by its path, and
imports nothing of ours then.
"""

import contextlib
import json
import selectors
import subprocess
import sys

# A first comparison waits for imports too, which take 1 to 2 s.
_START_SECONDS = 120
_MEMORY_BYTES = 2 << 30


class Equality(contextlib.AbstractContextManager):
  """A process that compares answers; another follows one that hangs."""

  def __init__(self, seconds: float):
    """Starts nothing yet.

    Args:
      seconds: time for one comparison.
    """
    self._seconds = seconds
    self._process: subprocess.Popen | None = None

  def tell(self, right: str, answer: str) -> bool | None:
    """Tells whether an answer equals the right one.

    Returns:
      None where time or memory ran out.

    Raises:
      RuntimeError: the process cannot start.
    """
    if self._process is None:
      self._start()
    said = self._ask([right, answer], self._seconds)
    if said is None:
      self._stop()
    return said

  def __exit__(self, *_) -> None:
    self._stop()

  def _start(self) -> None:
    self._process = subprocess.Popen(
      # -P: the modules beside this file are not to be found by their names.
      [sys.executable, "-P", __file__],
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      stderr=subprocess.DEVNULL,
    )
    if self._ask(["1", "1"], _START_SECONDS) is not True:
      self._stop()
      raise RuntimeError("the process that compares answers does not start")

  def _stop(self) -> None:
    if self._process is not None:
      self._process.kill()
      self._process.wait()
      with contextlib.suppress(BrokenPipeError):
        self._process.stdin.close()
      self._process.stdout.close()
      self._process = None

  def _ask(self, pair: list[str], seconds: float) -> bool | None:
    with contextlib.suppress(BrokenPipeError):
      self._process.stdin.write(json.dumps(pair).encode() + b"\n")
      self._process.stdin.flush()
    with selectors.DefaultSelector() as selector:
      selector.register(self._process.stdout, selectors.EVENT_READ)
      if not selector.select(seconds):
        return None
    line = self._process.stdout.readline()
    return json.loads(line) if line else None


def main() -> None:
  """Compares pairs of a right number and an answer, a line each."""
  import resource  # Linux and macOS have it

  import math_verify

  with contextlib.suppress(OSError, ValueError):
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
  boxes = [math_verify.LatexExtractionConfig(boxed_match_priority=0)]

  def parsed(text):
    return math_verify.parse(
      f"\\boxed{{{text}}}", extraction_config=boxes, parsing_timeout=None
    )

  for line in sys.stdin:
    right, answer = json.loads(line)
    try:
      same = right == answer or math_verify.verify(
        parsed(right), parsed(answer), timeout_seconds=None
      )
    except Exception:  # whatever sympy says of what is no mathematics
      same = False
    print(json.dumps(bool(same)), flush=True)


if __name__ == "__main__":
  main()
