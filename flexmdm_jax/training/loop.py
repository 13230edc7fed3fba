"""The training loop: data, steps, reports, checkpoints, and how it ends."""

import contextlib
import dataclasses
import json
import logging
import os
import pathlib
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax

from flexmdm_jax import schema
from flexmdm_jax.errors import DivergedError, InputError
from flexmdm_jax.files import clear_disk_errors, replace_file, unused
from flexmdm_jax.reading import read_json
from flexmdm_jax.training import hosts
from flexmdm_jax.training.checkpoint import Checkpointer, state_bytes
from flexmdm_jax.training.lock import Lock
from flexmdm_jax.training.metrics import (
  MetricsWriter,
  Progress,
  Watchdog,
  read_metrics,
)
from flexmdm_jax.training.step import TrainState, TrainStep

# Settings that do not change a run's result: its folders and its devices.
_PLACES = (
  "data.folder",
  "mesh.layout",
  "mesh.data",
  "mesh.fsdp",
  "mesh.tensor",
  "pretrained",
  "train.keep",
  "train.loss_chunk",
)
# A network file system may show another host's file only after a while.
_SHARED_SECONDS = 60.0


@dataclasses.dataclass(frozen=True)
class LoopConfig:
  """Length of a run, and how often it reports and saves.

  Attributes:
    num_steps: updates in all.
    report_every: updates between reports of metrics.
    checkpoint_every: updates between checkpoints.
    keep: checkpoints kept.
    seed: seed of the parameters and the noise.

  Raises:
    InputError: a field is no integer, or out of its range.
  """

  num_steps: int = schema.count()
  report_every: int = schema.count(100)
  checkpoint_every: int = schema.count(1000)
  keep: int = schema.count(3)
  seed: int = schema.seed(0)

  def __post_init__(self):
    schema.require(self, "train")


def train(
  train_step: TrainStep,
  make_data: Callable[[], Iterator[dict]],
  workdir: str | pathlib.Path,
  loop: LoopConfig,
  config: Mapping[str, Any],
  *,
  interpolant: Mapping[str, Any] | None = None,
  overwrite: bool = False,
  progress: bool = True,
) -> dict[str, float]:
  """Trains until `num_steps`, resuming from the work directory if it can.

  A SIGTERM saves a checkpoint and returns early. Every process calls this; the
  first one alone writes what is not a checkpoint.

  Args:
    train_step: the step, from `make_train_step`.
    make_data: makes the iterator over this process's batches, a Grain one;
      called once the work directory is known to be free or this run's.
    workdir: directory of the run; made if missing.
    loop: length of the run, and how often it reports and saves.
    config: JSON-ready settings of the run, the same on every process; a
      directory belongs to one.
    interpolant: JSON-ready description of the schedules, which are stored with
      the parameters.
    overwrite: move a directory with other settings aside, and start anew.
    progress: show a bar if stderr is a terminal.

  Returns:
    The metrics that process 0 reported last, and "step", the updates done.

  Raises:
    InputError: the directory belongs to another config, cannot be written, has
      no room, is not the same for every process, or another run trains in it;
      no checkpoint in it can be read. Before the first step, all processes
      raise it if one does.
    DivergedError: the loss or the gradient is not finite.
  """
  workdir = pathlib.Path(workdir)
  hosts.require_same("config", json.dumps(config, sort_keys=True))
  hosts.on_first_process(lambda: require_own(workdir, config, overwrite))
  data = hosts.on_first_then_rest(make_data)
  size = state_bytes(train_step.abstract_state)

  stack = contextlib.ExitStack()

  def claim() -> Lock | None:
    if not hosts.is_first_process():
      return require_shared(workdir)
    # Nothing is written before here: what is wrong so far claims no directory.
    lock = stack.enter_context(claim_workdir(workdir, config, overwrite))
    there = sum(1 for _ in (workdir / "checkpoints").glob("[0-9]*"))
    require_room(workdir, max(loop.keep + 1 - there, 1) * size)
    return lock

  meta = {"config": dict(config), "interpolant": interpolant}
  with clear_disk_errors(workdir), stack:
    lock = hosts.on_first_then_rest(claim)
    checkpointer = Checkpointer(workdir, loop.keep)
    stack.callback(checkpointer.close)
    state = checkpointer.restore(train_step.abstract_state, data)
    if state is None:
      state = train_step.init(jax.random.key(loop.seed))
    else:
      logging.info("resuming from step %d", int(state.step))
    first = int(state.step)
    writer = hosts.on_all_processes(lambda: _open_metrics(workdir, first))
    stack.callback(writer.close)
    bar = Progress(loop.num_steps, first, progress)
    stack.callback(bar.close)
    dog = stack.enter_context(Watchdog(first))
    with hosts.sigterm() as stop:
      step = _run(
        train_step,
        data,
        state,
        loop,
        meta,
        lock,
        checkpointer,
        writer,
        bar,
        dog,
        stop,
      )
  lines = read_metrics(workdir) if hosts.is_first_process() else []
  return {**(lines[-1] if lines else {}), "step": step}


