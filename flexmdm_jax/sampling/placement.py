"""How a batch of samples lies on a mesh.

Rows are independent: the devices that hold different rows run loops of their
own, without a word to each other, and each stops growing its canvas where its
own rows do. Devices along the vocabulary's axis work on the same rows: the
compiler splits the network over them, and the kernels are told how.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import Mesh, PartitionSpec

from flexmdm_jax.errors import InputError
from flexmdm_jax.mesh import ROW_AXES, TENSOR


@dataclasses.dataclass(frozen=True)
class Placement:
  """Devices that sample together.

  The denoiser's parameters are to lie whole along `batch`, and as
  `training.sharding.Rules` says along `vocab`.

  Attributes:
    mesh: the devices.
    batch: mesh axes over which the rows are split.
    vocab: mesh axis over which the vocabulary is split; others than these are
      of size 1.

  Raises:
    InputError: an axis that the mesh lacks, or has beside these.
  """

  mesh: Mesh
  batch: tuple[str, ...] = ROW_AXES
  vocab: str = TENSOR

  def __post_init__(self):
    named = (*self.batch, self.vocab)
    sizes = dict(self.mesh.shape)
    wrong = [axis for axis in named if axis not in sizes]
    wrong += [axis for axis in sizes if axis not in named and sizes[axis] > 1]
    if wrong:
      raise InputError(
        f"Placement(batch={self.batch}, vocab={self.vocab!r}) does not fit the"
        f" mesh {sizes}: see the axes {wrong}."
      )

  @property
  def vocab_axis(self) -> str | None:
    """Mesh axis over which the vocabulary is split, or None."""
    return self.vocab if self.mesh.shape[self.vocab] > 1 else None

  def rows(self, axis: int = 0) -> PartitionSpec:
    """Makes the spec of an array whose rows lie along `axis`."""
    return PartitionSpec(*[None] * axis, self.batch)

  @property
  def shares(self) -> int:
    """Number of parts that the rows are split into."""
    return math.prod(self.mesh.shape[axis] for axis in self.batch)

  def require_divides(self, num_rows: int) -> None:
    """Raises an InputError if so many rows cannot be split evenly."""
    if num_rows % self.shares:
      raise InputError(
        f"{num_rows} rows do not divide over the mesh axes {self.batch}, which"
        f" have {self.shares} devices: sample a multiple of that."
      )

  def by_rows(self, run: Callable[..., Any], out_specs: Any) -> Callable:
    """Makes `run(keys, denoiser, start)` run on each device's own rows."""
    manual = set(self.mesh.axis_names)
    if self.vocab_axis:
      manual.remove(self.vocab_axis)
    return jax.shard_map(
      run,
      mesh=self.mesh,
      in_specs=(self.rows(), PartitionSpec(), self.rows()),
      out_specs=out_specs,
      axis_names=manual,
      check_vma=False,
    )


def on_axis(
  axis: str | None, f: Callable[..., Any], in_specs: Any, out_specs: Any
) -> Callable[..., Any]:
  """Makes `f` run on each device along `axis` of the mesh in scope.

  Without an axis it is `f` itself.

  The compiler cannot partition a kernel by itself.
  """
  if axis is None:
    return f
  return jax.shard_map(
    f,
    in_specs=in_specs,
    out_specs=out_specs,
    axis_names={axis},
    check_vma=False,
  )
