"""The token loss of a large vocabulary, in chunks of positions.

The logits of a batch may not fit in memory: 16 rows of 1,024 tokens with 128k
ids are 8 GiB in float32. Here they are made for a few positions of each row at
a time, and again in the backward pass.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from flexmdm_jax import mesh
from flexmdm_jax.alignment import Alignment
from flexmdm_jax.interpolant import Noised
from flexmdm_jax.losses import ElboTerms, gap_nats
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

  def logits(weights, hidden):
    """Computes logits [.., chunk, V] of hidden states [.., chunk, D]."""
    (unembed, bias, matrix), (hidden, inner) = weights, hidden
    logits = _product(hidden, unembed)
    if matrix is not None:
      logits += _product(inner, matrix)
    return logits if bias is None else logits + bias.astype(jnp.float32)

  def at_truth(weights, hidden, truth):
    """Averages the true tokens' logits over the posterior, [C, B, chunk].

    Only a row's own tokens can be meant: a product with their columns of the
    matrix. Were they picked from the logits, their gradient would be an array
    as large as the logits.
    """
    columns = jax.tree.map(lambda w: _columns(w, truth.tokens[0]), weights)
    of_tokens = logits(columns, hidden)
    if vocab is not None:
      is_mask = (truth.tokens == vocab.mask)[:, :, None]
      of_tokens = jnp.where(is_mask, -jnp.inf, of_tokens)
    # A token that cannot be there may have a logit of -inf.
    log_p = jnp.where(truth.posterior > 0, of_tokens, 0.0)
    return jnp.sum(truth.posterior * log_p, axis=-1)

  def nats(weights, hidden, masked, truth):
    """Sums each row's cross-entropies in one chunk [B, chunk, ...]."""
    hidden, mean = hidden
    of_ids = logits(weights, hidden)
    if vocab is not None:
      of_ids = forbid_mask(of_ids, vocab)
    if mean is None:
      ids = jnp.arange(of_ids.shape[-1])
      mean = jnp.sum(jnp.where(ids == truth[..., None], of_ids, 0.0), axis=-1)
    losses = jax.nn.logsumexp(of_ids, axis=-1) - mean
    return jnp.sum(jnp.where(masked, losses, 0.0), axis=-1)

  def sum_rows(weights, hidden, masked, truth):
    mean = None
    if alignment is not None:
      mean, truth = at_truth(weights, hidden, truth), None
    return _sum_chunks(nats, weights, (hidden, mean), masked, truth)

  inner, matrix = features.adapter or (None, None)
  if alignment is None:
    truth = cut(noised.target)
  else:
    truth = Alignment(
      alignment.tokens[None], cut(alignment.posterior), alignment.gaps[None]
    )
  return mesh.by_rows(sum_rows, B, 1)(
    (features.unembed, features.bias, matrix),
    jax.tree.map(cut, (features.hidden, inner)),
    cut(noised.masked),
    truth,
  )


def _columns(
  weights: Float[Array, "*d V"], ids: Int[Array, "B L"]
) -> Float[Array, "B d L"]:
  """Picks each row's columns of a matrix, or of a vector as a matrix."""
  picked = jnp.take(jnp.atleast_2d(weights).T, ids, axis=0, mode="clip")
  return jnp.swapaxes(picked, 1, 2)


@jax.custom_vjp
def _product(
  x: Float[Array, "*b D"], weights: Float[Array, "*r D V"]
) -> Float[Array, "*b V"]:
  """Computes `x @ weights` in float32.

  Its gradients are products of the inputs' type. Left to itself, JAX multiplies
  the logits' gradient in float32, after a matrix of 16 bits was converted.
  """
  return jnp.matmul(x, weights, preferred_element_type=jnp.float32)


def _product_forward(x, weights):
  perturbed = x.perturbed, weights.perturbed
  values = x.value, weights.value
  return _product(*values), (_Static(perturbed), values)


def _product_backward(residuals, cotangent):
  perturbed, values = residuals
  dtype = jnp.promote_types(*(x.dtype for x in values))

  def product(*given):
    filled = (x if y is None else y for x, y in zip(values, given, strict=True))
    return jnp.matmul(*filled, preferred_element_type=dtype)

  wanted = (
    x if p else None for x, p in zip(values, perturbed.value, strict=True)
  )
  _, pull = jax.vjp(product, *wanted)
  return pull(cotangent.astype(dtype))


_product.defvjp(_product_forward, _product_backward, symbolic_zeros=True)


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
