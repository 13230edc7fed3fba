"""The parameters that training changes, and those that stay as they are.

Checkpoints, moving averages and the optimiser see the first only: of a
pretrained model of 8B parameters with low-rank updates, a twentieth.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
from flax import traverse_util

Params = dict[str, Any]


def trainable(model: nn.Module) -> Callable[[tuple[str, ...]], bool]:
  """Returns the test whether training changes a path: all, by default."""
  return getattr(model, "trainable", lambda path: True)


def split(model: nn.Module, params: Params) -> tuple[Params, Params]:
  """Parts a tree that has the model's parameters, or a leaf for each.

  Args:
    model: see `trainable`.
    params: nested dicts.

  Returns:
    (the trained parameters, the frozen ones), nested dicts without empty ones.
  """
  flat = traverse_util.flatten_dict(params)
  changes = trainable(model)
  trained = {path: x for path, x in flat.items() if changes(path)}
  frozen = {path: x for path, x in flat.items() if path not in trained}
  return (
    traverse_util.unflatten_dict(trained),
    traverse_util.unflatten_dict(frozen),
  )


def join(*parts: Params) -> Params:
  """Joins parts into one tree.

  Raises:
    ValueError: two of them have the same path.
  """
  joined = {}
  for part in parts:
    flat = traverse_util.flatten_dict(part)
    twice = joined.keys() & flat.keys()
    if twice:
      raise ValueError(f"parameter {'/'.join(min(twice))} is in two parts.")
    joined.update(flat)
  return traverse_util.unflatten_dict(joined)


def replace(params: Params, given: Params) -> Params:
  """Returns `params` with the values of `given`, in the types of `params`.

  Raises:
    ValueError: `given` has a parameter that `params` lacks.
  """
  flat = traverse_util.flatten_dict(params)
  for path, x in traverse_util.flatten_dict(given).items():
    if path not in flat:
      raise ValueError(f"parameter {'/'.join(path)} is not one of the model's.")
    flat[path] = x.astype(flat[path].dtype)
  return traverse_util.unflatten_dict(flat)
