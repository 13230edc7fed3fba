"""The public `insert_unmask`: checks, then the choice of an implementation."""

import operator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import checkify
from jaxtyping import Array, Bool, Int32

from flexmdm_jax.kernels.common import Implementation, dispatch, later
from flexmdm_jax.kernels.insert_unmask import ref
from flexmdm_jax.kernels.insert_unmask.config import GpuConfig, TpuConfig

# The best first; the reference runs anywhere.
IMPLEMENTATIONS = {
  "mosaic_gpu": Implementation(
    later(f"{__package__}.pallas_mosaic_gpu:insert_unmask"),
    available=lambda target: target.is_hopper,
    config=GpuConfig,
  ),
  "mosaic_tpu": Implementation(
    later(f"{__package__}.pallas_mosaic_tpu:insert_unmask"),
    available=lambda target: target.is_tpu,
    config=TpuConfig,
  ),
  "reference": Implementation(ref.insert_unmask),
}


def insert_unmask(
  tokens: Int32[Array | np.ndarray, "B L"],
  length: Int32[Array | np.ndarray, " B"],
  revealed: Int32[Array | np.ndarray, "B L"],
  insertions: Int32[Array | np.ndarray, "B L+1"],
  *,
  mask: int,
  pad: int,
  implementation: str | None = None,
  config: GpuConfig | TpuConfig | None = None,
  interpret: Any = False,
  check: bool = False,
) -> tuple[Int32[Array, "B L"], Int32[Array, " B"], Bool[Array, " B"]]:
  """Reveals masks, then inserts new masks, in every row of a batch.

  When a row has no room for all that is inserted, the gaps are served from the
  left until it is full; no token is lost. Positions beyond `length` are not
  read.

  Args:
    tokens: left-aligned rows.
    length: number of tokens of each row, in [0, L].
    revealed: new token of each position, or -1 to keep the old.
    insertions: number of masks to insert before each position, and at the end
      after them all; not negative. Gaps beyond gap `length` are ignored.
    mask: id of the inserted tokens, a Python integer.
    pad: id that fills the positions beyond the new length, a Python integer.
    implementation: "reference", "mosaic_gpu" (Hopper) or "mosaic_tpu"; None
      for the best on this backend that can do these shapes. The compiler does
      not partition Mosaic kernels: with several devices None takes them inside
      `jax.shard_map` only.
    config: tuning of the named implementation, which changes speed only; None
      for the device's row of the table.
    interpret: run the named implementation on the CPU, slowly.
    check: also check the values of JAX arrays; NumPy's are always checked.
      Concrete arrays wait for the device; traced ones need a caller that
      functionalises the checks (`jax.experimental.checkify.checkify`).

  Returns:
    (tokens, length, truncated); `truncated` marks rows that wanted more than L
    tokens.

  Raises:
    ValueError: a wrong rank, shape, dtype or checked value; an implementation
      that is unknown or not available here; a config of another one.
    NotImplementedError: the named implementation cannot do these shapes.
  """
  arrays = {
    "tokens": tokens,
    "length": length,
    "revealed": revealed,
    "insertions": insertions,
  }
  _check_types(**arrays)
  _check_values(length, insertions, check)
  return dispatch(
    IMPLEMENTATIONS,
    implementation,
    *map(jnp.asarray, arrays.values()),
    mask=operator.index(mask),
    pad=operator.index(pad),
    config=config,
    interpret=interpret,
  )


def _check_types(**arrays):
  """Raises ValueError for an argument of a wrong rank, shape or dtype."""
  for name, array in arrays.items():
    if not isinstance(array, np.ndarray | jax.Array):
      raise ValueError(f"{name} must be an array, got {array!r}.")
  tokens = arrays["tokens"]
  if tokens.ndim != 2:
    raise ValueError(f"tokens must be [B, L], got shape {tokens.shape}.")
  B, L = tokens.shape
  shapes = ((B, L), (B,), (B, L), (B, L + 1))
  for (name, array), shape in zip(arrays.items(), shapes, strict=True):
    if array.shape != shape or array.dtype != "int32":
      raise ValueError(
        f"{name} must be int32{list(shape)}, got"
        f" {array.dtype}{list(array.shape)}."
      )


def _check_values(length, insertions, check):
  """Checks values: NumPy's in any case, those of JAX arrays if `check`."""
  L = insertions.shape[1] - 1
  pair = (length, insertions)
  traced = any(isinstance(x, jax.core.Tracer) for x in pair)
  if not (check or all(isinstance(x, np.ndarray) for x in pair)):
    return
  xp = jnp if traced else np
  length, insertions = xp.asarray(length), xp.asarray(insertions)
  used = xp.arange(L + 1, dtype="int32") <= length[:, None]
  conditions = {
    f"length must be in [0, {L}].": (length >= 0) & (length <= L),
    "insertions must not be negative.": ~used | (insertions >= 0),
  }
  for message, good in conditions.items():
    if traced:
      checkify.check(good.all(), message)
    elif not good.all():
      raise ValueError(message)
