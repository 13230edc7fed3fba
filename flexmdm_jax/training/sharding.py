"""Meshes, and the rules that lay parameters out on them.

A parameter names its logical axes once, where it is declared. `Rules` says
which mesh axis each of them is split over; everything else follows.
"""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from flexmdm_jax.errors import InputError

MESH_AXES = ("data", "fsdp", "tensor")


@dataclasses.dataclass(frozen=True)
class Rules:
  """The mesh axis of each logical axis; None keeps it whole.

  Attributes:
    batch: mesh axes that the batch is split over.
    vocab, embed, heads, head_dim, mlp, cond, layers: of the parameters.
  """

  batch: tuple[str, ...] = ("data", "fsdp")
  vocab: str | None = "tensor"
  embed: str | None = "fsdp"
  heads: str | None = "tensor"
  head_dim: str | None = None
  mlp: str | None = "tensor"
  cond: str | None = None
  layers: str | None = None

  def spec(self, name: str, axes: tuple[str | None, ...]) -> PartitionSpec:
    """The partition of an array with these logical axes.

    Raises:
      InputError: two of its axes fall on one mesh axis; `name` is told.
    """
    mesh_axes = [None if axis is None else getattr(self, axis) for axis in axes]
    used = [axis for axis in mesh_axes if axis is not None]
    if len(set(used)) < len(used):
      raise InputError(
        f"{name}: its logical axes {axes} map to the mesh axes"
        f" {tuple(mesh_axes)}, one of them twice. Map one to None in Rules."
      )
    return PartitionSpec(*mesh_axes)


def make_mesh(data: int = -1, fsdp: int = 1, tensor: int = 1) -> Mesh:
  """A mesh over every device of every process.

  Args:
    data: replicas of the parameters; -1 takes the devices that are left.
    fsdp: devices over which parameters are split for storage.
    tensor: devices over which heads, features and vocabulary are split.

  Raises:
    InputError: the axes do not multiply to the number of devices.
  """
  num_devices = jax.device_count()
  if data == -1 and fsdp > 0 and tensor > 0:
    data = num_devices // (fsdp * tensor)
  shape = (data, fsdp, tensor)
  if min(shape) < 1 or int(np.prod(shape)) != num_devices:
    raise InputError(
      f"mesh {dict(zip(MESH_AXES, shape, strict=True))} does not fit"
      f" {num_devices} devices: the axes must multiply to that."
    )
  return jax.make_mesh(shape, MESH_AXES, axis_types=(AxisType.Auto,) * 3)


def batch_sharding(rules: Rules, mesh: Mesh) -> NamedSharding:
  """How arrays whose first axis is the batch lie on the mesh."""
  return NamedSharding(mesh, PartitionSpec(rules.batch))


def local_rows(sharding: NamedSharding, batch_size: int) -> list[int]:
  """The rows of a global batch that this process's devices hold.

  They need not be a block: a TPU's mesh orders devices by their links. Where
  the devices that hold a row's replicas belong to several processes, each of
  them has it.

  Args:
    sharding: of the batch.
    batch_size: rows over all processes.

  Raises:
    InputError: two processes share some of their rows, but not all.
  """
  held = {}
  for device, (span, *_) in sharding.devices_indices_map((batch_size,)).items():
    rows = held.setdefault(device.process_index, set())
    rows.update(range(*span.indices(batch_size)))
  mine = held[jax.process_index()]
  for process, rows in held.items():
    if mine & rows and mine != rows:
      raise InputError(
        f"the mesh {dict(sharding.mesh.shape)} cuts the batch so that process"
        f" {process} shares some rows with another and has some alone: let the"
        " axes divide the devices of a process, or be a multiple of them."
      )
  return sorted(mine)


def replicated(mesh: Mesh) -> NamedSharding:
  """The sharding of what every device holds whole."""
  return NamedSharding(mesh, PartitionSpec())


def tree_shardings(abstract: Any, rules: Rules, mesh: Mesh) -> Any:
  """The sharding of each leaf of a tree whose parameters are boxed.

  Args:
    abstract: tree of `ShapeDtypeStruct`s; `nn.LogicallyPartitioned` boxes
      carry the names of the logical axes, what has none is replicated.
    rules: maps them.
    mesh: the devices.

  Returns:
    The tree, unboxed, of `NamedSharding`s.

  Raises:
    InputError: axes collide, or do not divide; the message names the array.
  """

  def is_box(x):
    return isinstance(x, nn.LogicallyPartitioned)

  def one(path, leaf):
    if not is_box(leaf):
      return replicated(mesh)
    name = jax.tree_util.keystr(path)
    spec = rules.spec(name, leaf.names)
    for i, (size, axis) in enumerate(zip(leaf.value.shape, spec, strict=True)):
      if axis is not None and size % mesh.shape[axis]:
        raise InputError(
          f"{name}: axis {i} ({leaf.names[i]!r}) of size {size} does not"
          f" divide over mesh axis {axis!r} of size {mesh.shape[axis]}."
        )
    return NamedSharding(mesh, spec)

  return jax.tree_util.tree_map_with_path(one, abstract, is_leaf=is_box)
