"""The training objective: an upper bound on the negative log-likelihood.

At each time the bound adds, for every mask, the cross-entropy of its token
and, for every gap, the divergence `phi(x, y) = y - x + x log(x / y)` of the
number of missing tokens, each times the hazard of its schedule. The posterior
of the tokens and the expected gaps are its unique minimiser.

The targets are those of the drawn embedding of the state, as in the paper, or
their mean over all embeddings (`alignment`). The latter also allows the bound
to be made tight: see `tight_terms`.

Source: arXiv 2509.01025, "training objective"; `tight_terms` is ours.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from flexmdm_jax import mesh
from flexmdm_jax.alignment import Alignment
from flexmdm_jax.gap_laws import GapLaw
from flexmdm_jax.interpolant import JointInterpolant, Noised
from flexmdm_jax.prediction import Features, Prediction, forbid_mask
from flexmdm_jax.vocab import Vocab


class ElboTerms(NamedTuple):
  """The two parts of the bound's integrand at a time, in nats a sequence."""

  unmask: Float[Array, "*b"]
  insert: Float[Array, "*b"]


def phi(
  x: Int[Array, "*s"] | Float[Array, "*s"], log_y: Float[Array, "*s"]
) -> Float[Array, "*s"]:
  """`y - x + x log(x / y)`: the divergence of two Poisson rates.

  Args:
    x: the true rate, >= 0; `phi(0, y) = y`.
    log_y: log of the predicted rate; may be -inf where x is 0.

  Returns:
    A number >= 0, 0 only at x = y; its gradient in `log_y` is `y - x`.
  """
  x = jnp.asarray(x, jnp.float32)
  # Both branches of a `where` are differentiated: the untaken one must stay
  # finite.
  safe_x = jnp.where(x > 0, x, 1.0)
  safe_log_y = jnp.where(x > 0, log_y, 0.0)
  log_ratio = jnp.where(x > 0, jnp.log(safe_x) - safe_log_y, 0.0)
  return jnp.exp(log_y) - x + x * log_ratio


def elbo_terms(
  prediction: Prediction,
  noised: Noised,
  t: Float[Array, ""],
  interpolant: JointInterpolant,
  alignment: Alignment | None = None,
) -> ElboTerms:
  """The bound's integrand at time `t` for one sequence.

  Its expectation over t uniform on [0, 1] and over `noised` is an upper bound
  on `-log p(x1)` in nats.

  Args:
    prediction: the denoiser's output for `noised.tokens`.
    noised: the state at time `t` and its truth.
    t: the time, in [0, 1).
    interpolant: the schedules that made `noised`.
    alignment: targets that are means over all embeddings of the state, instead
      of those of the one that was drawn; the expected gradient is the same.

  Returns:
    `ElboTerms` of float32 scalars.
  """
  return ElboTerms(
    unmask=interpolant.unmasking.hazard(t)
    * mask_nats(prediction.token_logits, noised, alignment),
    insert=interpolant.insertion.hazard(t)
    * gap_nats(prediction.log_gaps, noised, alignment),
  )


def gap_nats(
  log_gaps: Float[Array, " G"],
  noised: Noised,
  alignment: Alignment | None = None,
  damped: bool = False,
) -> Float[Array, ""]:
  """Sums `phi` over one state's open gaps, nats.

  Args:
    log_gaps: log of the predicted numbers.
    noised: the state and its truth.
    alignment: as in `elbo_terms`.
    damped: divide each by 1 + the predicted number, through which no gradient
      flows. The gradient in `log_gaps` is then `(y - x) / (1 + y)`, which has
      the same zero and does not grow with the gap.
  """
  truth = noised.gaps if alignment is None else alignment.gaps
  log_gaps = log_gaps.astype(jnp.float32)
  losses = phi(truth, log_gaps)
  if damped:
    losses = losses / (1.0 + jax.lax.stop_gradient(jnp.exp(log_gaps)))
  return jnp.sum(jnp.where(noised.open_gaps, losses, 0.0))


