"""`token_sample` from all logits at once: the meaning of the operation.

Shares no code with the other implementations: the hash is JAX's, the nucleus
is found by sorting.
"""

import jax
import jax.numpy as jnp
from jax.extend import random as jex_random


def token_sample(
  hidden,
  unembed,
  num_rows,
  words,
  *,
  temperature,
  banned,
  bias,
  top_p,
  axis_name,
):
  """The five arrays of `api.TokenSamples`, of every row.

  Args:
    hidden: bf16|f32[N, D].
    unembed: bf16|f32[D, V].
    num_rows: ignored.
    words: uint32[N, 2], the rows' Threefry keys.
    temperature: a Python number.
    banned: i32[K].
    bias: f32[V].
    top_p: a Python number.
    axis_name: of the mesh axis over which columns are sharded, or None.
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


def _all_columns(logits, axis_name):
  # A sum of zeros and one shard's columns: unlike a gather, `shard_map` knows
  # its result to be the same on all.
  shards = jax.lax.axis_size(axis_name)
  N, V = logits.shape
  mine = jnp.arange(shards) == jax.lax.axis_index(axis_name)
  spread = jnp.where(mine[None, :, None], logits[:, None], 0)
  return jax.lax.psum(spread, axis_name).reshape(N, shards * V)


def _gumbel(word, draw, V):
  """Noise f32[V]; `api.token_sample` defines it."""
  ids = jnp.arange(V, dtype=jnp.uint32)
  counters = jnp.stack([ids // 256 * 128 + ids % 128, jnp.full_like(ids, draw)])
  both = jex_random.threefry_2x32((word[0], word[1]), counters)
  bits = both[ids // 128 % 2, jnp.arange(V)]
  v = ((bits // 2).astype(jnp.float32) + 0.5) / 2.0**31
  v = jnp.where(v == 1, 1 - 2**-24, v)
  small = v + v**2 / 2 + v**3 / 3 + v**4 / 4
  return -jnp.log(jnp.where(v < 1 / 64, small, -jnp.log(1 - v)))


def from_logits(logits, word, temperature, top_p):
  """The same of one row, from its logits f32[V] and its key uint32[2]."""
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
