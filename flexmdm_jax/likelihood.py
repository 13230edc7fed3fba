"""Estimates of an upper bound on the negative log-likelihood of sequences.

Source: arXiv 2509.01025, "training objective": the bound is the training loss.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from flexmdm_jax.errors import InputError
from flexmdm_jax.interpolant import JointInterpolant, draw_times, noise
from flexmdm_jax.losses import elbo_terms
from flexmdm_jax.rates import Denoiser, forbid_mask
from flexmdm_jax.times import importance_times
from flexmdm_jax.vocab import Vocab

_KINDS = ("paper",)


def log_likelihood_bound(
  key: Key[Array, ""],
  denoiser: Denoiser,
  tokens: Int[Array, "B L"],
  length: Int[Array, " B"],
  interpolant: JointInterpolant,
  vocab: Vocab,
  num_times: int,
  kind: str = "paper",
) -> Float[Array, " B"]:
  """An unbiased estimate of an upper bound on `-log p(x1)`, in nats.

  Args:
    key: a PRNG key.
    denoiser: the model.
    tokens: clean sequences, left-aligned.
    length: their numbers of tokens.
    interpolant: the schedules the model was trained with.
    vocab: the id space.
    num_times: network calls, one in each stratum of [0, 1]. The error falls
      at least like `num_times ** -0.5`.
    kind: "paper", the bound of the paper. It is loose even for a perfect model,
      since it treats which tokens survived as known.

  Returns:
    One estimate a sequence.

  Raises:
    InputError: unknown `kind`, or num_times < 1.
  """
  if kind not in _KINDS:
    raise InputError(f"kind={kind!r} is unknown: choose one of {_KINDS}.")
  if num_times < 1:
    raise InputError(f"num_times={num_times} must be at least 1.")
  B, L = tokens.shape

  def draw(key, tokens, length, t):
    times = draw_times(key, interpolant, L)
    return noise(tokens, length, *times, t, vocab)

  def at_time(total, inputs):
    # Each sequence has its own time in the stratum: errors do not add up.
    key, stratum = inputs
    noise_key, time_key = jax.random.split(key)
    u = (stratum + jax.random.uniform(time_key, (B,))) / num_times
    times = importance_times(u)
    noised = jax.vmap(draw)(
      jax.random.split(noise_key, B), tokens, length, times.t
    )
    prediction = denoiser(noised.tokens, noised.length, times.t)
    prediction = prediction._replace(
      token_logits=forbid_mask(prediction.token_logits, vocab)
    )
    terms = jax.vmap(elbo_terms, in_axes=(0, 0, 0, None))(
      prediction, noised, times.t, interpolant
    )
    return total + times.weight * (terms.unmask + terms.insert), None

  keys = jax.random.split(key, num_times)
  strata = jnp.arange(num_times, dtype=jnp.float32)
  total, _ = jax.lax.scan(at_time, jnp.zeros(B), (keys, strata))
  return total / num_times
