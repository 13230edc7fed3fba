"""Weights to start from: a folder of one Orbax tree of parameters."""

import pathlib
from collections.abc import Callable
from typing import Any

import orbax.checkpoint as ocp
from flax import traverse_util

from flexmdm_jax.errors import InputError
from flexmdm_jax.training.checkpoint import first_line

NAME = "params"


def save(folder: str | pathlib.Path, params: Any) -> None:
  """Writes `folder/params`, in place of one that is there."""
  path = pathlib.Path(folder).absolute() / NAME
  with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
    checkpointer.save(path, args=ocp.args.PyTreeSave(params), force=True)


def restore(
  folder: str | pathlib.Path,
  abstract: Any,
  wanted: Callable[[tuple[str, ...]], bool],
) -> Any:
  """Reads parameters of a model, as far as a folder has them.

  Args:
    folder: what `save` or `experiments.convert_llada` wrote.
    abstract: shapes, types and shardings of all the model's parameters; each
      tensor is read in them.
    wanted: whether to read the parameter of a path.

  Returns:
    Nested dicts, part of `abstract`'s.

  Raises:
    InputError: the folder cannot be read, or has a parameter that the model
      has not, or has in another shape.
  """
  path = pathlib.Path(folder).expanduser().absolute() / NAME
  try:
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
      stored = checkpointer.metadata(path).item_metadata.tree
      stored = traverse_util.flatten_dict(stored)
      known = traverse_util.flatten_dict(abstract)
      _require_matching(folder, stored, known)
      tree = traverse_util.unflatten_dict(
        {name: known[name] for name in stored if wanted(name)}
      )
      if not tree:
        return {}
      return checkpointer.restore(
        path,
        args=ocp.args.PyTreeRestore(
          tree,
          restore_args=ocp.checkpoint_utils.construct_restore_args(tree),
          partial_restore=True,
        ),
      )
  except InputError:
    raise
  except Exception as error:  # whatever a damaged file makes Orbax raise
    raise InputError(
      f"pretrained={folder} holds no readable {NAME} ({first_line(error)}):"
      " convert a checkpoint there, with python -m experiments.convert_llada."
    ) from error


def _require_matching(folder, stored, known):
  """Refuses stored parameters that are none of those known."""
  for path, x in stored.items():
    name, shape = "/".join(path), tuple(x.shape)
    if path not in known:
      raise InputError(
        f"pretrained={folder} has a parameter {name} that the model has not."
      )
    if shape != known[path].shape:
      raise InputError(
        f"pretrained={folder}: {name} has the shape {shape}, the model's has"
        f" {known[path].shape}."
      )
