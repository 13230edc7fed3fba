"""The random draws of one sampling step: tokens, their order, insertions.

Positions and gaps draw from bits of their own, so that what lies beyond a
sequence's length never changes its sample.

Source: arXiv 2509.01025, "sampling" and "any-order adaptive inference".
"""

import functools

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Bool, Float, Int, Key

from flexmdm_jax.kernels.token_sample import (
  TokenSamples,
  noise,
  ref,
  token_sample,
)
from flexmdm_jax.prediction import Features
from flexmdm_jax.sampling.placement import on_axis

CONFIDENCES = ("margin", "top_prob", "entropy", "position")
# Orders that need no answer of the network, then those that do.
ORDERS = ("spread", "random", "position", "margin", "top_prob", "entropy")
_GOLDEN = 0.6180339887


def draw_tokens(
  keys: Key[Array, "*b"],
  logits: Float[Array, "*b V"],
  temperature: float | int,
  top_p: float | int,
) -> TokenSamples:
  """Draws tokens from their logits, with the bits that `token_sample` uses.

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


def draw_tokens_at(
  wanted: Bool[Array, "B C"],
  keys: Key[Array, "B C"],
  features: Features,
  temperature: float | int,
  top_p: float | int,
  mask: int,
  vocab_axis: str | None = None,
) -> TokenSamples:
  """Draws tokens at the wanted positions only, without writing logits.

  The positions are gathered, so that the vocabulary head's cost follows their
  number.

  Args:
    wanted: positions whose token is drawn.
    keys: one for each position.
    features: the prediction before the vocabulary head's product.
    temperature: see `draw_tokens`.
    top_p: see `draw_tokens`.
    mask: id that is never drawn.
    vocab_axis: mesh axis over which the vocabulary is split, or None.

  Returns:
    What `draw_tokens` does, [B, C] each; 0 where it is not wanted.
  """
  B, C = wanted.shape
  rows = jnp.nonzero(wanted.ravel(), size=B * C, fill_value=B * C)[0]
  hidden, unembed = features.hidden, features.unembed
  if features.adapter is not None:
    inner, matrix = features.adapter
    hidden = jnp.concatenate([hidden, inner.astype(hidden.dtype)], axis=-1)
    unembed = jnp.concatenate([unembed, matrix.astype(unembed.dtype)])
  draw = functools.partial(
    token_sample,
    temperature=temperature,
    top_p=top_p,
    banned=jnp.array([mask], jnp.int32),
    axis_name=vocab_axis,
  )
  bias = features.bias
  if bias is None:
    bias = jnp.zeros(unembed.shape[1], jnp.float32)
  columns = (P(), P(None, vocab_axis), P(), P(), P(vocab_axis))
  drawn = on_axis(
    vocab_axis, lambda *args: draw(*args[:4], bias=args[4]), columns, P()
  )(
    hidden.reshape(B * C, -1).at[rows].get(mode="clip"),
    unembed,
    jnp.sum(wanted, dtype=jnp.int32),
    keys.ravel().at[rows].get(mode="clip"),
    bias,
  )
  return jax.tree.map(
    lambda x: (
      jnp.zeros(B * C, x.dtype).at[rows].set(x, mode="drop").reshape(B, C)
    ),
    drawn,
  )


def confidence(kind: str, drawn: TokenSamples) -> Float[Array, "*b C"]:
  """Tells how sure the denoiser is of each position's token.

  It is a property of the posterior itself: neither the temperature nor the
  hazard takes part.

  Args:
    kind: "top_prob", the largest probability; "margin", the largest less the
      second largest; "entropy", the negative entropy; "position", leftmost
      first.
    drawn: the posteriors' numbers.

  Returns:
    Scores, of which the higher is surer.
  """
  if kind == "position":
    index = jnp.arange(drawn.token.shape[-1], dtype=jnp.float32)
    return jnp.broadcast_to(-index, drawn.token.shape)
  return {
    "top_prob": drawn.top_prob,
    "margin": drawn.margin,
    "entropy": -drawn.entropy,
  }[kind]


def order_before(
  order: str,
  key: Key[Array, ""],
  masked: Bool[Array, " C"],
  due: Float[Array, " C"],
) -> Float[Array, " C"] | None:
  """Scores masks by an order that needs no answer of the network.

  "spread" takes masks that lie evenly apart, and so know least of each other,
  at random otherwise: those whose `rank * golden ratio + U` has the smallest
  fractional parts, of which the first r are nearly even for every r.

  Args:
    order: one of `ORDERS`.
    key: one key.
    masked: the masks of one row.
    due: the times at which they are to be revealed.

  Returns:
    Scores, of which the higher goes first; None for an order by confidence.
  """
  if order == "spread":
    rank = jnp.cumsum(masked) - 1
    turn = rank.astype(jnp.float32) * _GOLDEN + jax.random.uniform(key)
    return jnp.floor(turn) - turn
  if order == "random":
    return -due
  if order == "position":
    return -jnp.arange(masked.size, dtype=jnp.float32)
  return None


def within_budget(
  masked: Bool[Array, " C"],
  score: Float[Array, " C"],
  entropy: Float[Array, " C"],
  budget: float | int,
) -> Int[Array, ""]:
  """Counts the masks that an entropy budget allows, highest scores first.

  Args:
    masked: the masks of one row.
    score: see `confidence`.
    entropy: entropy of each mask's posterior, in nats.
    budget: the largest sum of entropies but for the largest of them, in nats:
      it bounds the information that tokens drawn together have of each other.

  Source: arXiv 2505.24857, "entropy bounded unmasking".
  """
  order = _best_first(masked, score)
  entropy = jnp.where(masked, entropy, 0.0)[order]
  spent = jnp.cumsum(entropy) - jax.lax.cummax(entropy)
  return jnp.sum((spent <= budget) & masked[order], dtype=jnp.int32)


def leftmost(
  masked: Bool[Array, " C"], count: Int[Array, ""]
) -> Bool[Array, " C"]:
  """Picks the leftmost `count` masks, or all if there are fewer."""
  return masked & (jnp.cumsum(masked) <= count)


def most_confident(
  masked: Bool[Array, " C"],
  confidence: Float[Array, " C"],
  count: Int[Array, ""],
) -> Bool[Array, " C"]:
  """Picks the `count` most confident masks, or all if there are fewer.

  What is no mask is never chosen. Ties go to the left.
  """
  order = _best_first(masked, confidence)
  rank = jnp.zeros_like(order).at[order].set(jnp.arange(order.size))
  return masked & (rank < count)


def _best_first(
  masked: Bool[Array, " C"], score: Float[Array, " C"]
) -> Int[Array, " C"]:
  """Lists positions, the masks first, by their scores; ties from the left."""
  return jnp.argsort(jnp.where(masked, -score, jnp.inf), stable=True)


def bernoulli_insertions(
  key: Key[Array, ""], probability: Float[Array, " G"]
) -> Int[Array, " G"]:
  """Draws one mask or none for each gap; for Euler steps."""
  coin = jax.random.uniform(key, probability.shape)
  return (coin < probability).astype(jnp.int32)
