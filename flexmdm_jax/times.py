"""Times on [0, 1] at which the integrand of the bound is evaluated.

The hazards grow like 1 / (1 - t), so an estimate from uniform times has few,
huge terms: with linear schedules its variance is infinite. Times drawn more
densely near 1, `t = 1 - (1 - u)^exponent`, and weighted by `dt/du` have the
same mean; at exponent 2 the variance is finite.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

EXPONENT = 2.0


class Times(NamedTuple):
  """Times `t` in [0, 1) and weights such that `mean(weight * f(t))` estimates
  the integral of f over [0, 1] without bias."""

  t: Float[Array, "*b"]
  weight: Float[Array, "*b"]


def importance_times(
  u: Float[Array, "*b"],
  exponent: float = EXPONENT,
  breaks: tuple[float, ...] = (),
) -> Times:
  """Maps uniform quantiles to times, with their weights.

  Args:
    u: quantiles in [0, 1).
    exponent: density of the times near 1; 1 leaves them uniform.
    breaks: times inside (0, 1), ascending, at which a schedule ends; each piece
      between two has as many times, denser towards its own end.
  """
  ends = jnp.array([0.0, *breaks, 1.0], jnp.float32)
  pieces = len(breaks) + 1
  piece = jnp.floor(u * pieces).astype(jnp.int32)
  begin, length = ends[piece], (ends[piece + 1] - ends[piece])
  within = u * pieces - piece.astype(jnp.float32)
  # Rounding must not let a time reach 1, where nothing is left to predict.
  rest = jnp.maximum(1.0 - within, 2.0 ** (-24 / max(exponent, 1.0)))
  return Times(
    t=begin + length * (1.0 - rest**exponent),
    weight=pieces * length * exponent * rest ** (exponent - 1.0),
  )


def stratified_times(
  key: Key[Array, ""], num: int, exponent: float = EXPONENT
) -> Times:
  """Draws one time in each of `num` strata of equal probability, in order.

  Args:
    key: a PRNG key.
    num: number of times.
    exponent: density of the times near 1; 1 leaves them uniform.

  Returns:
    `Times` of shape [num].
  """
  strata = jnp.arange(num, dtype=jnp.float32)
  u = (strata + jax.random.uniform(key, (num,))) / num
  return importance_times(u, exponent)
