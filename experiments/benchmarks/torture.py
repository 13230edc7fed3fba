"""What is done to a run, again and again, and how the results are counted.

A loop is a function that hurts something once, as a random generator says, and
tells how it ended. A trial depends on its loop, its number and the seed alone.
"""

import collections
import contextvars
import random
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

# What must not happen: other values without a word, work that is gone, more
# than one line, no end.
BAD = ("silent", "lost", "traceback", "hang")


class Outcome(NamedTuple):
  """How something ended.

  Attributes:
    what: what was tried, a word.
    result: a word; those of `BAD` are defects.
    detail: what is needed to find the cause.
  """

  what: str
  result: str
  detail: str = ""


Loop = Callable[[random.Random], Iterable[Outcome]]


def torture(
  loops: Mapping[str, Loop],
  seconds: float,
  seed: int,
  tell: Callable[[str], None] = print,
) -> dict[str, Any]:
  """Runs trials of the loops, which get equal shares of the time.

  Args:
    loops: the loops by name; of each at least one trial is run.
    seconds: time after which no trial begins.
    seed: decides all that is random.
    tell: is given a line for each defect.

  Returns:
    {"loops": {name: {"trials", "seconds", "results": {what: {result: number}}},
    "defects": [{"loop", "trial", "what", "result", "detail"}]}.
  """
  begin = time.monotonic()
  spent = dict.fromkeys(loops, 0.0)
  trials = dict.fromkeys(loops, 0)
  counts = {
    name: collections.defaultdict(collections.Counter) for name in loops
  }
  defects = []
  while time.monotonic() - begin < seconds or not all(trials.values()):
    name = min(spent, key=spent.get)
    start = time.monotonic()
    for outcome in loops[name](random.Random(f"{seed} {name} {trials[name]}")):
      counts[name][outcome.what][outcome.result] += 1
      if outcome.result in BAD:
        defect = {"loop": name, "trial": trials[name], **outcome._asdict()}
        defects.append(defect)
        tell(" ".join(f"{k}={v}" for k, v in defect.items()))
    trials[name] += 1
    spent[name] += time.monotonic() - start
  return {
    "loops": {
      name: {
        "trials": trials[name],
        "seconds": spent[name],
        "results": {what: dict(x) for what, x in counts[name].items()},
      }
      for name in loops
    },
    "defects": defects,
  }


def in_time(act: Callable[[], Any], seconds: float) -> Any:
  """Calls `act`, and returns or raises what it does.

  Raises:
    TimeoutError: it has not ended after so many seconds; it is left alone.
  """
  result: list[Any] = []

  def call():
    try:
      result.append(act())
    except Exception as error:  # whatever it is, it belongs to the caller
      result.append(error)

  context = contextvars.copy_context()  # whether checksums are compared
  thread = threading.Thread(target=context.run, args=(call,), daemon=True)
  thread.start()
  thread.join(seconds)
  if not result:
    raise TimeoutError(f"no end after {seconds:.0f} s")
  if isinstance(result[0], Exception):
    raise result[0]
  return result[0]


def lines(figures: Mapping[str, Any]) -> Iterable[str]:
  """Yields a line for each thing that was tried, with its numbers."""
  for name, loop in figures["loops"].items():
    for what, results in loop["results"].items():
      numbers = ", ".join(f"{n} {x}" for x, n in sorted(results.items()))
      yield (
        f"{name}, {what}: {numbers} ({loop['trials']} trials,"
        f" {loop['seconds']:.0f} s)"
      )
