"""Kernel of `insert_unmask` for TPUs: blocks of rows, shifted bit by bit.

Tokens keep their order, so their shifts do not decrease along a row. Moving by
the bits of the shifts, the largest first, then never lets two tokens meet: what
is left of the shifts, rounded down, still does not decrease. A token never
wraps around either, since it ends inside the row.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Bool, Int32

from flexmdm_jax.kernels.common import target
from flexmdm_jax.kernels.insert_unmask.config import TPU_TABLE, TpuConfig

MAX_LENGTH = 8192
_LANES = 128
# Above every shift: the cell holds a token.
_PRESENT = 1 << 30


def insert_unmask(
  tokens: Int32[Array, "B L"],
  length: Int32[Array, " B"],
  revealed: Int32[Array, "B L"],
  insertions: Int32[Array, "B L+1"],
  *,
  mask: int,
  pad: int,
  config: TpuConfig | None = None,
  interpret: Any = False,
) -> tuple[Int32[Array, "B L"], Int32[Array, " B"], Bool[Array, " B"]]:
  """Runs the TPU kernel; see `api.insert_unmask`.

  `interpret` may be a `pltpu.InterpretParams`.

  Raises:
    NotImplementedError: an array is empty, or rows are longer than 8192.
  """
  B, L = tokens.shape
  if not B * L or L > MAX_LENGTH:
    raise NotImplementedError(f"The TPU kernel has no shape {tokens.shape}.")
  config = config or TPU_TABLE.get(target().kind, TpuConfig())
  # The gap after the last token included, in whole registers. The blocks are
  # wider than the arrays: cells beyond are masked like a ragged end.
  P = pl.cdiv(L + 1, _LANES) * _LANES
  rows = pl.BlockSpec((config.block_rows, P), lambda i: (i, 0))
  column = pl.BlockSpec((config.block_rows, 1), lambda i: (i, 0))
  # Under `shard_map` the results vary as the tokens do.
  out = functools.partial(
    jax.ShapeDtypeStruct,
    dtype=jnp.int32,
    manual_axis_type=jax.typeof(tokens).manual_axis_type,
  )
  new_tokens, new_length, truncated = pl.pallas_call(
    functools.partial(_kernel, L=L, mask=mask, pad=pad),
    out_shape=(out((B, L)), out((B, 1)), out((B, 1))),
    grid=(pl.cdiv(B, config.block_rows),),
    in_specs=[column, rows, rows, rows],
    out_specs=(rows, column, column),
    scratch_shapes=[pltpu.VMEM((config.block_rows, P), jnp.int32)] * 2,
    compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel",)),
    interpret=pltpu.InterpretParams() if interpret is True else interpret,
  )(length[:, None], tokens, revealed, insertions)
  return new_tokens, new_length[:, 0], truncated[:, 0] != 0


def _kernel(
  length_ref,
  tokens_ref,
  revealed_ref,
  insertions_ref,
  new_tokens_ref,
  new_length_ref,
  truncated_ref,
  token,
  shift,
  *,
  L,
  mask,
  pad,
):
  """Moves the rows of one block."""
  length = length_ref[...]
  index = jax.lax.broadcasted_iota(jnp.int32, token.shape, 1)
  P = token.shape[1]

  # Clipped to L + 1, which is too much for any row, the sum fits an int32.
  wanted = jnp.clip(insertions_ref[...], 0, L + 1)
  wanted = jnp.where(index <= length, wanted, 0)
  for step in _powers(P):
    before = pltpu.roll(wanted, step, 1)
    wanted += jnp.where(index >= step, before, 0)
  total = wanted[:, P - 1 :]
  room = L - length
  new_length = length + jnp.minimum(total, room)
  new_length_ref[...] = new_length
  truncated_ref[...] = (total > room).astype(jnp.int32)

  kept = revealed_ref[...]
  token[...] = jnp.where(kept >= 0, kept, tokens_ref[...])
  given = jnp.minimum(wanted, room)
  shift[...] = jnp.where(index < length, given | _PRESENT, 0)
  # Most steps of a sampler insert little: few bits are set.
  furthest = jnp.max(jnp.where(index < length, given, 0))
  for step in reversed(_powers(P)):

    @pl.when(furthest >= step)
    def _(step=step):
      here, left = shift[...], pltpu.roll(shift[...], step, 1)
      arrives = left & step != 0
      leaves = here & step != 0
      shift[...] = jnp.where(arrives, left, jnp.where(leaves, 0, here))
      token[...] = jnp.where(
        arrives, pltpu.roll(token[...], step, 1), token[...]
      )

  fill = jnp.where(index < new_length, mask, pad)
  new_tokens_ref[...] = jnp.where(shift[...] != 0, token[...], fill)


def _powers(limit: int) -> list[int]:
  """Powers of two below `limit`, ascending."""
  return [1 << i for i in range((limit - 1).bit_length())]
