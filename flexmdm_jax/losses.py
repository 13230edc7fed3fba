"""The training objective: an upper bound on the negative log-likelihood.

At each time the bound adds, for every mask, the cross-entropy of its token
and, for every gap, the divergence `phi(x, y) = y - x + x log(x / y)` of the
number of missing tokens, each times the hazard of its schedule. The posterior
of the tokens and the expected gaps are its unique minimiser.

The targets are those of the drawn embedding of the state, as in the paper, or
their mean over all embeddings (`alignment`). The latter also allows the bound
to be made tight: see `tight_terms`. Training and `likelihood` both score states
by `unweighted_terms`; they differ in the weights.

Source: arXiv 2509.01025, "training objective"; `tight_terms` is ours.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from flexmdm_jax.alignment import Alignment
from flexmdm_jax.errors import InputError
from flexmdm_jax.gap_laws import GapLaw
from flexmdm_jax.interpolant import JointInterpolant, Noised
from flexmdm_jax.prediction import Prediction
from flexmdm_jax.vocab import Vocab

GAP_LOSSES = ("phi", "damped", "poisson", "law")


class ElboTerms(NamedTuple):
  """The token part and the gap part of a loss, in nats a sequence."""

  unmask: Float[Array, "*b"]
  insert: Float[Array, "*b"]

  def weighted(
    self, unmask: Float[Array, "*b"], insert: Float[Array, "*b"]
  ) -> "ElboTerms":
    """Multiplies each part by its weight: the hazards, in the bound."""
    return ElboTerms(unmask * self.unmask, insert * self.insert)


def phi(
  x: Int[Array, "*s"] | Float[Array, "*s"], log_y: Float[Array, "*s"]
) -> Float[Array, "*s"]:
  """Computes `y - x + x log(x / y)`, the divergence of two Poisson rates.

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
  """Computes the bound's integrand at time `t` for one sequence.

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
  return unweighted_terms(prediction, noised, alignment).weighted(
    unmask=interpolant.unmasking.hazard(t),
    insert=interpolant.insertion.hazard(t),
  )


def unweighted_terms(
  prediction: Prediction,
  noised: Noised,
  alignment: Alignment | None = None,
  gap_loss: str = "phi",
) -> ElboTerms:
  """Computes the token and the gap loss of one state, before their weights.

  `elbo_terms` weighs them with the hazards; training, with the weights of its
  law of states. `chunked_loss.unweighted_terms` is the same for a batch with a
  large vocabulary.

  Args:
    prediction: the denoiser's output for `noised.tokens`.
    noised: the state and its truth.
    alignment: targets that are means over all embeddings; see `elbo_terms`.
    gap_loss: the kind of gap loss; see `gap_nats`.

  Returns:
    `ElboTerms` of float32 scalars.
  """
  return ElboTerms(
    unmask=mask_nats(prediction.token_logits, noised, alignment),
    insert=gap_nats(
      prediction.log_gaps, noised, alignment, gap_loss, prediction.law
    ),
  )


def mask_nats(
  token_logits: Float[Array, "L V"],
  noised: Noised,
  alignment: Alignment | None = None,
) -> Float[Array, ""]:
  """Sums the cross-entropies of one state's masks, nats."""
  token_logits = token_logits.astype(jnp.float32)
  if alignment is None:
    losses = cross_entropy(token_logits, noised.target)
  else:
    losses = aligned_cross_entropy(token_logits, alignment)
  return jnp.sum(jnp.where(noised.masked, losses, 0.0))


