"""The training objective: an upper bound on the negative log-likelihood.

At each time the bound adds, for every mask, the cross-entropy of its token
and, for every gap, the divergence `phi(x, y) = y - x + x log(x / y)` of the
number of missing tokens, each times the hazard of its schedule. The posterior
of the tokens and the expected gaps are its unique minimiser.

Source: arXiv 2509.01025, "training objective".
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from flexmdm_jax.interpolant import JointInterpolant, Noised
from flexmdm_jax.rates import Prediction


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
) -> ElboTerms:
  """The bound's integrand at time `t` for one sequence.

  Its expectation over t uniform on [0, 1] and over `noised` is an upper bound
  on `-log p(x1)` in nats.

  Args:
    prediction: the denoiser's output for `noised.tokens`.
    noised: the state at time `t` and its truth.
    t: the time, in [0, 1).
    interpolant: the schedules that made `noised`.

  Returns:
    `ElboTerms` of float32 scalars.
  """
  token_logits = prediction.token_logits.astype(jnp.float32)
  log_gaps = prediction.log_gaps.astype(jnp.float32)
  unmask = jnp.where(
    noised.masked, cross_entropy(token_logits, noised.target), 0.0
  )
  insert = jnp.where(noised.open_gaps, phi(noised.gaps, log_gaps), 0.0)
  return ElboTerms(
    unmask=interpolant.unmasking.hazard(t) * jnp.sum(unmask),
    insert=interpolant.insertion.hazard(t) * jnp.sum(insert),
  )


def gap_law_term(
  prediction: Prediction,
  noised: Noised,
  t: Float[Array, ""],
  interpolant: JointInterpolant,
) -> Float[Array, ""]:
  """Cross-entropy of the gap counts at time `t`, for a `distribution` head.

  Stands in for `ElboTerms.insert` when training: it fits the whole law of each
  count, whose mean is the rate. Not itself part of a likelihood bound.

  Args:
    prediction: with `gap_logits` over the counts 0..C-1.
    noised: the state and its truth; counts above C-1 are scored as C-1.
    t: the time, in [0, 1).
    interpolant: the schedules that made `noised`.

  Returns:
    A float32 scalar, nats a sequence times the insertion hazard.
  """
  logits = prediction.gap_logits.astype(jnp.float32)
  count = jnp.minimum(noised.gaps, logits.shape[-1] - 1)
  losses = jnp.where(noised.open_gaps, cross_entropy(logits, count), 0.0)
  return interpolant.insertion.hazard(t) * jnp.sum(losses)


def cross_entropy(
  logits: Float[Array, "*s V"], target: Int[Array, "*s"]
) -> Float[Array, "*s"]:
  """`-log softmax(logits)[target]`, nats."""
  at_target = jnp.take_along_axis(logits, target[..., None], axis=-1)[..., 0]
  return jax.nn.logsumexp(logits, axis=-1) - at_target
