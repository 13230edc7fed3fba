"""Checkpoints of a training run, by Orbax.

Each holds the whole state (parameters, EMA, optimiser, step, keys, metric
sums), the position in the data, and the run's config and interpolant, to which
the parameters belong. They are written in the background and appear under
their final name only when complete, with checksums that every restore compares.
Of several processes each writes its part; any number of processes and devices
restores the whole.
"""

import logging
import pathlib
import zlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from flexmdm_jax import checksums
from flexmdm_jax.errors import InputError, first_line
from flexmdm_jax.files import clear_disk_errors
from flexmdm_jax.training import hosts
from flexmdm_jax.training.step import TrainState


class Checkpointer:
  """The checkpoints of one work directory."""

  def __init__(self, workdir: pathlib.Path, keep: int = 3):
    """Opens `workdir/checkpoints`.

    Args:
      workdir: the run's directory; it must exist.
      keep: number of newest checkpoints to keep.
    """
    self.folder = pathlib.Path(workdir).absolute() / "checkpoints"
    self._manager = ocp.CheckpointManager(
      self.folder,
      options=ocp.CheckpointManagerOptions(
        max_to_keep=keep,
        enable_async_checkpointing=True,
        # Called by one process when all have written their parts, before the
        # checkpoint gets its name: a kill leaves none without checksums.
        async_options=ocp.AsyncOptions(
          post_finalization_callback=self._note_checksums
        ),
      ),
      item_names=("state", "data", "meta"),
      item_handlers={
        "state": ocp.StandardCheckpointHandler(),
        "data": ocp.JsonCheckpointHandler(),
        "meta": ocp.JsonCheckpointHandler(),
      },
    )

  def save(self, state: TrainState, data: Any, meta: dict) -> None:
    """Starts writing the state, the data iterator's position and `meta`.

    Raises:
      InputError: the previous save could not be completed, as on a full disk.
    """
    step = int(state.step)
    if step == self._manager.latest_step():
      return
    with clear_disk_errors(self.folder):
      self._manager.wait_until_finished()  # as `save` would
      self._saving = step
      self._manager.save(
        step,
        args=ocp.args.Composite(
          state=ocp.args.StandardSave(state),
          data=ocp.args.JsonSave(data.get_state()),
          meta=ocp.args.JsonSave(meta),
        ),
      )

  def _note_checksums(self) -> None:
    """Writes the checksums of the checkpoint that is about to be complete."""
    (folder,) = self.folder.glob(f"{self._saving}.orbax-checkpoint-tmp*")
    checksums.write(folder, _is_content)

  def restore(self, abstract_state: TrainState, data: Any) -> TrainState | None:
    """Restores the newest checkpoint that is as it was written.

    Newer ones, which are damaged, are moved to `damaged_checkpoints`, with a
    warning. If none can be read, none is moved.

    Args:
      abstract_state: shapes, types and shardings to restore onto.
      data: the data iterator; set to the stored position.

    Returns:
      The state, or None if there is no checkpoint at all.

    Raises:
      InputError: there are checkpoints, but none that can be read.
    """
    damaged = {}
    for step in sorted(self._manager.all_steps(), reverse=True):
      # Each process reads its part: what one cannot read, none takes.
      if problem := _first_text(hosts.exchange(self._find_damage(step))):
        damaged[step] = problem
        continue
      problem = ""
      try:
        restored = self._manager.restore(
          step,
          args=ocp.args.Composite(
            state=ocp.args.StandardRestore(abstract_state),
            data=ocp.args.JsonRestore(),
          ),
        )
        if int(restored.state.step) != step:
          raise ValueError(f"it holds step {int(restored.state.step)}")
      except Exception as error:  # a damaged file may raise anything
        problem = first_line(error)
      if problem := _first_text(hosts.exchange(problem)):
        damaged[step] = problem
        continue
      if damaged:
        if hosts.is_first_process():
          for newer, problem in damaged.items():
            self._move_aside(newer, problem)
        hosts.exchange("")  # the others look again when it is done
        self._manager.reload()
      data.set_state(restored.data)
      return restored.state
    if damaged:
      newest = max(damaged)
      raise InputError(
        f"none of the {len(damaged)} checkpoints in {self.folder} can be read"
        f" ({newest}: {damaged[newest]}): put a good copy there, or"
        " start again in another workdir."
      )
    return None

  def _find_damage(self, step: int) -> str:
    """Compares a checkpoint with its checksums; returns what is wrong.

    Of several processes each reads some of the files.
    """
    place, count = 0, 1
    if jax.distributed.is_initialized():
      place, count = jax.process_index(), jax.process_count()
    try:
      _verify(
        self.folder / str(step),
        lambda name: zlib.crc32(name.encode()) % count == place,
      )
    except checksums.DamageError as error:
      return first_line(error)
    return ""

  def _move_aside(self, step: int, problem: str) -> None:
    aside = self.folder.with_name("damaged_checkpoints") / str(step)
    while aside.exists():
      aside = aside.with_name(aside.name + "_")
    aside.parent.mkdir(exist_ok=True)
    (self.folder / str(step)).rename(aside)
    logging.warning(
      "checkpoint %d cannot be read (%s); moved to %s, taking an older one",
      step,
      problem,
      aside,
    )

  def close(self) -> None:
    """Returns once every save is complete; raises as `save` does."""
    with clear_disk_errors(self.folder):
      self._manager.close()