def gap_nats(
  log_gaps: Float[Array, " G"],
  noised: Noised,
  alignment: Alignment | None = None,
  gap_loss: str = "phi",
  law: GapLaw | None = None,
) -> Float[Array, ""]:
  """Sums the losses of one state's open gaps, nats.

  Args:
    log_gaps: log of the predicted numbers.
    noised: the state and its truth.
    alignment: targets that are means over all embeddings; see `elbo_terms`.
    gap_loss: one of `GAP_LOSSES`. "phi" is the bound's. "damped" divides it by
      1 + the predicted number, through which no gradient flows: the gradient
      in `log_gaps` is then `(y - x) / (1 + y)`, which has the same zero and
      does not grow with the gap. "poisson" is phi without its constant,
      `y - x log y`: the same gradient, and the public 7B's number. "law" is
      the cross-entropy of the counts under the predicted law, whose mean is the
      rate; its targets are always the drawn counts, since an alignment has only
      their means. All but "phi" are for training: they are no part of a
      likelihood bound.
    law: the predicted law of each gap [G]; needed for "law".

  Raises:
    InputError: "law" without a law.
  """
  if gap_loss == "law":
    if law is None:
      raise InputError(
        "gap_loss='law' needs a model that predicts the law of each gap:"
        " choose another gap_loss, or a gap head that gives a law."
      )
    losses = -law.log_prob(noised.gaps)
    return jnp.sum(jnp.where(noised.open_gaps, losses, 0.0))
  truth = noised.gaps if alignment is None else alignment.gaps
  log_gaps = log_gaps.astype(jnp.float32)
  if gap_loss == "poisson":
    # Nothing is missing where nothing can be, at a log rate of -inf.
    finite = jnp.where(truth > 0, log_gaps, 0.0)
    losses = jnp.exp(log_gaps) - truth.astype(jnp.float32) * finite
  else:
    losses = phi(truth, log_gaps)
  if gap_loss == "damped":
    losses = losses / (1.0 + jax.lax.stop_gradient(jnp.exp(log_gaps)))
  return jnp.sum(jnp.where(noised.open_gaps, losses, 0.0))


def tight_terms(
  prediction: Prediction,
  noised: Noised,
  t: Float[Array, ""],
  interpolant: JointInterpolant,
  alignment: Alignment,
) -> ElboTerms:
  """Computes the tight bound's integrand at time `t` for one sequence.

  The likelihood of a path of states `x_t` does not depend on which tokens of
  `x1` they are. So the rates that are compared are those from state to state:

  - the target of a mask is its posterior over tokens, whose entropy is taken
    off the cross-entropy;
  - a mask inserted in any gap beside the same run of masks makes the same
    state, so gaps are summed over a run before they are compared.

  In expectation over the data, the integral of a perfect model's terms is the
  data's entropy.

  Args:
    prediction: the denoiser's output for `noised.tokens`.
    noised: the state at time `t`.
    t: the time, in [0, 1).
    interpolant: the schedules that made `noised`.
    alignment: the posterior of that state's embedding.

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

  def sum_runs(rates):
    rates = jnp.where(noised.open_gaps, rates, 0.0)
    return jax.ops.segment_sum(rates, run, num_segments=L + 1)

  expected, predicted = sum_runs(alignment.gaps), sum_runs(jnp.exp(log_gaps))
  insert = phi(expected, jnp.log(predicted))
  return ElboTerms(jnp.sum(unmask), jnp.sum(insert)).weighted(
    unmask=interpolant.unmasking.hazard(t),
    insert=interpolant.insertion.hazard(t),
  )


def next_token_losses(
  token_logits: Float[Array, "L V"],
  tokens: Int[Array, " L"],
  length: Int[Array, ""],
  vocab: Vocab,
) -> Float[Array, " L"]:
  """Computes the terms of the exact `-log p` of one causal sequence.

  Args:
    token_logits: logits at each position, for the token after it.
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
  """Computes `-log softmax(logits)[target]`, nats."""
  # A sum over all ids, since the gradient of a gather is a scatter into another
  # array as large as the logits.
  picked = jnp.arange(logits.shape[-1]) == target[..., None]
  at_target = jnp.sum(jnp.where(picked, logits, 0.0), axis=-1)
  return jax.nn.logsumexp(logits, axis=-1) - at_target


def aligned_cross_entropy(
  logits: Float[Array, "L V"], alignment: Alignment
) -> Float[Array, " L"]:
  """Averages `-log softmax(logits)[token]` over each position's posterior."""
  at_tokens = logits[:, alignment.tokens]
  # A token that cannot be there may have a logit of -inf.
  log_p = jnp.where(alignment.posterior > 0, at_tokens, 0.0)
  mean = jnp.sum(alignment.posterior * log_p, axis=-1)
  return jax.nn.logsumexp(logits, axis=-1) - mean


def token_entropy(alignment: Alignment) -> Float[Array, " L"]:
  """Computes the entropy of each position's posterior over tokens, nats.

  Clean tokens with one id are one outcome.
  """
  # Gathers the probability of each id at its first occurrence.
  first = jnp.argmax(alignment.tokens[:, None] == alignment.tokens, axis=-1)
  p = jnp.zeros_like(alignment.posterior).at[:, first].add(alignment.posterior)
  return -jnp.sum(
    jnp.where(p > 0, p * jnp.log(jnp.where(p > 0, p, 1.0)), 0.0), axis=-1
  )