def mask_nats(
  token_logits: Float[Array, "L V"],
  noised: Noised,
  alignment: Alignment | None = None,
) -> Float[Array, ""]:
  """Sum of the cross-entropies of one state's masks, nats."""
  token_logits = token_logits.astype(jnp.float32)
  if alignment is None:
    losses = cross_entropy(token_logits, noised.target)
  else:
    losses = aligned_cross_entropy(token_logits, alignment)
  return jnp.sum(jnp.where(noised.masked, losses, 0.0))


def mask_nats_in_chunks(
  features: Features,
  noised: Noised,
  vocab: Vocab,
  chunk: int,
  alignment: Alignment | None = None,
) -> Float[Array, " B"]:
  """`mask_nats` of a batch, without all the logits at once.

  They are made for `chunk` positions of each row at a time, and again in the
  backward pass. Each row's masks come first, and chunks without any are left
  out: the time is that of a device's row with the most masks. Matrices that are
  not differentiated get no gradient.

  Args:
    features: of the batch; the mask itself is forbidden here.
    noised: the states.
    vocab: supplies the mask id.
    chunk: positions of a row, >= 1.
    alignment: of the states; see `elbo_terms`.

  Returns:
    Nats a row; with every gradient, those of the dense logits up to rounding.
  """
  B, L = noised.masked.shape
  num_chunks = -(-L // chunk)
  order = jnp.argsort(~noised.masked, axis=-1, stable=True)

  def cut(x):
    """The rows [B, L, ...] as chunks of positions [C, B, chunk, ...]."""
    x = jax.vmap(lambda row, order: row[order])(x, order)
    beyond = num_chunks * chunk - L
    x = jnp.pad(x, ((0, 0), (0, beyond), *((0, 0),) * (x.ndim - 2)))
    return jnp.moveaxis(x.reshape(B, num_chunks, chunk, *x.shape[2:]), 1, 0)

  def nats(weights, hidden, masked, truth):
    """Of one chunk [B, chunk, ...]."""
    (unembed, bias, matrix), (hidden, inner) = weights, hidden
    adapter = None if matrix is None else (inner, matrix)
    logits = features._replace(
      hidden=hidden, unembed=unembed, bias=bias, adapter=adapter
    ).token_logits()
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
  """Sum of `nats(weights, *chunk) -> f32[B]` over the chunks with masks.

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
  def is_leaf(x):
    return hasattr(x, "perturbed")

  values = jax.tree.map(lambda x: x.value, inputs, is_leaf=is_leaf)
  perturbed = jax.tree.map(lambda x: x.perturbed, inputs[:2], is_leaf=is_leaf)
  return _sum_chunks(nats, *values), (_Static(perturbed), values)


def _sum_chunks_backward(nats, residuals, cotangent):
  perturbed, (weights, hidden, masked, truth) = residuals

  def only(tree, which):
    """The leaves that have gradients; None in the others' places."""
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
  """What is known when a program is made; a pytree without leaves."""

  value: Any


_sum_chunks.defvjp(
  _sum_chunks_forward, _sum_chunks_backward, symbolic_zeros=True
)


def tight_terms(
  prediction: Prediction,
  noised: Noised,
  t: Float[Array, ""],
  interpolant: JointInterpolant,
  alignment: Alignment,
) -> ElboTerms:
  """The tight bound's integrand at time `t` for one sequence.

  A likelihood is of the path of states `x_t`, not of which tokens of `x1` they
  are. So the rates that are compared are those from state to state:

  - the target of a mask is its posterior over tokens, and the cross-entropy
    loses the entropy of that;
  - a mask inserted in any gap beside the same run of masks makes the same
    state, so gaps are summed over a run before they are compared.

  In expectation over the data, the integral of a perfect model's terms is the
  data's entropy.

  Args:
    prediction: the denoiser's output for `noised.tokens`.
    noised: the state at time `t`.
    t: the time, in [0, 1).
    interpolant: the schedules that made `noised`.
    alignment: of that state.

  Returns:
    `ElboTerms` of float32 scalars, nats a sequence.
  """
  (L,) = noised.tokens.shape
  token_logits = prediction.token_logits.astype(jnp.float32)
  log_gaps = prediction.log_gaps.astype(jnp.float32)
  divergence = aligned_cross_entropy(token_logits, alignment) - token_entropy(
    alignment
  )
  unmask = jnp.where(noised.masked, divergence, 0.0)

  # Gaps with no clean token between them are beside the same run of masks.
  clean = ~noised.masked & (jnp.arange(L) < noised.length)
  run = jnp.append(0, jnp.cumsum(clean))

  def over_runs(rates):
    rates = jnp.where(noised.open_gaps, rates, 0.0)
    return jax.ops.segment_sum(rates, run, num_segments=L + 1)

  expected, predicted = over_runs(alignment.gaps), over_runs(jnp.exp(log_gaps))
  insert = phi(expected, jnp.log(predicted))
  return ElboTerms(
    unmask=interpolant.unmasking.hazard(t) * jnp.sum(unmask),
    insert=interpolant.insertion.hazard(t) * jnp.sum(insert),
  )


def gap_law_nats(law: GapLaw, noised: Noised) -> Float[Array, ""]:
  """Cross-entropy of one state's gap counts, nats, where a law is predicted.

  Stands in for `gap_nats` when training: it fits the whole law of each count,
  whose mean is the rate. Not itself part of a likelihood bound. Its targets are
  always the drawn counts: an alignment has only their means.

  Args:
    law: a `Prediction`'s, of each gap [G].
    noised: the state and its truth.
  """
  losses = -law.log_prob(noised.gaps)
  return jnp.sum(jnp.where(noised.open_gaps, losses, 0.0))


def next_token_losses(
  token_logits: Float[Array, "L V"],
  tokens: Int[Array, " L"],
  length: Int[Array, ""],
  vocab: Vocab,
) -> Float[Array, " L"]:
  """The terms of the exact `-log p` of one sequence under a causal model.

  Args:
    token_logits: at each position, of the token after it.
    tokens: the mask, which stands for the beginning, then the sequence.
    length: number of tokens, the first included; the pad is predicted after
      the last.
    vocab: the id space.

  Returns:
    Cross-entropies in nats; 0 beyond the length.
  """
  (L,) = tokens.shape
  index = jnp.arange(L)
  following = jnp.where(index < length - 1, jnp.roll(tokens, -1), vocab.pad)
  losses = cross_entropy(token_logits.astype(jnp.float32), following)
  return jnp.where(index < length, losses, 0.0)


def cross_entropy(
  logits: Float[Array, "*s V"], target: Int[Array, "*s"]
) -> Float[Array, "*s"]:
  """`-log softmax(logits)[target]`, nats."""
  at_target = jnp.take_along_axis(logits, target[..., None], axis=-1)[..., 0]
  return jax.nn.logsumexp(logits, axis=-1) - at_target


def aligned_cross_entropy(
  logits: Float[Array, "L V"], alignment: Alignment
) -> Float[Array, " L"]:
  """Mean of `-log softmax(logits)[token]` over the tokens of each position."""
  at_tokens = logits[:, alignment.tokens]
  # What cannot be there may have a logit of -inf.
  log_p = jnp.where(alignment.posterior > 0, at_tokens, 0.0)
  mean = jnp.sum(alignment.posterior * log_p, axis=-1)
  return jax.nn.logsumexp(logits, axis=-1) - mean


def token_entropy(alignment: Alignment) -> Float[Array, " L"]:
  """Entropy of each position's posterior over tokens, nats.

  Clean tokens with one id are one outcome.
  """
  # Gathers the probability of each id at its first occurrence.
  first = jnp.argmax(alignment.tokens[:, None] == alignment.tokens, axis=-1)
  p = jnp.zeros_like(alignment.posterior).at[:, first].add(alignment.posterior)
  return -jnp.sum(
    jnp.where(p > 0, p * jnp.log(jnp.where(p > 0, p, 1.0)), 0.0), axis=-1
  )
