"""Kernel of `insert_unmask` for Hopper GPUs: each block moves a row.

A row moves inside shared memory.

Mosaic GPU has neither prefix sums nor gathers, so both are made of shifted
reads of shared memory. The sums take one pass for each power of two. Tokens
move by the bits of their shifts, the largest first: they keep their order, so
what is left of the shifts, rounded down, never makes two of them meet.

Passes work in place, from the right end to the left: a cell is read by cells to
its right only, which have been written by then.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu
from jaxtyping import Array, Bool, Int32

from flexmdm_jax.kernels.common import target
from flexmdm_jax.kernels.common.mosaic_gpu import (
  gpu_interpreter,
  gpu_load,
  gpu_params,
)
from flexmdm_jax.kernels.insert_unmask.config import GPU_TABLE, GpuConfig

MAX_LENGTH = 8192
_THREADS = 128  # of a warpgroup
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
  config: GpuConfig | None = None,
  interpret: bool = False,
) -> tuple[Int32[Array, "B L"], Int32[Array, " B"], Bool[Array, " B"]]:
  """Runs the GPU kernel; see `api.insert_unmask`.

  Raises:
    NotImplementedError: an array is empty, rows are longer than 8192, or this
      JAX cannot interpret the kernel.
  """
  B, L = tokens.shape
  if not B * L or L > MAX_LENGTH:
    raise NotImplementedError(f"The GPU kernel has no shape {tokens.shape}.")
  config = config or GPU_TABLE.get(target().kind, GpuConfig())
  if interpret:
    interpret = gpu_interpreter()

  # Every thread of a warpgroup loads a position: short rows are widened.
  width = max(L, _THREADS)
  if width > L:
    wider = ((0, 0), (0, width - L))
    tokens, revealed, insertions = (
      jnp.pad(x, wider) for x in (tokens, revealed, insertions)
    )
  chunk = config.chunk
  while chunk > width:
    chunk //= 2
  cells = pl.cdiv(width, chunk) * chunk
  # Under `shard_map` the results vary as the tokens do.
  out = functools.partial(
    jax.ShapeDtypeStruct,
    dtype=jnp.int32,
    manual_axis_type=jax.typeof(tokens).manual_axis_type,
  )
  new_tokens, new_length, truncated = plgpu.kernel(
    functools.partial(
      _kernel, L=L, width=width, chunk=chunk, mask=mask, pad=pad
    ),
    out_type=(out((B, width)), out((B,)), out((B,))),
    # A chunk of zeros comes before the row, to be shifted in from there.
    scratch_types=[plgpu.SMEM((chunk + cells,), jnp.int32)] * 2,
    grid=(B,),
    grid_names=("row",),
    compiler_params=gpu_params(),
    interpret=interpret,
  )(length, tokens, revealed, insertions)
  return new_tokens[:, :L], new_length, truncated != 0


def _kernel(
  length_ref,
  tokens_ref,
  revealed_ref,
  insertions_ref,
  new_tokens_ref,
  new_length_ref,
  truncated_ref,
  shift,
  token,
  *,
  L,
  width,
  chunk,
  mask,
  pad,
):
  """Moves one row; a block runs it."""
  row = lax.axis_index("row")
  length = length_ref[row]
  room = L - length
  num_chunks = pl.cdiv(width, chunk)
  # A thread a position: shifted chunks are aligned to nothing more.
  layout = plgpu.Layout.WG_STRIDED((chunk,), vec_size=1)
  lane = plgpu.layout_cast(lax.broadcasted_iota(jnp.int32, (chunk,), 0), layout)
  zeros = plgpu.layout_cast(jnp.zeros((chunk,), jnp.int32), layout)

  def load(ref, start):
    """Loads cells of a scratch, whose row starts after a chunk of zeros."""
    return gpu_load(ref.at[pl.ds(chunk + start, chunk)], layout=layout)

  def load_row(ref, start):
    """Loads positions of the row of an input."""
    return gpu_load(
      ref.at[row, pl.ds(start, chunk)], layout=layout, optimized=False
    )

  def each_chunk(body):
    """Calls body(start) for each chunk, from the right."""

    @pl.loop(0, num_chunks)
    def _(i):
      body((num_chunks - 1 - i) * chunk)

  def each_chunk_inside(body):
    """Calls body(start) for each chunk; the last one ends with the row."""
    each_chunk(lambda start: body(jnp.minimum(start, width - chunk)))

  def before(ref, start, step):
    """Loads cells `step` to the left; it divides a chunk, or is some."""
    return load(ref, jnp.maximum(start - step, -chunk))

  shift[pl.ds(0, chunk)] = zeros

  @each_chunk_inside
  def _(start):
    wanted = load_row(insertions_ref, start)
    # So clipped, which is still too much for any row, the sum fits an int32.
    wanted = jnp.minimum(jnp.maximum(wanted, 0), L + 1)
    wanted = jnp.where(start + lane <= length, wanted, 0)
    shift[pl.ds(chunk + start, chunk)] = wanted

  for step in _powers(width):

    @pl.when(step <= length)
    def _(step=step):
      @each_chunk
      def _(start):
        wanted = load(shift, start) + before(shift, start, step)
        shift[pl.ds(chunk + start, chunk)] = wanted

  last_gap = jnp.minimum(jnp.maximum(insertions_ref[row, width], 0), L + 1)
  total = shift[chunk + jnp.minimum(length, width - 1)]
  total += jnp.where(length == width, last_gap, 0)
  given = jnp.minimum(total, room)
  new_length_ref[row] = length + given
  truncated_ref[row] = jnp.where(total > room, 1, 0)

  @each_chunk
  def _(start):
    wanted = load(shift, start)
    cell = jnp.minimum(wanted, room) | _PRESENT
    shift[pl.ds(chunk + start, chunk)] = jnp.where(
      start + lane < length, cell, 0
    )

  @each_chunk_inside
  def _(start):
    kept = load_row(revealed_ref, start)
    kept = jnp.where(kept >= 0, kept, load_row(tokens_ref, start))
    token[pl.ds(chunk + start, chunk)] = kept

  for step in reversed(_powers(width)):
    # No token moves further than `given`, which is small in most steps.
    @pl.when(step <= given)
    def _(step=step):
      @each_chunk
      def _(start):
        here, left = load(shift, start), before(shift, start, step)
        kept, moved = load(token, start), before(token, start, step)
        arrives = (left & step) != 0
        leaves = (here & step) != 0
        token[pl.ds(chunk + start, chunk)] = jnp.where(arrives, moved, kept)
        shift[pl.ds(chunk + start, chunk)] = jnp.where(
          arrives, left, jnp.where(leaves, 0, here)
        )

  @each_chunk_inside
  def _(start):
    fill = jnp.where(start + lane < length + given, mask, pad)
    new_tokens_ref[row, pl.ds(start, chunk)] = jnp.where(
      load(shift, start) != 0, load(token, start), fill
    )


def _powers(limit: int) -> list[int]:
  """Powers of two below `limit`, ascending."""
  return [1 << i for i in range((limit - 1).bit_length())]
