"""Torture of a training: it is killed at random times, and has to go on.

A process trains a tiny model, and is ended by SIGKILL or SIGTERM once to three
times. Then it is let finish, and is compared with a run that nobody touched:
metrics and the whole final state, to the bit. Now and then a second training
is started in its directory, which has to be refused.
"""

import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence

from experiments.benchmarks.flips import Position, digest
from experiments.benchmarks.torture import Outcome
from flexmdm_jax.errors import InputError
from flexmdm_jax.runs import Run
from flexmdm_jax.training.checkpoint import Checkpointer
from flexmdm_jax.training.metrics import read_metrics
from flexmdm_jax.training.step import TrainState

_ROOT = pathlib.Path(__file__).parents[2]
_MOST_KILLS = 3
_EARLY = 0.2  # share of the kills that may come before the first step
_RIVALS = 0.2  # share of the starts beside which a second one is tried
_HANG_SECONDS = 600.0
_TIMINGS = ("step_seconds", "tokens_per_second")

TINY_BRACKETS = (
  "--config=experiments/configs/brackets_quickstart.py",
  "--config.data.num_train=200",
  "--config.data.num_eval=20",
  "--config.model.hidden_size=16",
  "--config.model.num_layers=1",
  "--config.model.num_heads=2",
  "--config.model.cond_size=8",
  "--config.optimizer.warmup_steps=2",
  "--config.train.batch_size=8",
  "--config.train.num_steps=300",
  "--config.train.report_every=5",
  "--config.train.checkpoint_every=15",
)