def _run(
  train_step: TrainStep,
  data: Iterator[dict],
  state: TrainState,
  loop: LoopConfig,
  meta: dict[str, Any],
  lock: Lock | None,
  checkpointer: Checkpointer,
  writer: MetricsWriter,
  bar: Progress,
  dog: Watchdog,
  stop: Callable[[int], bool],
) -> int:
  """Runs updates from `state` on; returns their number since the start."""
  step = int(state.step)
  stopped = False
  while step < loop.num_steps and not stopped:
    dog.step = step + 1
    batch = jax.tree.map(
      lambda x: jax.make_array_from_process_local_data(
        train_step.batch_sharding, x
      ),
      next(data),
    )
    # An array that would be copied between host and devices unasked is a bug.
    with jax.transfer_guard("disallow"):
      state, metrics = train_step.update(state, batch)
    step += 1

    stopped = stop(step)  # asked once: what stops the loop also saves
    last = step == loop.num_steps or stopped
    report = step % loop.report_every == 0 or step == loop.num_steps
    save = step % loop.checkpoint_every == 0 or last
    if not (report or save):
      continue
    if lock is not None:
      lock.require_held()
    values = {name: float(x) for name, x in jax.device_get(metrics).items()}
    if values.pop("finite") < 1.0:
      raise DivergedError(
        "the loss or its gradient was not finite in the last"
        f" {loop.report_every} steps before step {step}; the checkpoints in"
        f" {checkpointer.folder} are from before. Lower the learning rate or"
        " look at the data, then start anew or go on from one of them."
      )
    if report:
      speed = bar.report(step, values["loss"], values["tokens"])
      writer.write(step, {**values, **speed})
    if save:
      checkpointer.save(state, data, meta)
  return step


def _open_metrics(workdir: pathlib.Path, step: int) -> MetricsWriter:
  """Opens the run's metrics; what a full disk raises is an InputError."""
  with clear_disk_errors(workdir):
    return MetricsWriter(workdir, step)


def require_own(
  workdir: pathlib.Path, config: Mapping[str, Any], overwrite: bool
) -> bool:
  """Tells whether `workdir` is free, or belongs to a run of these settings.

  Returns:
    False if it belongs to a run of other settings and `overwrite` allows to
    move that aside.

  Raises:
    InputError: it belongs to a run of other settings, its config.json is
      damaged, or it or a folder in it cannot be a directory.
  """
  path = workdir / "config.json"
  for name in ("checkpoints", "tensorboard"):
    there = workdir / name
    if os.path.lexists(there) and not there.is_dir():
      raise InputError(
        f"{there} must be a folder, but is none: move it away, or choose"
        " another workdir."
      )
  try:
    if not path.exists():
      there = workdir
      while not there.exists():
        there = there.parent
      if not there.is_dir() or not os.access(there, os.W_OK):
        raise PermissionError(13, f"{there} is no directory you may write to")
      return True
  except OSError as error:
    raise _cannot_write(workdir, error) from error
  stored = read_json(path, fix="give a good copy, or choose another workdir")
  differing = differing_keys(stored, config)
  if differing and not overwrite:
    raise InputError(
      f"{workdir} was made with another config, which differs in"
      f" {', '.join(differing)}{_other_version(stored, config)}: choose another"
      " workdir, or set overwrite to move that one aside."
    )
  return not differing


