"""Scan of the vocabulary in jax.numpy, by tiles; cost follows `num_rows`."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Float32, Int32, UInt32

from flexmdm_jax.kernels.token_sample import noise, stats
from flexmdm_jax.kernels.token_sample.config import XlaConfig


def scan_vocab(
  hidden: Float[Array, "N D"],
  unembed: Float[Array, "D V"],
  num_rows: Int32[Array, ""],
  words: UInt32[Array, "N 2"],
  draw: UInt32[Array, ""],
  bias: Float32[Array, " V"],
  floor: Float32[Array, " N"] | None,
  offset: Int32[Array, ""],
  *,
  temperature: float | int,
  aligned: bool,
  config: XlaConfig | None = None,
  interpret: Any = False,
) -> stats.Stats:
  """Computes the stats of the first `num_rows` rows over all columns.

  Args:
    hidden: hidden states, bfloat16 or float32.
    unembed: matrix of the vocabulary head, of the same type.
    num_rows: number of rows, at most N; later rows are skipped and undefined.
    words: keys of the rows.
    draw: number of the pass.
    bias: numbers to add to the logits; LOW bans an id.
    floor: logit of each row above which ids are drawn; None for no bound.
    offset: id of the first column.
    temperature: a Python number; 0 draws the largest logit.
    aligned: whether `offset` is known to be a multiple of 256.
    config: tile sizes; None for the defaults.
    interpret: ignored; only Mosaic kernels have an interpreter.
  """
  del interpret
  config = config or XlaConfig()
  N, V = hidden.shape[0], unembed.shape[1]
  R = min(max(N // 8, 8), config.tile_rows, N)  # see XlaConfig
  W = config.tile_vocab
  whole, rest = divmod(V, W)
  precision = jax.lax.Precision.HIGHEST if hidden.dtype == jnp.float32 else None

  def row_tile(tile, result):
    # The last tile overlaps the one before it and computes the same again.
    start = jnp.minimum(tile * R, N - R)

    def take(x):
      return jax.lax.dynamic_slice_in_dim(x, start, R)

    rows, row_words = take(hidden), take(words)
    row_floor = None if floor is None else take(floor)

    def vocab_tile(so_far, start, width):
      columns = jax.lax.dynamic_slice_in_dim(unembed, start, width, axis=1)
      offsets = jax.lax.dynamic_slice_in_dim(bias, start, width)
      logits = jnp.dot(
        rows,
        columns,
        precision=precision,
        preferred_element_type=jnp.float32,
      )
      logits = jnp.where(offsets > stats.LOW, logits + offsets, stats.LOW)
      first = offset + start
      ids = first + jnp.arange(width, dtype=jnp.int32)
      if temperature == 0:
        gumbel = None
      elif aligned:
        gumbel = noise.gumbel_block(row_words, draw, first, width)
      else:
        gumbel = noise.gumbel_at(row_words[:, :1], row_words[:, 1:], draw, ids)
      tile = stats.of_tile(logits, gumbel, ids, row_floor, temperature)
      both = jax.tree.map(lambda *x: jnp.stack(x), so_far, tile)
      return stats.merge(both, temperature)

    found = _varying(stats.empty(R), hidden, unembed, words, bias, offset)
    if whole:
      found = jax.lax.fori_loop(
        0, whole, lambda i, found: vocab_tile(found, i * W, W), found
      )
    if rest:
      found = vocab_tile(found, jnp.int32(whole * W), rest)
    return jax.tree.map(
      lambda x, y: jax.lax.dynamic_update_slice_in_dim(x, y, start, 0),
      result,
      found,
    )

  result = _varying(
    stats.empty(N), hidden, unembed, words, bias, offset, num_rows
  )
  return jax.lax.fori_loop(0, (num_rows + R - 1) // R, row_tile, result)


def _varying(tree, *like):
  """Marks constants as differing between devices wherever `like` does."""
  axes = set()
  for x in like:
    axes |= jax.typeof(x).manual_axis_type.varying
  if not axes:
    return tree
  return jax.lax.pcast(tree, tuple(axes), to="varying")