def _is_content(name: str) -> bool:
  """Tells a file of an item from the notes that Orbax still changes.

  These lie beside the items' folders; no array depends on them.
  """
  return "/" in name


def _verify(
  folder: pathlib.Path, covers: Callable[[str], bool] = lambda name: True
) -> None:
  """Compares a checkpoint with its checksums; warns if it has none.

  Raises:
    DamageError: a file is not as it was written.
  """
  if folder.is_dir() and not checksums.verify(folder, covers):
    logging.warning(
      "%s has no %s, as those of older versions: it is read without a check",
      folder,
      checksums.NAME,
    )


def _first_text(problems: Sequence[str]) -> str:
  """Returns the first text that is not empty; "" if all are."""
  return next(filter(None, problems), "")


def saved_steps(workdir: pathlib.Path) -> list[int]:
  """Lists the steps of a run's checkpoints, ascending."""
  folder = pathlib.Path(workdir).absolute() / "checkpoints"
  return sorted(int(p.name) for p in folder.glob("*") if p.name.isdigit())


def restore_ema(
  workdir: pathlib.Path, abstract_params: Any, step: int | None = None
) -> tuple[int, Any, dict[str, Any]]:
  """Restores the newest EMA parameters of a run that are undamaged.

  Args:
    workdir: the run's directory.
    abstract_params: shapes, types and shardings to restore onto.
    step: step of the checkpoint to read; None for the newest.

  Returns:
    (step, parameters, the `meta` that was saved with them).

  Raises:
    InputError: the directory holds no readable checkpoint.
  """
  folder = pathlib.Path(workdir).absolute() / "checkpoints"
  steps = saved_steps(workdir) if step is None else [step]
  for step in reversed(steps):
    try:
      _verify(folder / str(step))
      handler = ocp.PyTreeCheckpointHandler()
      restored = ocp.Checkpointer(handler).restore(
        folder / str(step) / "state",
        args=ocp.args.PyTreeRestore(
          {"ema": abstract_params},
          restore_args=ocp.checkpoint_utils.construct_restore_args(
            {"ema": abstract_params}
          ),
          partial_restore=True,
        ),
      )
      meta = ocp.Checkpointer(ocp.JsonCheckpointHandler()).restore(
        folder / str(step) / "meta"
      )
      return step, restored["ema"], meta
    except Exception as error:  # a damaged file may raise anything
      logging.warning(
        "checkpoint %d cannot be read (%s), trying an older one",
        step,
        first_line(error),
      )
  raise InputError(
    f"no readable checkpoint in {folder}: train first, with"
    " python -m experiments.train."
  )


def state_bytes(abstract_state: TrainState) -> int:
  """Computes the bytes of a checkpoint on disk, before compression."""
  return sum(
    int(np.prod(x.shape)) * 4
    for x in jax.tree.leaves(abstract_state)
    if hasattr(x, "shape")
  )