class Kills:
  """Kills of one training, whose undisturbed end is known."""

  def __init__(
    self, folder: pathlib.Path, settings: Sequence[str] = TINY_BRACKETS
  ):
    """Trains once without disturbance, in `folder/whole`.

    Args:
      folder: an empty folder; compiled programs and data are kept in it too.
      settings: flags of `experiments.train`.

    Raises:
      InputError: that training fails.
    """
    self._folder = folder
    self._settings = settings
    self.whole = folder / "whole"
    self._start(self.whole).wait()  # compiles, and makes the data
    shutil.rmtree(self.whole, ignore_errors=True)
    process = self._start(self.whole)
    began, start = self._wait_for_metrics(process, self.whole)
    status = process.wait()
    if status != 0:
      raise InputError(
        f"the training of {self.whole} ended with status {status}"
        f" ({self._said()}): make experiments.train run first."
      )
    self._startup, self._seconds = began - start, time.monotonic() - began
    self.abstract_state: TrainState = (
      Run.from_workdir(self.whole).train_step().abstract_state
    )
    self._expected = self._end_of(self.whole)

  def __call__(self, rng: random.Random) -> Iterator[Outcome]:
    """Trains with kills between, and compares the end."""
    workdir = self._folder / "killed"
    shutil.rmtree(workdir, ignore_errors=True)
    history = []
    for _ in range(rng.randint(1, _MOST_KILLS)):
      name = rng.choice(("SIGKILL", "SIGTERM"))
      process = self._start(workdir)
      after = rng.uniform(0, self._startup)
      if rng.random() > _EARLY:
        self._wait_for_metrics(process, workdir)
        after = rng.uniform(0, self._seconds)
        if rng.random() < _RIVALS:
          yield self._rival(workdir, process)
      time.sleep(after)
      process.send_signal(getattr(signal, name))
      history.append(f"{name} after {after:.2f} s")
      yield self._ended(name, process, ", ".join(history))
    process = self._start(workdir)
    last = self._ended("end", process, ", ".join(history))
    yield last
    if last.result == "well":
      yield self._compared(workdir, ", ".join(history))

  def _compared(self, workdir: pathlib.Path, history: str) -> Outcome:
    metrics, state = self._expected
    try:
      its_metrics, its_state = self._end_of(workdir)
    except InputError as error:
      return Outcome("result", "lost", f"{history}: {error}")
    parts = (("metrics", metrics, its_metrics), ("state", state, its_state))
    wrong = [name for name, x, y in parts if x != y]
    if wrong:
      return Outcome("result", "lost", f"{history}: {wrong} differ")
    return Outcome("result", "same", history)

  def _ended(
    self, what: str, process: subprocess.Popen, history: str
  ) -> Outcome:
    """Waits for a process, and tells from its words whether it ended well."""
    try:
      status = process.wait(_HANG_SECONDS)
    except subprocess.TimeoutExpired:
      process.kill()
      process.wait()
      return Outcome(what, "hang", history)
    said = self._said()
    # A signal may come before its handler is there.
    well = {"end": (0,), "SIGTERM": (0, -15), "SIGKILL": (0, -9)}[what]
    if "Traceback" in said or (status not in well and status != 2):
      return Outcome(what, "traceback", f"{history}: {status}, {said[-500:]}")
    if status not in well:
      return Outcome(what, "lost", f"{history}: {said}")
    return Outcome(what, "well", history)

  def _rival(self, workdir: pathlib.Path, process: subprocess.Popen) -> Outcome:
    """Starts a second training in the directory of one that lives.

    That one is halted meanwhile, for it would end before the second is there.
    """
    process.send_signal(signal.SIGSTOP)
    rival = self._start(workdir, "rival.txt")
    try:
      rival.wait(_HANG_SECONDS)
    except subprocess.TimeoutExpired:
      rival.kill()
      rival.wait()
      return Outcome("rival", "hang")
    finally:
      process.send_signal(signal.SIGCONT)
    if rival.returncode == 0:  # the first had just finished
      return Outcome("rival", "late")
    said = self._said("rival.txt")
    lines = [x for x in said.splitlines() if x.startswith("error: ")]
    if rival.returncode == 2 and len(lines) == 1 and "is in use by" in said:
      return Outcome("rival", "refused")
    result = "traceback" if "Traceback" in said else "lost"
    return Outcome("rival", result, f"{rival.returncode}, {said[-500:]}")

  def _start(
    self, workdir: pathlib.Path, says: str = "says.txt"
  ) -> subprocess.Popen:
    """Starts `experiments.train` on one CPU device."""
    with (self._folder / says).open("w") as output:
      return subprocess.Popen(
        [
          sys.executable,
          "-m",
          "experiments.train",
          *self._settings,
          f"--workdir={workdir}",
          f"--config.data.folder={self._folder / 'data'}",
          f"--compilation_cache={self._folder / 'xla'}",
        ],
        cwd=_ROOT,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
        stdout=output,
        stderr=output,
      )

  def _said(self, says: str = "says.txt") -> str:
    return (self._folder / says).read_text(errors="replace")

  def _wait_for_metrics(
    self, process: subprocess.Popen, workdir: pathlib.Path
  ) -> tuple[float, float]:
    """Waits until a training writes metrics, or ends.

    Returns:
      The time then, and the time of the call, in seconds.
    """
    start = time.monotonic()
    path = workdir / "metrics.jsonl"
    before = path.stat().st_mtime_ns if path.exists() else None
    while process.poll() is None:
      if path.exists() and path.stat().st_mtime_ns != before:
        break
      if time.monotonic() - start > _HANG_SECONDS:
        break  # `_ended` tells
      time.sleep(0.01)
    return time.monotonic(), start

  def _end_of(self, workdir: pathlib.Path) -> tuple[list[dict], str]:
    """Reads the metrics, and a digest of the last checkpoint's content."""
    metrics = [
      {k: v for k, v in line.items() if k not in _TIMINGS}
      for line in read_metrics(workdir)
    ]
    position = Position()
    checkpointer = Checkpointer(workdir)
    state = checkpointer.restore(self.abstract_state, position)
    checkpointer.close()
    return metrics, digest((state, position.value))
