"""Tables of weight names: which tensor of theirs is which parameter of ours."""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from flexmdm_jax.errors import InputError
from flexmdm_jax.models import quantization


class Weight(NamedTuple):
  """Row of a table of weight names.

  Attributes:
    theirs: key of their tensor; `{}` stands for the number of the block.
    ours: path in our parameters, where blocks are stacked along axis 0.
    inputs: number of leading axes of one block's parameter that are inputs of a
      linear layer, whose torch weight is [outputs, inputs] with the axes of
      each side flattened; 0 for a tensor of the same layout.
    shared: number of consecutive blocks that share one parameter, which is
      stacked once; their tensors list it once for each block.
  """

  theirs: str
  ours: str
  inputs: int = 0
  shared: int = 1

  def their_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Shape of their tensor for a parameter of ours, of one block."""
    if not self.inputs:
      return tuple(shape) if not self._flat else (math.prod(shape),)
    return math.prod(shape[self.inputs :]), math.prod(shape[: self.inputs])

  def to_ours(self, tensor: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Makes one block's parameter of ours from their tensor."""
    return (tensor.T if self.inputs else tensor).reshape(shape)

  def to_theirs(self, value: np.ndarray) -> np.ndarray:
    """Makes their tensor from one block's parameter of ours."""
    shape = self.their_shape(value.shape)
    if self.inputs:
      return np.ascontiguousarray(value.reshape(shape[::-1]).T)
    return np.ascontiguousarray(value.reshape(shape))

  @property
  def _flat(self) -> bool:
    """Whether their tensor has one axis, whatever ours has: a bias."""
    return self.theirs.endswith(".bias")


class BlockNames(NamedTuple):
  """Maker of the rows for parameters that every block has.

  Attributes:
    prefix: beginning of their keys, with `{}` for the number of the block.
  """

  prefix: str

  def linear(self, theirs: str, ours: str, inputs: int = 1) -> Weight:
    kernel = f"blocks/{ours}/kernel"
    return Weight(f"{self.prefix}.{theirs}.weight", kernel, inputs)

  def bias(self, theirs: str, ours: str) -> Weight:
    return Weight(f"{self.prefix}.{theirs}.bias", f"blocks/{ours}/bias")

  def norm(self, theirs: str, ours: str) -> Weight:
    return Weight(f"{self.prefix}.{theirs}.weight", f"blocks/{ours}/scale")


class Place(NamedTuple):
  """Place of one tensor of theirs in our parameters.

  Attributes:
    row: the tensor's row of the table.
    index: index into the stack; None where nothing is stacked.
    shape: shape of the parameter, without the axis of the stack.
    first: key of the first block that shares the parameter.
  """

  row: Weight
  index: int | None
  shape: tuple[int, ...]
  first: str

  @property
  def their_shape(self) -> tuple[int, ...]:
    return self.row.their_shape(self.shape)


def flat_params(model: nn.Module) -> dict[str, jax.ShapeDtypeStruct]:
  """Shape and type of each parameter by its path; allocates nothing."""
  abstract = jax.eval_shape(
    model.init,
    jax.random.key(0),
    jnp.zeros((1, 2), jnp.int32),
    jnp.zeros(1, jnp.int32),
    jnp.zeros(1),
  )
  return traverse_util.flatten_dict(nn.unbox(abstract)["params"], sep="/")


def places(
  table: Iterable[Weight],
  shapes: Mapping[str, Sequence[int]],
  num_blocks: int,
) -> dict[str, Place]:
  """Finds where each tensor of theirs goes, by its key.

  Args:
    table: rows that name every parameter of `shapes` once.
    shapes: shapes of our parameters, by path.
    num_blocks: number of blocks of the network.
  """
  rows = {row.ours: row for row in table}
  # A parameter of ours outside the table is a defect of the table.
  assert sorted(rows) == sorted(shapes), sorted(set(rows) ^ set(shapes))
  found = {}
  for path, row in rows.items():
    shape = tuple(shapes[path])
    if "{}" not in row.theirs:
      found[row.theirs] = Place(row, None, shape, row.theirs)
      continue
    for block in range(num_blocks):
      index = block // row.shared
      first = row.theirs.format(index * row.shared)
      found[row.theirs.format(block)] = Place(row, index, shape[1:], first)
  return found


def require_keys(
  places: Mapping[str, Place],
  keys: Iterable[str],
  ignored: frozenset[str] = frozenset(),
) -> None:
  """Raises an InputError if a tensor is missing or unknown."""
  keys = set(keys)
  if missing := set(places) - keys:
    raise InputError(f"the weights lack {names(missing)}.")
  if unknown := keys - set(places) - ignored:
    raise InputError(f"the weights have unknown tensors: {names(unknown)}.")


def require_shape(key: str, place: Place, shape: Sequence[int]) -> None:
  """Raises an InputError if a tensor has another shape than it should."""
  if tuple(shape) != place.their_shape:
    raise InputError(
      f"{key} has the shape {list(shape)}, but config implies"
      f" {list(place.their_shape)}."
    )


def convert(
  places: Mapping[str, Place],
  state: Mapping[str, Any],
  ignored: frozenset[str] = frozenset(),
  dtype: Any = None,
  quantized: Collection[str] = (),
) -> dict:
  """Converts their tensors to our parameters.

  Args:
    places: where their tensors go, by key.
    state: their tensors by key; each is read once.
    ignored: keys that are not used.
    dtype: type of the parameters; None keeps the tensors' own.
    quantized: paths of the kernels that become int8, block by block.

  Raises:
    InputError: a tensor is missing, unknown or of another shape; one that
      several blocks share differs between them.
  """
  require_keys(places, state, ignored)
  flat, stacks = {}, {}
  for key, place in places.items():
    tensor = np.asarray(state[key])
    require_shape(key, place, tensor.shape)
    if place.first != key:
      require_equal(key, tensor, place.first, state[place.first])
      continue
    value = place.row.to_ours(tensor, place.shape)
    value = value if dtype is None else value.astype(dtype)
    made = {place.row.ours: value}
    if place.row.ours in quantized:
      whole = quantization.quantize_kernel(value, place.row.inputs)
      paths = (place.row.ours, quantization.scale_path(place.row.ours))
      made = dict(zip(paths, map(np.asarray, whole), strict=True))
    for path, value in made.items():
      if place.index is None:
        flat[path] = jnp.asarray(value)
      else:
        stacks.setdefault(path, []).append(value)
  flat |= {path: jnp.asarray(np.stack(parts)) for path, parts in stacks.items()}
  return traverse_util.unflatten_dict(flat, sep="/")


def require_equal(key, tensor, first, first_tensor) -> None:
  """Raises an InputError if two tensors that should be one differ."""
  if not np.array_equal(tensor, first_tensor):
    raise InputError(
      f"{key} differs from {first}, but the blocks of a group share it."
    )


def names(keys: Iterable[str], limit: int = 5) -> str:
  """Lists the first few of `keys` on one line."""
  keys = sorted(keys)
  more = f" and {len(keys) - limit} more" if len(keys) > limit else ""
  return ", ".join(keys[:limit]) + more
