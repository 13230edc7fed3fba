"""Meshes, and the rules that lay parameters out on them.

A parameter names its logical axes once, where it is declared. `Rules` says
which mesh axis each of them is split over; everything else follows.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from flexmdm_jax.errors import InputError
from flexmdm_jax.mesh import AXES, FSDP, ROW_AXES, TENSOR
from flexmdm_jax.schema import Range, count, require, require_value


@dataclasses.dataclass(frozen=True)
class Rules:
  """The mesh axis of each logical axis of a parameter; None keeps it whole.

  Attributes:
    batch: mesh axes that the batch is split over.
    vocab: mesh axis of this axis of the parameters; so are all that follow.
  """

  batch: tuple[str, ...] = ROW_AXES
  vocab: str | None = TENSOR
  embed: str | None = FSDP
  heads: str | None = TENSOR
  kv_heads: str | None = TENSOR
  head_dim: str | None = None
  mlp: str | None = TENSOR
  cond: str | None = None
  layers: str | None = None
  groups: str | None = None
  lora_rank: str | None = None

  def spec(self, name: str, axes: tuple[str | None, ...]) -> PartitionSpec:
    """Returns the partition of an array with these logical axes.

    Raises:
      InputError: two of its axes fall on one mesh axis, or one has no rule; the
        message has `name`.
    """
    known = {field.name for field in dataclasses.fields(self)} - {"batch"}
    for axis in axes:
      if axis is not None and axis not in known:
        raise InputError(
          f"{name}: Rules has no logical axis {axis!r}, it has"
          f" {', '.join(sorted(known))}."
        )
    mesh_axes = [None if axis is None else getattr(self, axis) for axis in axes]
    used = [axis for axis in mesh_axes if axis is not None]
    if len(set(used)) < len(used):
      raise InputError(
        f"{name}: its logical axes {axes} map to the mesh axes"
        f" {tuple(mesh_axes)}, one of them twice. Map one to None in Rules."
      )
    return PartitionSpec(*mesh_axes)


@dataclasses.dataclass(frozen=True)
class Layout:
  """Sizes of a mesh, and the rules for it.

  Attributes:
    data: replicas of the parameters; -1 takes the devices that are left.
    fsdp: devices over which parameters are split for storage.
    tensor: devices over which heads, features and vocabulary are split.
    rules: the mesh axis of each logical axis.
  """

  data: int = count(-1, least=-1)
  fsdp: int = count(1, least=-1)
  tensor: int = count(1, least=-1)
  rules: Rules = Rules()

  def __post_init__(self):
    require(self, "mesh")
    for name in AXES:
      if getattr(self, name) == 0:
        raise InputError(
          f"mesh.{name}=0 must be at least 1, or -1 for the rest."
        )


# Layouts by their name in a config's `mesh.layout`.
#
# Two nodes of eight GPUs: each holds the model whole. An update of 8B
# parameters by LoRA then sends the gradient of 0.4B between the nodes, 0.2 GB a
# GPU (1.6 GB over its eighth), where fsdp=16 would send half the weights, 8 GB
# a node, twice a step: 2 GB a GPU over a link of 50 GB/s. Trained whole, it is
# 4 GB of gradient against 2 GB of weights twice.
# TPUs have one kind of link to all: parameters are split as far as they go.
LAYOUTS = {
  "replicated": Layout(),
  "fsdp": Layout(data=1, fsdp=-1),
  "8xh100": Layout(data=1, fsdp=8),
  "16xh100": Layout(data=2, fsdp=8),
  "v5p-32": Layout(data=1, fsdp=16),  # 32 cores, 16 chips
  "v6e-16": Layout(data=1, fsdp=16),
}


def make_layout(
  layout: str | None = None,
  data: int | None = None,
  fsdp: int | None = None,
  tensor: int | None = None,
) -> Layout:
  """Makes the layout of a config's `mesh`.

  Args:
    layout: a name in `LAYOUTS`, by default "replicated".
    data: replaces the named layout's size, if given.
    fsdp: replaces the named layout's size, if given.
    tensor: replaces the named layout's size, if given.

  Raises:
    InputError: unknown name.
  """
  layout = "replicated" if layout is None else layout
  require_value("mesh.layout", layout, str, Range(among=LAYOUTS))
  sizes = dict(data=data, fsdp=fsdp, tensor=tensor)
  return dataclasses.replace(
    LAYOUTS[layout], **{k: n for k, n in sizes.items() if n is not None}
  )


def make_mesh(
  data: int = -1,
  fsdp: int = 1,
  tensor: int = 1,
  devices: Sequence[jax.Device] | None = None,
) -> Mesh:
  """Makes a mesh over every device of every process.

  Args:
    data: size of the axis; see `Layout`. One of the three sizes may be -1: it
      takes the devices that are left.
    fsdp: size of the axis.
    tensor: size of the axis.
    devices: devices to take instead, such as those of a topology that is not
      here.

  Raises:
    InputError: the axes do not multiply to the number of devices.
  """
  num_devices = len(devices or jax.devices())
  shape = mesh_shape(num_devices, data, fsdp, tensor)
  if devices is not None:
    # A topology may have no torus of this shape.
    devices = mesh_utils.create_device_mesh(
      shape, devices, allow_split_physical_axes=True
    ).flatten()
  return jax.make_mesh(
    shape, AXES, axis_types=(AxisType.Auto,) * 3, devices=devices
  )


def mesh_shape(
  num_devices: int, data: int = -1, fsdp: int = 1, tensor: int = 1
) -> tuple[int, int, int]:
  """Returns the sizes of a mesh's axes; see `make_mesh`."""
  shape = [data, fsdp, tensor]
  if shape.count(-1) == 1 and sorted(shape)[1] > 0:
    shape[shape.index(-1)] = num_devices // -math.prod(shape)
  if min(shape) < 1 or math.prod(shape) != num_devices:
    raise InputError(
      f"mesh {dict(zip(AXES, shape, strict=True))} does not fit"
      f" {num_devices} devices: the axes must multiply to that."
    )
  return tuple(shape)


def batch_sharding(rules: Rules, mesh: Mesh) -> NamedSharding:
  """Returns the sharding of arrays whose first axis is the batch."""
  return NamedSharding(mesh, PartitionSpec(rules.batch))


def local_rows(sharding: NamedSharding, batch_size: int) -> list[int]:
  """Lists the rows of a global batch that this process's devices hold.

  They need not be a block: a TPU's mesh orders devices by their links. Where
  the devices that hold a row's replicas belong to several processes, each of
  them has it.

  Args:
    sharding: the sharding of the batch.
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
  """Returns the sharding of an array that every device holds whole."""
  return NamedSharding(mesh, PartitionSpec())


def tree_shardings(abstract: Any, rules: Rules, mesh: Mesh) -> Any:
  """Returns the sharding of each leaf of a tree whose parameters are boxed.

  Args:
    abstract: tree of `ShapeDtypeStruct`s; `nn.LogicallyPartitioned` boxes
      carry the names of the logical axes, what has none is replicated.
    rules: the mesh axis of each logical axis.
    mesh: the devices.

  Returns:
    The tree of `NamedSharding`s, unboxed.

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
