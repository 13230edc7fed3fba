"""Checkpoints of a training run, by Orbax.

Each holds the whole state (parameters, EMA, optimiser, step, keys, metric
sums), the position in the data, and the run's config and interpolant, to which
the parameters belong. They are written in the background and appear under
their final name only when complete. Of several processes each writes its part;
any number of processes and devices restores the whole.
"""

import logging
import pathlib
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

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
        max_to_keep=keep, enable_async_checkpointing=True
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
      self._manager.save(
        step,
        args=ocp.args.Composite(
          state=ocp.args.StandardSave(state),
          data=ocp.args.JsonSave(data.get_state()),
          meta=ocp.args.JsonSave(meta),
        ),
      )

  def restore(self, abstract_state: TrainState, data: Any) -> TrainState | None:
    """Restores the newest checkpoint that can be read.

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
      # Each process reads its part: what one cannot read, none takes.
      if problems := [text for text in hosts.exchange(problem) if text]:
        damaged[step] = problems[0]
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


def saved_steps(workdir: pathlib.Path) -> list[int]:
  """Lists the steps of a run's checkpoints, ascending."""
  folder = pathlib.Path(workdir).absolute() / "checkpoints"
  return sorted(int(p.name) for p in folder.glob("*") if p.name.isdigit())


def restore_ema(
  workdir: pathlib.Path, abstract_params: Any, step: int | None = None
) -> tuple[int, Any, dict[str, Any]]:
  """Restores the newest readable EMA parameters of a run, for evaluation.

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
