"""The token loss of a large vocabulary, in chunks of positions.

The logits of a batch may not fit in memory: 16 rows of 1,024 tokens with 128k
ids are 8 GiB in float32. Here they are made for a few positions of each row at
a time, and again in the backward pass.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from flexmdm_jax import mesh
from flexmdm_jax.alignment import Alignment
from flexmdm_jax.interpolant import Noised
from flexmdm_jax.losses import (
  ElboTerms,
  aligned_cross_entropy,
  cross_entropy,
  gap_nats,
)
from flexmdm_jax.prediction import Features, forbid_mask
from flexmdm_jax.vocab import Vocab


def unweighted_terms(
  features: Features,
  noised: Noised,
  vocab: Vocab | None,
  chunk: int,
  alignment: Alignment | None = None,
  gap_loss: str = "phi",
) -> ElboTerms:
  """Computes `losses.unweighted_terms` of a batch, token logits in chunks.

  Args:
    features: the denoiser's output for `noised.tokens`, before the logits; the
      mask itself is forbidden here.
    noised: the states of the batch and their truth.
    vocab: supplies the mask id; None where the mask is not forbidden.
    chunk: positions of a row whose logits are made at once, >= 1.
    alignment: targets that are means over all embeddings of each state.
    gap_loss: the kind of gap loss; see `losses.gap_nats`.

  Returns:
    `ElboTerms` f32[B].
  """
  insert = jax.vmap(functools.partial(gap_nats, gap_loss=gap_loss))
  return ElboTerms(
    unmask=mask_nats_in_chunks(features, noised, vocab, chunk, alignment),
    insert=insert(features.log_gaps, noised, alignment, law=features.law),
  )


def mask_nats_in_chunks(
  features: Features,
  noised: Noised,
  vocab: Vocab | None,
  chunk: int,
  alignment: Alignment | None = None,
) -> Float[Array, " B"]:
  """Sums `losses.mask_nats` of a batch, without all the logits at once.

  They are made for `chunk` positions of each row at a time, and again in the
  backward pass. Each row's masks come first, and chunks without any are left
  out: the time is that of a device's row with the most masks. Matrices that are
  not differentiated get no gradient.

  Args:
    features: the denoiser's output, before the logits; the mask itself is
      forbidden here.
    noised: the states and their truth.
    vocab: supplies the mask id; None where the mask is not forbidden.
    chunk: positions of a row, >= 1.
    alignment: targets that are means over all embeddings of each state.

  Returns:
    Nats a row; with every gradient, those of the dense logits up to rounding.
  """
  B, L = noised.masked.shape
  num_chunks = -(-L // chunk)
  order = jnp.argsort(~noised.masked, axis=-1, stable=True)

  def cut(x):
    """Cuts rows [B, L, ...] into chunks of positions [C, B, chunk, ...]."""
    x = jax.vmap(lambda row, order: row[order])(x, order)
    beyond = num_chunks * chunk - L
    x = jnp.pad(x, ((0, 0), (0, beyond), *((0, 0),) * (x.ndim - 2)))
    return jnp.moveaxis(x.reshape(B, num_chunks, chunk, *x.shape[2:]), 1, 0)

  def nats(weights, hidden, masked, truth):
    """Sums each row's cross-entropies in one chunk [B, chunk, ...]."""
    (unembed, bias, matrix), (hidden, inner) = weights, hidden
    adapter = None if matrix is None else (inner, matrix)
    logits = features._replace(
      hidden=hidden, unembed=unembed, bias=bias, adapter=adapter
    ).token_logits()
    if vocab is not None:
      logits = forbid_mask(logits, vocab)
    if alignment is None:
      losses = cross_entropy(logits, truth)
    else:
      losses = jax.vmap(aligned_cross_entropy)(logits, truth)
    return jnp.sum(jnp.where(masked, losses, 0.0), axis=-1)

  inner, matrix = features.adapter or (None, None)
  if alignment is None:
    truth = cut(noised.target)
  else:
    truth = jax.tree.map(
      lambda x: jnp.broadcast_to(x, (num_chunks, *x.shape)), alignment
    )._replace(posterior=cut(alignment.posterior))
  sum_chunks = mesh.by_rows(functools.partial(_sum_chunks, nats), B, 1)
  return sum_chunks(
    (features.unembed, features.bias, matrix),
    jax.tree.map(cut, (features.hidden, inner)),
    cut(noised.masked),
    truth,
  )


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _sum_chunks(nats, weights, hidden, masked, truth):
  """Sums `nats(weights, *chunk) -> f32[B]` over the chunks with masks.

  Left to itself, JAX passes the weights through the conditional of every chunk
  as residuals: copies of the largest matrix that there is. This also sums their
  gradients in float32.
  """

  def add(total, chunk):
    some = jnp.any(chunk[1])
    zeros = jnp.zeros_like(total)
    more = jax.lax.cond(
      some, functools.partial(nats, weights), lambda *_: zeros, *chunk
    )
    return total + more, None

  zeros = jnp.zeros(masked.shape[1])
  return jax.lax.scan(add, zeros, (hidden, masked, truth))[0]


def _sum_chunks_forward(nats, *inputs):
  """Computes the sum, and keeps which inputs have gradients."""

  def is_leaf(x):
    return hasattr(x, "perturbed")

  values = jax.tree.map(lambda x: x.value, inputs, is_leaf=is_leaf)
  perturbed = jax.tree.map(lambda x: x.perturbed, inputs[:2], is_leaf=is_leaf)
  return _sum_chunks(nats, *values), (_Static(perturbed), values)


def _sum_chunks_backward(nats, residuals, cotangent):
  """Makes each chunk's logits again, and adds up the weights' gradients."""
  perturbed, (weights, hidden, masked, truth) = residuals

  def only(tree, which):
    """Keeps the leaves that have gradients; None in the others' places."""
    return jax.tree.map(lambda x, p: x if p else None, tree, which)

  def fill(some, tree):
    return jax.tree.map(
      lambda x, s: x if s is None else s,
      tree,
      some,
      is_leaf=lambda x: x is None,
    )

  weights_wanted, hidden_wanted = perturbed.value

  def add(total, chunk):
    hidden, masked, truth = chunk

    def active(total):
      _, pull = jax.vjp(
        lambda w, h: nats(fill(w, weights), fill(h, hidden), masked, truth),
        only(weights, weights_wanted),
        only(hidden, hidden_wanted),
      )
      of_weights, of_hidden = pull(cotangent)
      return jax.tree.map(
        lambda sum, x: sum + x.astype(jnp.float32), total, of_weights
      ), of_hidden

    def idle(total):
      return total, jax.tree.map(jnp.zeros_like, only(hidden, hidden_wanted))

    return jax.lax.cond(jnp.any(masked), active, idle, total)

  wanted = only(weights, weights_wanted)
  zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, jnp.float32), wanted)
  total, of_hidden = jax.lax.scan(add, zeros, (hidden, masked, truth))
  of_weights = jax.tree.map(lambda sum, x: sum.astype(x.dtype), total, wanted)
  return of_weights, of_hidden, None, None


@jax.tree_util.register_static
class _Static(NamedTuple):
  """A value known when a program is made; a pytree without leaves."""

  value: Any


_sum_chunks.defvjp(
  _sum_chunks_forward, _sum_chunks_backward, symbolic_zeros=True
)
