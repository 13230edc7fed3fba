"""`scan_vocab` in plain jax.numpy, by tiles; its cost follows `num_rows`."""

import jax
import jax.numpy as jnp

from flexmdm_jax.kernels.token_sample import noise, stats
from flexmdm_jax.kernels.token_sample.config import XlaConfig


def scan_vocab(
  hidden,
  unembed,
  num_rows,
  words,
  draw,
  bias,
  floor,
  offset,
  *,
  temperature,
  aligned,
  config=None,
  interpret=False,
):
  """Stats of the first `num_rows` rows over the columns of `unembed`.

  Args:
    hidden: bf16|f32[N, D].
    unembed: bf16|f32[D, V].
    num_rows: i32[], at most N; later rows are skipped and undefined.
    words: uint32[N, 2], the rows' keys.
    draw: uint32[], number of the pass.
    bias: f32[V], added to the logits; LOW bans an id.
    floor: f32[N] or None; draws among the logits above it.
    offset: i32[], id of the first column.
    temperature: a Python number; 0 draws the largest logit.
    aligned: whether `offset` is known to be a multiple of 256.
    config: an `XlaConfig`.
    interpret: only Mosaic kernels have an interpreter.

  Returns:
    `Stats`.
  """
  del interpret
  config = config or XlaConfig()
  N, V = hidden.shape[0], unembed.shape[1]
  R, W = min(config.tile_rows, N), config.tile_vocab
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
