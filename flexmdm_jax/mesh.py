"""Names of a mesh's axes, and what a model may know of the mesh in scope.

Parameters are laid out by `training.sharding.Rules`. Activations follow by
themselves, except where the compiler is to be told: rows are split over
`ROW_AXES`, heads over `TENSOR`. The mesh in scope is that of `jax.set_mesh`.
"""

import math
from collections.abc import Callable

import jax
from jax.sharding import AbstractMesh, PartitionSpec
from jaxtyping import Array, Float

DATA, FSDP, TENSOR = "data", "fsdp", "tensor"
# The last axes are the nearest devices.
AXES = (DATA, FSDP, TENSOR)
ROW_AXES = (DATA, FSDP)


def current() -> AbstractMesh | None:
  """Returns the mesh in scope, if the compiler is to split work over it."""
  mesh = jax.sharding.get_abstract_mesh()
  return (
    mesh if any(_size(mesh, axis) > 1 for axis in mesh.axis_names) else None
  )


def automatic_axes(mesh: AbstractMesh) -> set[str]:
  """Returns the axes the compiler splits over: not those of `shard_map`."""
  return set(mesh.axis_names) - set(mesh.manual_axes)


def _size(mesh: AbstractMesh, axis: str) -> int:
  return mesh.shape[axis] if axis in automatic_axes(mesh) else 1


def platform() -> str:
  """Names the platform of the mesh in scope, or else of this process."""
  device = jax.sharding.get_abstract_mesh().abstract_device
  return getattr(device, "platform", None) or jax.default_backend()


def row_axes(mesh: AbstractMesh, rows: int) -> tuple[str, ...] | None:
  """Returns the axes over which so many rows are split; None if none divides.

  A model is initialised on one row, which every device then holds.
  """
  axes = tuple(axis for axis in ROW_AXES if _size(mesh, axis) > 1)
  shares = math.prod(mesh.shape[axis] for axis in axes)
  return axes if axes and rows % shares == 0 else None


def head_axis(mesh: AbstractMesh, heads: int) -> str | None:
  """Returns the axis over which so many heads are split; None if none is."""
  shares = _size(mesh, TENSOR)
  return TENSOR if shares > 1 and heads % shares == 0 else None


def by_rows(
  run: Callable[..., Float[Array, " B"]], rows: int, num_whole: int
) -> Callable[..., Float[Array, " B"]]:
  """Makes `run` work on each device's own rows.

  Left to itself, the compiler has all devices take part in each turn of a loop:
  it gathers the weights, or sums their gradients, as often.

  Args:
    run: a function of arrays whose second axis is the rows, to an array of the
      rows.
    rows: number of rows.
    num_whole: number of first arguments that every device is given whole.
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