def claim_workdir(
  workdir: pathlib.Path, config: Mapping[str, Any], overwrite: bool
) -> Lock:
  """Makes `workdir` the directory of a run with these settings.

  Returns:
    The lock of the directory, which is held.

  Raises:
    InputError: as `require_own`, or it cannot be written, or another process
      trains in it.
  """
  own = require_own(workdir, config, overwrite)
  try:
    if not own:
      with Lock(workdir) as lock:
        aside = unused(workdir, "old")
        workdir.rename(aside)
        lock.moved(aside)
      logging.warning("moved the earlier run to %s", aside)
    workdir.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
      lock = stack.enter_context(Lock(workdir))
      require_own(workdir, config, False)  # another may have come before
      text = json.dumps(dict(config), indent=2, sort_keys=True) + "\n"
      replace_file(workdir / "config.json", text)
      stack.pop_all()  # it stays held
      return lock
  except OSError as error:
    raise _cannot_write(workdir, error) from error


def require_shared(
  workdir: pathlib.Path, seconds: float = _SHARED_SECONDS
) -> None:
  """Refuses a work directory that process 0 claimed and this one lacks.

  Args:
    workdir: the run's directory.
    seconds: time to wait for its config.json.

  Raises:
    InputError: it has none by then.
  """
  end = time.monotonic() + seconds
  while not (workdir / "config.json").exists():
    if time.monotonic() > end:
      raise InputError(
        f"workdir={workdir} is not the directory of process 0: it must be on"
        " a file system that all hosts share."
      )
    time.sleep(0.1)


def _cannot_write(workdir: pathlib.Path, error: OSError) -> InputError:
  return InputError(
    f"cannot write to workdir={workdir} ({error.strerror}): choose a"
    " directory that you may write to, with free space."
  )


def differing_keys(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[str]:
  """Lists the dotted names of settings in which two nested configs differ."""
  a, b = _settings(a), _settings(b)
  return sorted(key for key in {*a, *b} if a.get(key) != b.get(key))


def _settings(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
  """Collects the settings that decide a run's result, by dotted name.

  A setting of None is left out: a run may be older than the setting.
  """
  found = {}
  for key, value in tree.items():
    name = prefix + key
    if isinstance(value, Mapping):
      found |= _settings(value, f"{name}.")
    elif value is not None and name not in _PLACES:
      found[name] = value
  return found


def _other_version(stored: Mapping[str, Any], config: Mapping[str, Any]) -> str:
  """Says which settings one of two configs lacks; "" if there are none.

  Configs of one version of this package have the same settings, unless they
  are of different tasks.
  """
  stored, config = _settings(stored).keys(), _settings(config).keys()
  parts = [
    f"{verb} {', '.join(sorted(names))}"
    for verb, names in (
      ("lacks", config - stored),
      ("has the unknown", stored - config),
    )
    if names
  ]
  if not parts:
    return ""
  return (
    f" (its config.json {' and '.join(parts)}: another version of flexmdm_jax"
    " may have made it)"
  )


def require_room(folder: pathlib.Path, num_bytes: int) -> None:
  """Raises an InputError if the disk of a folder has fewer free bytes."""
  free = shutil.disk_usage(folder).free
  if free < num_bytes:
    raise InputError(
      f"the disk of {folder} has {free / 1e9:.2f} GB free, the checkpoints need"
      f" {num_bytes / 1e9:.2f} GB: free some space or lower train.keep."
    )
