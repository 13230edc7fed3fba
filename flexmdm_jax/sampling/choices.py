"""The random choices of one sampling step, for one sequence.

Which masks to reveal, with which tokens, and how many masks to insert in each
gap. Positions draw from bits of their own, so that what lies beyond a
sequence's length never changes its sample.

Source: arXiv 2509.01025, "sampling" and "any-order adaptive inference".
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key


def draw_tokens(
  key: Key[Array, ""],
  logits: Float[Array, "L V"],
  temperature: float | int,
  top_p: float | int,
) -> Int[Array, " L"]:
  """Draws a token at each position.

  Args:
    key: a PRNG key.
    logits: log-posterior of each token, -inf where it is forbidden.
    temperature: divides the logits; 0 takes the most probable token.
    top_p: keep the fewest, most probable tokens that reach this probability.
  """
  if temperature == 0:
    return jnp.argmax(logits, axis=-1).astype(jnp.int32)
  logits = nucleus(logits / temperature, top_p)
  noise = jax.random.gumbel(key, logits.shape)
  return jnp.argmax(logits + noise, axis=-1).astype(jnp.int32)


def nucleus(
  logits: Float[Array, "*b V"], top_p: float | int
) -> Float[Array, "*b V"]:
  """Logits with all but the nucleus of probability `top_p` at -inf.

  A token stays if the tokens that are more probable do not reach `top_p`
  without it; so the first always stays.
  """
  if top_p >= 1:
    return logits
  descending = -jnp.sort(-logits, axis=-1)
  probability = jax.nn.softmax(descending, axis=-1)
  before = jnp.cumsum(probability, axis=-1) - probability
  # The smallest logit whose predecessors fall short of top_p.
  threshold = jnp.min(
    jnp.where(before < top_p, descending, jnp.inf), axis=-1, keepdims=True
  )
  return jnp.where(logits >= threshold, logits, -jnp.inf)


def confidence(kind: str, logits: Float[Array, "L V"]) -> Float[Array, " L"]:
  """How sure the denoiser is of each position's token; higher is surer.

  It is a property of the posterior itself: neither the temperature nor the
  hazard takes part.

  Args:
    kind: "top_prob", the largest probability; "margin", the largest less the
      second largest; "entropy", the negative entropy; "position", leftmost
      first.
    logits: log-posterior of each token, -inf where it is forbidden.
  """
  if kind == "position":
    return -jnp.arange(logits.shape[0], dtype=jnp.float32)
  if kind == "entropy":
    log_p = jax.nn.log_softmax(logits, axis=-1)
    terms = jnp.where(jnp.isneginf(log_p), 0.0, jnp.exp(log_p) * log_p)
    return jnp.sum(terms, axis=-1)
  top, _ = jax.lax.top_k(jax.nn.softmax(logits, axis=-1), 2)
  return top[:, 0] if kind == "top_prob" else top[:, 0] - top[:, 1]


def most_confident(
  masked: Bool[Array, " L"],
  confidence: Float[Array, " L"],
  count: Int[Array, ""],
  window: Int[Array, ""],
) -> Bool[Array, " L"]:
  """The `count` most confident of the leftmost `window` masks.

  Fewer are chosen when there are fewer: what is no mask is never chosen. Ties
  go to the left.
  """
  eligible = masked & (jnp.cumsum(masked) <= window)
  order = jnp.argsort(jnp.where(eligible, -confidence, jnp.inf), stable=True)
  rank = jnp.zeros_like(order).at[order].set(jnp.arange(order.size))
  return eligible & (rank < count)


def poisson_insertions(
  key: Key[Array, ""], expected: Float[Array, " G"]
) -> Int[Array, " G"]:
  """Numbers of masks to insert, Poisson with the given means."""
  # Beyond this no row has room; it keeps the draw in the range of int32.
  return jax.random.poisson(key, jnp.minimum(expected, 1e6), dtype=jnp.int32)


def thinned_insertions(
  key: Key[Array, ""],
  gap_logits: Float[Array, "G C"],
  probability: Float[Array, ""],
) -> Int[Array, " G"]:
  """Numbers of masks to insert when the law of the missing tokens is known.

  Each missing token is inserted by the end of the step with the same
  probability, independently: the number is a count drawn from the law, thinned
  binomially. Unlike a Poisson number it can never exceed what is missing.

  Args:
    key: a PRNG key.
    gap_logits: log-law of the number of missing tokens (0, ..., C-1).
    probability: chance that a missing token is inserted in this step.
  """
  count_key, thin_key = jax.random.split(key)
  noise = jax.random.gumbel(count_key, gap_logits.shape)
  count = jnp.argmax(gap_logits + noise, axis=-1)
  kept = jax.random.uniform(thin_key, gap_logits.shape) < probability
  candidate = jnp.arange(gap_logits.shape[-1]) < count[:, None]
  return jnp.sum(kept & candidate, axis=-1, dtype=jnp.int32)
