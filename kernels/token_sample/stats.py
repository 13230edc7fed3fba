"""Statistics of each row over some of the vocabulary, and their merging."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float32, Int32

# Stands for -inf in logits: finite, so that differences of two never make a
# NaN, and so low that no logit and no noise moves it.
LOW = -1e30
_NO_SCORE = -3e38
_NO_TOKEN = 2**31 - 1


class Stats(NamedTuple):
  """Statistics of rows over the ids that were scanned.

  Attributes:
    top: largest logit; LOW if all are banned.
    second: second largest logit.
    total: sum of exp(logit - top).
    deviation: sum of (logit - top) exp(logit - top).
    score: largest logit + temperature * noise, of the ids above the floor if
      there is one.
    token: id that has this score.
    logit: logit of this id.
    tempered: sum of exp((logit - top) / temperature) of all ids; zero where
      the scan had no floor.
    above: sum of the same numbers of the ids above the floor.
  """

  top: Float32[Array, "*n"]
  second: Float32[Array, "*n"]
  total: Float32[Array, "*n"]
  deviation: Float32[Array, "*n"]
  score: Float32[Array, "*n"]
  token: Int32[Array, "*n"]
  logit: Float32[Array, "*n"]
  tempered: Float32[Array, "*n"]
  above: Float32[Array, "*n"]


# Stats of no ids; neutral in `merge`.
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


def empty(rows: int) -> Stats:
  """Makes the stats of no ids, for a number of rows."""
  return Stats(
    *(
      jnp.full(rows, x, jnp.int32 if name == "token" else jnp.float32)
      for name, x in zip(Stats._fields, START, strict=True)
    )
  )


def inverse(temperature: float | int) -> float:
  """Returns 1 / temperature, finite; 0 for 0, where nothing uses it."""
  return min(1 / temperature, 1e38) if temperature else 0.0


def merge(parts: Stats, temperature: float | int, axis: int = 0) -> Stats:
  """Merges the stats of disjoint sets of ids, which lie along an axis."""
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


def of_tile(
  logits: Float32[Array, "R W"],
  noise: Float32[Array, "R W"] | None,
  ids: Int32[Array, " W"],
  floor: Float32[Array, " R"] | None,
  temperature: float | int,
) -> Stats:
  """Computes the stats of a tile of logits.

  Args:
    logits: logits of the rows, LOW where banned.
    noise: Gumbel noise, or None at temperature 0.
    ids: ids of the columns.
    floor: ids whose logit is not above it are not drawn; None for no bound.
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
