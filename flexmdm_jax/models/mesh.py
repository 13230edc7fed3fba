"""What a model may know of the mesh that is in scope (`jax.set_mesh`).

Parameters are laid out by `training.sharding.Rules`. Activations follow by
themselves, except where the compiler is to be told: rows are split over the
axes named here, heads over the last.
"""

import math

import jax
from jax.sharding import AbstractMesh, PartitionSpec
from jaxtyping import Array, Float

_ROW_AXES = ("data", "fsdp")
_HEAD_AXIS = "tensor"


def current() -> AbstractMesh | None:
  """The mesh in scope, if the compiler is to split work over some of it."""
  mesh = jax.sharding.get_abstract_mesh()
  return (
    mesh if any(_size(mesh, axis) > 1 for axis in mesh.axis_names) else None
  )


def automatic_axes(mesh: AbstractMesh) -> set[str]:
  """The axes over which the compiler splits: `shard_map` took the others."""
  return set(mesh.axis_names) - set(mesh.manual_axes)


def _size(mesh: AbstractMesh, axis: str) -> int:
  return mesh.shape[axis] if axis in automatic_axes(mesh) else 1


def platform() -> str:
  """What the mesh in scope, or else this process, computes on."""
  device = jax.sharding.get_abstract_mesh().abstract_device
  return getattr(device, "platform", None) or jax.default_backend()


def row_axes(mesh: AbstractMesh, rows: int) -> tuple[str, ...] | None:
  """The axes over which so many rows are split; None where none divides.

  A model is made with one row, which every device then holds.
  """
  axes = tuple(axis for axis in _ROW_AXES if _size(mesh, axis) > 1)
  shares = math.prod(mesh.shape[axis] for axis in axes)
  return axes if axes and rows % shares == 0 else None


def head_axis(mesh: AbstractMesh, heads: int) -> str | None:
  """The axis over which so many heads are split; None where none divides."""
  shares = _size(mesh, _HEAD_AXIS)
  return _HEAD_AXIS if shares > 1 and heads % shares == 0 else None


def whole_rows(matrix: Float[Array, "D V"]) -> Float[Array, "D V"]:
  """Tells the compiler to gather a matrix that is split along its inputs.

  For one that a loop multiplies with: left to itself, each turn gathers it.
  """
  if current() is None:
    return matrix
  spec = PartitionSpec(None, PartitionSpec.UNCONSTRAINED)
  return jax.lax.with_sharding_constraint(matrix, spec)


def split_rows(x: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
  """Tells the compiler that the devices hold different rows of `x`."""
  mesh = current()
  axes = mesh and row_axes(mesh, x.shape[0])
  if not axes:
    return x
  return jax.lax.with_sharding_constraint(x, PartitionSpec(axes))
