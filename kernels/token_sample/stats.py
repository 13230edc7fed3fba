"""What a scan of some of the vocabulary knows of each row, and its merging."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

# Stands for -inf in logits: finite, so that differences of two never make a
# NaN, and so low that no logit and no noise moves it.
LOW = -1e30
_NO_SCORE = -3e38
_NO_TOKEN = 2**31 - 1


class Stats(NamedTuple):
  """Of the ids scanned, those above the floor for the last six.

  Attributes:
    top: f32[N], the largest logit; LOW if all are banned.
    second: f32[N], the second largest.
    total: f32[N], sum of exp(logit - top).
    deviation: f32[N], sum of (logit - top) exp(logit - top).
    score: f32[N], the largest logit + temperature * noise.
    token: i32[N], its id.
    logit: f32[N], its logit.
    tempered: f32[N], sum of exp((logit - top) / temperature) of all ids; zero
      where the scan had no floor.
    above: f32[N], the same sum of the ids above the floor.
  """

  top: jax.Array
  second: jax.Array
  total: jax.Array
  deviation: jax.Array
  score: jax.Array
  token: jax.Array
  logit: jax.Array
  tempered: jax.Array
  above: jax.Array


# Of no ids; neutral in `merge`.
START = Stats(
  top=LOW,
  second=LOW,
  total=0.0,
  deviation=0.0,
  score=_NO_SCORE,
  token=_NO_TOKEN,
  logit=LOW,
  tempered=0.0,
  above=0.0,
)


def empty(rows):
  """Stats of no ids, for the given number of rows."""
  return Stats(
    *(
      jnp.full(rows, x, jnp.int32 if name == "token" else jnp.float32)
      for name, x in zip(Stats._fields, START, strict=True)
    )
  )


def inverse(temperature):
  """1 / temperature, finite; 0 for temperature 0, where nothing uses it."""
  return min(1 / temperature, 1e38) if temperature else 0.0


def merge(parts, temperature, axis=0):
  """Stats of disjoint sets of ids, which lie along an axis, as one."""
  top = jnp.max(parts.top, axis, keepdims=True)
  drop = parts.top - top
  weight = jnp.exp(drop)
  tempered_weight = jnp.exp(drop * inverse(temperature))
  index = jax.lax.broadcasted_iota(
    jnp.int32, parts.top.shape, axis % parts.top.ndim
  )
  first = jnp.argmax(parts.top, axis, keepdims=True)
  score = jnp.max(parts.score, axis, keepdims=True)
  best = parts.score == score
  token = jnp.min(jnp.where(best, parts.token, _NO_TOKEN), axis, keepdims=True)
  won = best & (parts.token == token)
  return Stats(
    top=jnp.squeeze(top, axis),
    second=jnp.max(jnp.where(index == first, parts.second, parts.top), axis),
    total=jnp.sum(weight * parts.total, axis),
    deviation=jnp.sum(weight * (parts.deviation + drop * parts.total), axis),
    score=jnp.squeeze(score, axis),
    token=jnp.squeeze(token, axis),
    logit=jnp.max(jnp.where(won, parts.logit, LOW), axis),
    tempered=jnp.sum(tempered_weight * parts.tempered, axis),
    above=jnp.sum(tempered_weight * parts.above, axis),
  )


def of_tile(logits, noise, ids, floor, temperature):
  """Stats of a tile of logits.

  Args:
    logits: f32[R, W], LOW where banned.
    noise: f32[R, W] Gumbel noise, or None at temperature 0.
    ids: i32[W].
    floor: f32[R] or None; ids whose logit is not above it are not drawn.
    temperature: a Python number.
  """
  top = jnp.max(logits, axis=-1)
  at_top = logits == top[:, None]
  below = jnp.max(jnp.where(at_top, LOW, logits), axis=-1)
  drop = logits - top[:, None]
  weight = jnp.exp(drop)
  score = logits if noise is None else logits + temperature * noise
  tempered = above = jnp.zeros_like(top)
  if floor is not None:
    allowed = logits > floor[:, None]
    score = jnp.where(allowed, score, _NO_SCORE)
    mass = jnp.exp(drop * inverse(temperature))
    tempered = jnp.sum(mass, axis=-1)
    above = jnp.sum(jnp.where(allowed, mass, 0), axis=-1)
  best = jnp.max(score, axis=-1)
  token = jnp.min(jnp.where(score == best[:, None], ids, _NO_TOKEN), axis=-1)
  return Stats(
    top=top,
    second=jnp.where(jnp.sum(at_top, axis=-1) > 1, top, below),
    total=jnp.sum(weight, axis=-1),
    deviation=jnp.sum(drop * weight, axis=-1),
    score=best,
    token=token,
    logit=jnp.max(jnp.where(ids == token[:, None], logits, LOW), axis=-1),
    tempered=tempered,
    above=above,
  )
