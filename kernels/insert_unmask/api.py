"""`insert_unmask`: checks its arguments and picks an implementation."""

import operator

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import checkify

from flexmdm_jax.kernels.common import Implementation, dispatch
from flexmdm_jax.kernels.insert_unmask import (
  pallas_mosaic_gpu,
  pallas_mosaic_tpu,
  ref,
)
from flexmdm_jax.kernels.insert_unmask.config import GpuConfig, TpuConfig

# The best first; the reference runs anywhere.
IMPLEMENTATIONS = {
  "mosaic_gpu": Implementation(
    pallas_mosaic_gpu.insert_unmask,
    available=lambda target: target.is_hopper,
    config=GpuConfig,
  ),
  "mosaic_tpu": Implementation(
    pallas_mosaic_tpu.insert_unmask,
    available=lambda target: target.is_tpu,
    config=TpuConfig,
  ),
  "reference": Implementation(ref.insert_unmask),
}


def insert_unmask(
  tokens,
  length,
  revealed,
  insertions,
  *,
  mask,
  pad,
  implementation=None,
  config=None,
  interpret=False,
  check=False,
):
  """Reveals masks, then inserts new masks, in every row of a batch.

  When a row has no room for all that is inserted, the gaps are served from the
  left until it is full; nothing that was there is lost. What the arrays hold
  beyond `length` is not looked at.

  Args:
    tokens: i32[B, L], left-aligned rows.
    length: i32[B], their numbers of tokens, in [0, L].
    revealed: i32[B, L], the new token of a position, or -1 to keep the old.
    insertions: i32[B, L+1], masks to insert before each position, the last
      after them all; not negative. Those beyond gap `length` are ignored.
    mask: id of the inserted tokens, a Python integer.
    pad: id that fills the positions beyond the new length, likewise.
    implementation: "reference", "mosaic_gpu" (Hopper) or "mosaic_tpu"; None
      for the best on this backend that can do these shapes. The compiler does
      not partition Mosaic kernels: with several devices None takes them inside
      `jax.shard_map` only.
    config: `GpuConfig` or `TpuConfig` of the named implementation, which
      changes speed only; None for the device's row of the table.
    interpret: run the named implementation on the CPU, slowly.
    check: also check the values of JAX arrays, those of NumPy's always are.
      Concrete arrays wait for the device; traced ones need a caller that
      functionalises the checks (`jax.experimental.checkify.checkify`).

  Returns:
    (tokens i32[B, L], length i32[B], truncated bool[B]); `truncated` marks rows
    that wanted more than L tokens.

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
  """Checks a NumPy argument in any case, a JAX one if `check`."""
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
