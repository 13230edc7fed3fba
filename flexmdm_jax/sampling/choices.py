"""The random choices of one sampling step, for one sequence.

Which masks to reveal, with which tokens, and how many masks to insert in each
gap. Positions draw from bits of their own, so that what lies beyond a
sequence's length never changes its sample.

Source: arXiv 2509.01025, "sampling" and "any-order adaptive inference".
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from flexmdm_jax import gap_laws
from flexmdm_jax.kernels.token_sample import TokenSamples, noise, ref


def draw_tokens(
  keys: Key[Array, "*b"],
  logits: Float[Array, "*b V"],
  temperature: float | int,
  top_p: float | int,
) -> TokenSamples:
  """Draws tokens as `token_sample` does, from logits that are there already.

  Args:
    keys: one for each token.
    logits: log-posterior of each token, -inf where it is forbidden.
    temperature: divides the logits; 0 takes the most probable token.
    top_p: keeps the tokens whose more probable ones have less than this
      probability together.

  Returns:
    The tokens and what `confidence` needs; [*b] each.
  """
  words = noise.row_words(keys.ravel(), keys.size)
  drawn = jax.vmap(ref.from_logits, (0, 0, None, None))(
    logits.reshape(keys.size, -1), words, temperature, top_p
  )
  return TokenSamples(*(x.reshape(keys.shape) for x in drawn))


def confidence(kind: str, drawn: TokenSamples) -> Float[Array, "*b L"]:
  """How sure the denoiser is of each position's token; higher is surer.

  It is a property of the posterior itself: neither the temperature nor the
  hazard takes part.

  Args:
    kind: "top_prob", the largest probability; "margin", the largest less the
      second largest; "entropy", the negative entropy; "position", leftmost
      first.
    drawn: the posteriors' numbers.
  """
  if kind == "position":
    index = jnp.arange(drawn.token.shape[-1], dtype=jnp.float32)
    return jnp.broadcast_to(-index, drawn.token.shape)
  return {
    "top_prob": drawn.top_prob,
    "margin": drawn.margin,
    "entropy": -drawn.entropy,
  }[kind]


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


def bernoulli_insertions(
  key: Key[Array, ""], probability: Float[Array, " G"]
) -> Int[Array, " G"]:
  """One mask or none in each gap; for Euler steps."""
  coin = jax.random.uniform(key, probability.shape)
  return (coin < probability).astype(jnp.int32)


def poisson_insertions(
  key: Key[Array, ""], expected: Float[Array, " G"]
) -> Int[Array, " G"]:
  """Numbers of masks to insert, Poisson with the given means.

  For a denoiser that gives means only; a law is thinned, see `GapLaw.thin`.
  """
  return gap_laws.poisson(key, expected)
