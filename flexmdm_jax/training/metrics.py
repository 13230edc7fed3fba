"""Metrics of a run: a JSONL file, TensorBoard and a progress bar."""

import contextlib
import json
import logging
import os
import pathlib
import sys
import threading
import time

import jax
from tensorboardX import summary
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tqdm import tqdm

from flexmdm_jax.errors import InputError
from flexmdm_jax.files import replace_file, unused
from flexmdm_jax.reading import (
  clear_read_errors,
  lines,
  open_file,
  parse_json,
  require_keys,
)


class MetricsWriter:
  """Writes `metrics.jsonl` and `tensorboard/` in a work directory.

  A resumed run first drops the lines beyond the step that it resumes from, so
  that both hold each step once. A `metrics.jsonl` with damaged lines, or that
  is no file, is moved aside. Only process 0 writes.
  """

  def __init__(self, workdir: pathlib.Path, step: int):
    self._active = jax.process_index() == 0
    if not self._active:
      return
    path = pathlib.Path(workdir) / "metrics.jsonl"
    there, problem = _read(path)
    if problem:
      aside = unused(path, "damaged")
      path.rename(aside)
      logging.warning(
        "%s: %s; moved to %s, the new file has its %d whole lines",
        path,
        problem,
        aside.name,
        len(there),
      )
    kept = [line for line in there if line["step"] <= step]
    text = "".join(json.dumps(line) + "\n" for line in kept)
    replace_file(path, text)
    self._file = path.open("a", buffering=1)
    board = pathlib.Path(workdir) / "tensorboard"
    board.mkdir(exist_ok=True)
    # The library's writer without its thread: a full disk is noticed here,
    # where the run can stop in order.
    self._board = EventsWriter(str(board / "events"), f".{os.getpid()}")
    # TensorBoard drops what earlier files have from this step on.
    self._event(
      step + 1, session_log=SessionLog(status=SessionLog.SessionStatus.START)
    )

  def write(self, step: int, values: dict[str, float]) -> None:
    """Records `values` at `step`."""
    if self._active:
      self._file.write(json.dumps({"step": step, **values}) + "\n")
      for name, value in values.items():
        self._event(step, summary=summary.scalar(name, value))
      self._board.flush()

  def _event(self, step: int, **content) -> None:
    self._board.write_event(Event(wall_time=time.time(), step=step, **content))

  def close(self) -> None:
    """Closes both files; every line is written already."""
    if self._active:
      with contextlib.suppress(OSError):  # `write` has told of a full disk
        self._file.close()
      with contextlib.suppress(OSError):
        self._board.close()


def read_metrics(workdir: pathlib.Path) -> list[dict]:
  """Reads the whole lines of a run's `metrics.jsonl`; empty without one."""
  return _read(pathlib.Path(workdir) / "metrics.jsonl")[0]


def _read(path: pathlib.Path) -> tuple[list[dict], str]:
  """Reads the whole lines of a file of metrics.

  Returns:
    The lines, and what is wrong with the others; "" if nothing is. That the
    last line is half a one is not wrong: a killed process may leave it so.
  """
  rows, problem = [], ""
  if not os.path.lexists(path):
    return rows, problem
  try:
    with open_file(path) as file, clear_read_errors(path):
      for number, line in enumerate(lines(file), 1):
        try:
          row = parse_json(line or b"", strict=False)
          require_keys(row, {"step": int})
          rows.append(row)
        except ValueError:
          if line is None or line.endswith(b"\n"):
            problem = problem or f"line {number} is damaged"
  except InputError as error:
    problem = str(error)
  return rows, problem


class Progress:
  """A display of the loss, the time of a step and the tokens a second.

  A bar where stderr is a terminal; elsewhere, a line now and then.
  """

  def __init__(
    self, num_steps: int, step: int, enabled: bool, seconds: float = 20.0
  ):
    """Starts at `step`; prints lines at least `seconds` apart."""
    self._enabled = enabled and jax.process_index() == 0
    terminal = sys.stderr.isatty()
    self._bar = tqdm(
      total=num_steps,
      initial=step,
      disable=not (self._enabled and terminal),
      unit="step",
      dynamic_ncols=True,
    )
    self._every = float("inf") if terminal else seconds
    self._num_steps = num_steps
    self._step, self._time = step, time.perf_counter()
    self._printed = self._time

  def report(self, step: int, loss: float, tokens: float) -> dict[str, float]:
    """Moves the display on to `step`.

    Args:
      step: updates done.
      loss: mean since the last report.
      tokens: of a batch, mean since the last report.

    Returns:
      {"step_seconds", "tokens_per_second"} since the last report.
    """
    now = time.perf_counter()
    seconds = (now - self._time) / max(step - self._step, 1)
    speed = tokens / seconds
    text = (
      f"loss {loss:.4g}, {1e3 * seconds:.0f} ms/step, {speed:,.0f} tokens/s"
    )
    self._bar.update(step - self._step)
    self._bar.set_postfix_str(text)
    if self._enabled and now - self._printed >= self._every:
      print(f"step {step}/{self._num_steps}: {text}", file=sys.stderr)
      self._printed = now
    self._step, self._time = step, now
    return {"step_seconds": seconds, "tokens_per_second": speed}

  def close(self) -> None:
    """Ends the bar, which stays on the screen as it is."""
    self._bar.close()


class Watchdog(contextlib.AbstractContextManager):
  """Thread that tells of a step that takes minutes, while it is taken.

  It looks at `step` now and then: the loop's only work is to set that.

  Attributes:
    step: the updates begun.
  """

  def __init__(self, step: int, seconds: float = 180.0):
    """Tells of a step first after `seconds`, then each time it has doubled."""
    self.step = step
    self._seconds = seconds
    self._closed = threading.Event()
    self._thread = threading.Thread(target=self._watch, daemon=True)

  def __enter__(self) -> "Watchdog":
    self._thread.start()
    return self

  def __exit__(self, *_) -> None:
    self._closed.set()
    self._thread.join()

  def _watch(self) -> None:
    seen, began, told = self.step, time.monotonic(), self._seconds
    while not self._closed.wait(self._seconds / 20):
      now = time.monotonic()
      if self.step != seen:
        seen, began, told = self.step, now, self._seconds
      elif now - began >= told:
        logging.warning(
          "step %d has taken %.3g minutes: compiling, saving, or waiting for"
          " data or a device",
          seen,
          (now - began) / 60,
        )
        told *= 2
