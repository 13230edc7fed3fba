"""Several processes that train as one: who acts first, and errors for all.

A process that stops alone leaves the others waiting in a collective. So an
action that may fail on one of them goes through `on_all_processes`: an error of
one is raised by all. Every function here is called by all processes in the same
order; a single process passes through.
"""

import contextlib
import hashlib
import signal
import threading
from collections.abc import Callable, Iterator
from typing import TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from flexmdm_jax.errors import InputError

T = TypeVar("T")

_MESSAGE_BYTES = 1024


def is_first_process() -> bool:
  """Tells whether this process is the one that writes.

  A process that is alone touches no device for that.
  """
  return not jax.distributed.is_initialized() or jax.process_index() == 0


def exchange(text: str) -> list[str]:
  """Returns the texts of all processes, in their order; cut at 1,024 bytes.

  It is a barrier too: no process returns before all have called it.
  """
  if not jax.distributed.is_initialized():
    return [text]
  message = np.zeros(_MESSAGE_BYTES, np.uint8)
  content = np.frombuffer(text.encode()[:_MESSAGE_BYTES], np.uint8)
  message[: content.size] = content
  rows = multihost_utils.process_allgather(message)
  return [
    np.asarray(row, np.uint8).tobytes().rstrip(b"\0").decode(errors="ignore")
    for row in rows.reshape(-1, _MESSAGE_BYTES)
  ]


def on_all_processes(act: Callable[[], T]) -> T:
  """Calls `act` on every process, and returns once it succeeded on all.

  Returns:
    The result of `act` on this process.

  Raises:
    InputError: `act` raised it on a process; every process raises the error of
      the first such.
  """
  if not jax.distributed.is_initialized():
    return act()
  result, problem = None, ""
  try:
    result = act()
  except InputError as error:
    problem = str(error)
  problems = exchange(problem)
  for process, problem in enumerate(problems):
    if problem:
      alone = process > 0 and len(set(problems)) > 1
      raise InputError(f"process {process}: {problem}" if alone else problem)
  return result


def on_first_process(act: Callable[[], T]) -> T | None:
  """Calls `act` on process 0 alone; the others wait, and return None.

  Raises:
    InputError: `act` raised it; every process raises it.
  """
  return on_all_processes(lambda: act() if is_first_process() else None)


def on_first_then_rest(act: Callable[[], T]) -> T:
  """Calls `act` on process 0, and on the others once it succeeded there.

  An action that prepares a folder unless it is there then does so once on a
  shared file system, and once a host where each host has its own.

  Returns:
    The result of `act` on this process.

  Raises:
    InputError: `act` raised it on a process; every process raises it.
  """
  first = on_first_process(act)
  rest = on_all_processes(lambda: None if is_first_process() else act())
  return first if is_first_process() else rest


def require_same(what: str, content: str) -> None:
  """Refuses a run whose processes differ in `content`.

  Raises:
    InputError: they do; `what` names it.
  """
  digests = exchange(hashlib.sha256(content.encode()).hexdigest())
  for process, digest in enumerate(digests):
    if digest != digests[0]:
      raise InputError(
        f"process {process} has another {what} than process 0: give all"
        " processes the same."
      )


@contextlib.contextmanager
def sigterm() -> Iterator[Callable[[int], bool]]:
  """Turns SIGTERM into the question whether to stop after a step.

  Of several processes one that gets the signal stops all after the same step:
  JAX's runtime has a handler of its own, which agrees on one ahead of all.

  Yields:
    `step -> bool`, to be asked once after every step.
  """
  if jax.process_count() > 1:
    yield multihost_utils.reached_preemption_sync_point
    return
  event = threading.Event()
  if threading.current_thread() is not threading.main_thread():
    yield lambda _: event.is_set()  # signals reach only the main thread
    return
  previous = signal.signal(signal.SIGTERM, lambda *_: event.set())
  try:
    yield lambda _: event.is_set()
  finally:
    signal.signal(signal.SIGTERM, previous)
