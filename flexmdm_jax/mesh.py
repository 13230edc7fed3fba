"""What a model may know of the mesh that is in scope (`jax.set_mesh`).

Parameters are laid out by `training.sharding.Rules`. Activations follow by
themselves, except where the compiler is to be told: rows are split over the
axes named here, heads over the last.
"""

import math
from collections.abc import Callable

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


def by_rows(
  run: Callable[..., Float[Array, " B"]], rows: int, num_whole: int
) -> Callable[..., Float[Array, " B"]]:
  """`run` on each device's own rows.

  Left to itself, the compiler has all devices take part in each turn of a loop:
  it gathers the weights, or sums their gradients, as often.

  Args:
    run: of arrays whose second axis are the rows, to an array of the rows.
    rows: how many there are.
    num_whole: of the first arguments, which every device is given whole.
  """
  mesh = current()
  axes = mesh and row_axes(mesh, rows)
  if not axes:
    return run

  def wrapped(*args):
    split = PartitionSpec(None, axes)
    whole = PartitionSpec()
    return jax.shard_map(
      run,
      mesh=mesh,
      in_specs=tuple(
        whole if i < num_whole else split for i in range(len(args))
      ),
      out_specs=PartitionSpec(axes),
      axis_names=set(axes),
      check_vma=False,
    )(*args)

  return wrapped


def split_rows(x: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
  """Tells the compiler that the devices hold different rows of `x`."""
  mesh = current()
  axes = mesh and row_axes(mesh, x.shape[0])
  if not axes:
    return x
  return jax.lax.with_sharding_constraint(x, PartitionSpec(axes))
