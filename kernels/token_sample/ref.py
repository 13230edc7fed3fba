"""Reference of `token_sample` from all logits: the operation's meaning.

It shares no code with the other implementations: the hash is JAX's, the nucleus
is found by sorting.
"""

import jax
import jax.numpy as jnp
from jax.extend import random as jex_random
from jaxtyping import Array, Float, Float32, Int32, UInt32


def token_sample(
  hidden: Float[Array, "N D"],
  unembed: Float[Array, "D V"],
  num_rows: Int32[Array, ""],
  words: UInt32[Array, "N 2"],
  *,
  temperature: float | int,
  banned: Int32[Array, " K"],
  bias: Float32[Array, " V"],
  top_p: float | int,
  axis_name: str | None,
) -> tuple[
  Int32[Array, " N"],
  Float32[Array, " N"],
  Float32[Array, " N"],
  Float32[Array, " N"],
  Float32[Array, " N"],
]:
  """Computes the five arrays of `api.TokenSamples` for every row.

  Args:
    hidden: hidden states, bfloat16 or float32.
    unembed: matrix of the vocabulary head, of the same type.
    num_rows: ignored.
    words: Threefry keys of the rows.
    temperature: a Python number.
    banned: ids that are never drawn.
    bias: numbers to add to the logits.
    top_p: a Python number.
    axis_name: mesh axis over which columns are sharded, or None.
  """
  del num_rows
  logits = jax.lax.dot(
    hidden.astype(jnp.float32),
    unembed.astype(jnp.float32),
    precision=jax.lax.Precision.HIGHEST,
  )
  logits = logits + bias
  if axis_name is not None:
    logits = _all_columns(logits, axis_name)
  logits = logits.at[:, banned].set(-jnp.inf)
  return jax.vmap(
    lambda logits, word: from_logits(logits, word, temperature, top_p)
  )(logits, words)


def _all_columns(
  logits: Float32[Array, "N V"], axis_name: str
) -> Float32[Array, "N W"]:
  """Gathers the columns of all shards."""
  # A sum of zeros and one shard's columns: unlike a gather, `shard_map` knows
  # its result to be the same on all.
  shards = jax.lax.axis_size(axis_name)
  N, V = logits.shape
  mine = jnp.arange(shards) == jax.lax.axis_index(axis_name)
  spread = jnp.where(mine[None, :, None], logits[:, None], 0)
  return jax.lax.psum(spread, axis_name).reshape(N, shards * V)


def _gumbel(
  word: UInt32[Array, " 2"], draw: int | UInt32[Array, ""], V: int
) -> Float32[Array, " V"]:
  """Computes the noise of all ids; `api.token_sample` defines it."""
  ids = jnp.arange(V, dtype=jnp.uint32)
  counters = jnp.stack([ids // 256 * 128 + ids % 128, jnp.full_like(ids, draw)])
  both = jex_random.threefry_2x32((word[0], word[1]), counters)
  bits = both[ids // 128 % 2, jnp.arange(V)]
  v = ((bits // 2).astype(jnp.float32) + 0.5) / 2.0**31
  v = jnp.where(v == 1, 1 - 2**-24, v)
  small = v + v**2 / 2 + v**3 / 3 + v**4 / 4
  return -jnp.log(jnp.where(v < 1 / 64, small, -jnp.log(1 - v)))


def from_logits(
  logits: Float32[Array, " V"],
  word: UInt32[Array, " 2"],
  temperature: float | int,
  top_p: float | int,
) -> tuple[
  Int32[Array, ""],
  Float32[Array, ""],
  Float32[Array, ""],
  Float32[Array, ""],
  Float32[Array, ""],
]:
  """Computes the five numbers of `api.TokenSamples` for one row."""
  (V,) = logits.shape
  log_p = jax.nn.log_softmax(logits)
  p = jnp.exp(log_p)
  descending = jnp.sort(p)[::-1]
  second = descending[1] if V > 1 else 0.0

  def draw(number, allowed):
    noise = temperature * _gumbel(word, number, V) if temperature else 0.0
    return jnp.argmax(jnp.where(allowed, logits + noise, -jnp.inf))

  token = draw(0, logits > -jnp.inf)
  if temperature and top_p < 1:
    tempered = jax.nn.softmax(logits / temperature)
    order = jnp.argsort(-logits)
    before = jnp.cumsum(tempered[order]) - tempered[order]
    least = jnp.min(jnp.where(before < top_p, logits[order], jnp.inf))
    _, token = jax.lax.while_loop(
      # The most probable id is in the nucleus, unless there are NaNs.
      lambda state: (logits[state[1]] < least) & (least < jnp.inf),
      lambda state: (state[0] + 1, draw(state[0], logits > logits[state[1]])),
      (jnp.uint32(1), token),
    )
  return (
    token.astype(jnp.int32),
    log_p[token],
    descending[0],
    descending[0] - second,
    -jnp.sum(jnp.where(p > 0, p * log_p, 0.0)),
  )
