"""Gumbel noise of the kernels: a function of key, pass and id alone.

Threefry-2x32 with 20 rounds (Salmon et al., "Parallel random numbers: as easy
as 1, 2, 3", 2011). Everything here also traces inside a Pallas kernel.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float32, Int32, Key, UInt32

# One hash serves two ids that lie `LANES` apart in a block of `BLOCK` ids.
LANES = 128
BLOCK = 2 * LANES

_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_PARITY = 0x1BD11BDA


def threefry(
  key0: UInt32[Array, "*#b"],
  key1: UInt32[Array, "*#b"],
  count0: UInt32[Array, "*#b"],
  count1: UInt32[Array, "*#b"],
) -> tuple[UInt32[Array, "*#b"], UInt32[Array, "*#b"]]:
  """Hashes a counter with a key, and returns both words."""
  parity = key0 ^ key1 ^ jnp.uint32(_PARITY)
  schedule = (key0, key1, parity)
  x, y = count0 + key0, count1 + key1
  for group in range(5):
    for rotation in _ROTATIONS[group % 2]:
      x = x + y
      y = (y << jnp.uint32(rotation)) | (y >> jnp.uint32(32 - rotation))
      y = x ^ y
    x = x + schedule[(group + 1) % 3]
    y = y + schedule[(group + 2) % 3] + jnp.uint32(group + 1)
  return x, y


def gumbel(bits: UInt32[Array, "*b"]) -> Float32[Array, "*b"]:
  """Turns bits into standard Gumbel noise; `api.token_sample` defines it."""
  half = (bits >> jnp.uint32(1)).astype(jnp.int32)
  tail = (half.astype(jnp.float32) + 0.5) * 2.0**-31
  # The largest float below 1, which `tail` may round to.
  tail = jnp.minimum(tail, 1 - 2.0**-24)
  series = tail * (1 + tail * (1 / 2 + tail * (1 / 3 + tail * (1 / 4))))
  exponential = jnp.where(tail < 2.0**-6, series, -jnp.log(1 - tail))
  return -jnp.log(exponential)


def gumbel_block(
  words: UInt32[Array, "R 2"],
  draw: UInt32[Array, ""],
  start: Int32[Array, ""],
  width: int,
) -> Float32[Array, "R W"]:
  """Computes the noise of `width` consecutive ids.

  Args:
    words: keys of the rows.
    draw: number of the pass.
    start: first id, a multiple of `BLOCK`.
    width: number of ids, a Python integer.
  """
  key0, key1 = words[:, :1, None], words[:, 1:, None]
  blocks = -(-width // BLOCK)
  lanes = min(width, LANES)
  count = (
    (start // 2).astype(jnp.uint32)
    + jnp.uint32(LANES) * jnp.arange(blocks, dtype=jnp.uint32)[:, None]
    + jnp.arange(lanes, dtype=jnp.uint32)
  )
  first, second = threefry(key0, key1, count, draw)
  bits = first if width <= LANES else jnp.concatenate([first, second], -1)
  return gumbel(bits.reshape(words.shape[0], -1)[:, :width])


def gumbel_at(
  key0: UInt32[Array, "*#b"],
  key1: UInt32[Array, "*#b"],
  draw: UInt32[Array, ""],
  ids: Int32[Array, "*#b"],
) -> Float32[Array, "*#b"]:
  """Computes the noise of any ids, with a hash for each."""
  # Shifts and masks: ids are not negative, which a division does not know.
  count = ((ids >> 8 << 7) | (ids & 127)).astype(jnp.uint32)
  first, second = threefry(key0, key1, count, draw)
  return gumbel(jnp.where(ids & LANES == 0, first, second))


def row_words(key: Key[Array, "*n"], num_rows: int) -> UInt32[Array, "N 2"]:
  """Makes each row's key data from one key, or from a key a row."""
  if key.ndim == 0:
    rows = jnp.arange(num_rows, dtype=jnp.uint32)
    key = jax.vmap(jax.random.fold_in, (None, 0))(key, rows)
  words = jax.random.key_data(key)
  # Other generators have longer keys: hash them together, pair by pair.
  while words.shape[-1] > 2:
    first, second = threefry(words[:, 0], words[:, 1], words[:, 2], words[:, 3])
    words = jnp.concatenate(
      [first[:, None], second[:, None], words[:, 4:]], axis=-1
    )
  return words
