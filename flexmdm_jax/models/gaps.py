"""Gap heads: from their outputs to expected numbers of tokens and laws."""

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from flexmdm_jax import gap_laws
from flexmdm_jax.gap_laws import GapLaw

# Heads that predict the law of each gap, not its mean alone.
LAW_HEADS = ("distribution", "binned", "negative_binomial")
GAP_HEADS = ("log_rate", "softplus", *LAW_HEADS)
# exp(15) is more tokens than any gap misses; the clamp keeps an untrained or
# diverging head from overflowing the loss.
_MAX_LOG_RATE = 15.0
# Shapes from 0.007, nearly all gaps empty and few very long, to 3,000, Poisson.
_LOG_SHAPES = (-5.0, 8.0)


def out_size(gap_head: str, max_length: int) -> int:
  """Number of outputs that a head has for each gap."""
  if gap_head == "distribution":
    return max_length + 1
  if gap_head == "binned":
    return len(gap_laws.bin_edges(max_length)) - 1
  return 2 if gap_head == "negative_binomial" else 1


def first_bias(gap_head: str, max_length: int) -> float | tuple[float, ...]:
  """First bias of a new head: one number for all outputs, or one for each.

  A log rate, a negative binomial and a binned law start near exp(-1) tokens a
  gap, whatever max_length; the other two start at a share of max_length.
  """
  if gap_head == "log_rate":
    return -1.0
  if gap_head == "negative_binomial":
    return (-1.0, 0.0)
  if gap_head == "binned":
    # The law (1 + n)^-3 has a mean of exp(-0.9986).
    edges = gap_laws.bin_edges(max_length)
    weight = (1.0 + np.arange(edges[-1])) ** -3
    return tuple(np.log(np.add.reduceat(weight, edges[:-1])).tolist())
  return 0.0


def none(rows: int, gaps: int) -> tuple[Float[Array, "B G"], None, None]:
  """Prediction for gaps without a head: none misses a token."""
  return jnp.full((rows, gaps), -jnp.inf), None, None


def predict(
  gap_head: str,
  out: Float[Array, "*b C"],
  scale: float | int,
  max_length: int,
) -> tuple[Float[Array, "*b"], Float[Array, "*b C"] | None, GapLaw | None]:
  """Computes a `Prediction`'s `log_gaps`, `gap_logits` and `gap_law`.

  Args:
    gap_head: the head's kind.
    out: the head's outputs, `out_size` numbers for each gap.
    scale: factor of a softplus.
    max_length: the longest sequence, and so the largest count.
  """
  if gap_head == "distribution":
    return gap_laws.Categorical(out).log_mean(), out, None
  if gap_head == "softplus":
    return jnp.log(nn.softplus(out[..., 0])) + jnp.log(scale), None, None
  if gap_head == "binned":
    law = gap_laws.Binned(out, gap_laws.bin_edges(max_length))
    return law.log_mean(), None, law
  log_rate = jnp.clip(out[..., 0], -_MAX_LOG_RATE, _MAX_LOG_RATE)
  if gap_head == "negative_binomial":
    log_shape = jnp.clip(out[..., 1], *_LOG_SHAPES)
    law = gap_laws.NegativeBinomial(log_rate, log_shape)
    return law.log_mean(), None, law
  return log_rate, None, None
