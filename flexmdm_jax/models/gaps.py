"""From the outputs of a gap head to the logs of expected numbers."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from flexmdm_jax.errors import InputError

GAP_HEADS = ("log_rate", "softplus", "distribution", None)
# exp(15) is more tokens than any gap misses; the clamp keeps an untrained or
# diverging head from overflowing the loss.
_MAX_LOG_RATE = 15.0


def require_known(gap_head: str | None) -> None:
  """Raises an InputError if it is no head's name."""
  if gap_head not in GAP_HEADS:
    raise InputError(f"gap_head={gap_head!r} must be in {GAP_HEADS}.")


def out_size(gap_head: str, max_length: int) -> int:
  """How many numbers the head gives for each gap."""
  return max_length + 1 if gap_head == "distribution" else 1


def first_bias(gap_head: str) -> float:
  """Of a new head: a log rate starts near exp(-1) tokens a gap."""
  return -1.0 if gap_head == "log_rate" else 0.0


def expected(
  gap_head: str, out: Float[Array, "*b C"], scale: float | int
) -> tuple[Float[Array, "*b"], Float[Array, "*b C"] | None]:
  """A `Prediction`'s `log_gaps` and `gap_logits`.

  Args:
    gap_head: the head's kind.
    out: what it gave.
    scale: what a softplus is multiplied with.
  """
  if gap_head == "distribution":
    return log_mean(out), out
  if gap_head == "softplus":
    return jnp.log(nn.softplus(out[..., 0])) + jnp.log(scale), None
  return jnp.clip(out[..., 0], -_MAX_LOG_RATE, _MAX_LOG_RATE), None


def log_mean(gap_logits: Float[Array, "*b C"]) -> Float[Array, "*b"]:
  """Log of the mean of the law over 0, 1, ..., C-1."""
  log_p = jax.nn.log_softmax(gap_logits, axis=-1)
  counts = jnp.arange(1, gap_logits.shape[-1], dtype=jnp.float32)
  return jax.nn.logsumexp(log_p[..., 1:] + jnp.log(counts), axis=-1)
