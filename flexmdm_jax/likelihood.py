"""The negative log-likelihood of sequences: an upper bound, or exact.

Source: arXiv 2509.01025, "training objective": its bound is the training loss.
The tight bound is ours: see `losses.tight_terms`.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from flexmdm_jax.alignment import align
from flexmdm_jax.errors import InputError
from flexmdm_jax.interpolant import JointInterpolant, draw_times, noise
from flexmdm_jax.losses import (
  ElboTerms,
  elbo_terms,
  next_token_losses,
  tight_terms,
)
from flexmdm_jax.prediction import Denoiser, forbid_mask
from flexmdm_jax.schedules import Immediate
from flexmdm_jax.times import importance_times
from flexmdm_jax.vocab import Vocab

KINDS = ("tight", "paper")


def next_token_nats(
  denoiser: Denoiser,
  tokens: Int[Array, "B L"],
  length: Int[Array, " B"],
  vocab: Vocab,
) -> Float[Array, "B L"]:
  """Computes the terms of the exact `-log p` of rows under a causal model.

  Args:
    denoiser: a causal model, whose logits are those of the next token.
    tokens: rows that begin with the mask, which stands for the beginning.
    length: their numbers of tokens, the first included.
    vocab: the id space; the pad is predicted after the last token.

  Returns:
    `-log p` of the token after each position, in nats; the last is that of the
    end, and 0 stands beyond the length. A row's sum is its `-log p`.
  """
  logits = denoiser(tokens, length, jnp.zeros(length.shape)).token_logits
  return jax.vmap(next_token_losses, (0, 0, 0, None))(
    forbid_mask(logits, vocab), tokens, length, vocab
  )


def log_likelihood_bound(
  key: Key[Array, ""],
  denoiser: Denoiser,
  tokens: Int[Array, "B L"],
  length: Int[Array, " B"],
  interpolant: JointInterpolant,
  vocab: Vocab,
  num_times: int,
  kind: str = "tight",
  frozen: Bool[Array, "B L"] | None = None,
  open_gaps: Bool[Array, "B L+1"] | None = None,
) -> Float[Array, " B"]:
  """Estimates an upper bound on `-log p(x1)` without bias, in nats.

  Args:
    key: a PRNG key.
    denoiser: the model.
    tokens: clean sequences, left-aligned.
    length: their numbers of tokens.
    interpolant: the schedules of the path: those the model was trained with, or
      others if the denoiser is `on_path` of them.
    vocab: the id space.
    num_times: network calls, one in each stratum of [0, 1]. The error falls
      at least like `num_times ** -0.5`.
    kind: "tight", whose mean over the data is the entropy for a perfect model;
      or "paper", the paper's, which is loose even then, since it treats which
      tokens survived as known. Without insertions they are the same.
    frozen: tokens that are given: the estimate is of `-log p` of the others
      given these. None: no token is.
    open_gaps: gaps of the sequences that tokens may be missing from; see
      `interpolant.noise`, which also tells the default.

  Returns:
    One estimate a sequence.

  Raises:
    InputError: unknown `kind`, or num_times < 1.
  """
  terms = bound_terms(
    key,
    denoiser,
    tokens,
    length,
    interpolant,
    vocab,
    num_times,
    kind,
    frozen,
    open_gaps,
  )
  return terms.unmask + terms.insert


def bound_terms(
  key: Key[Array, ""],
  denoiser: Denoiser,
  tokens: Int[Array, "B L"],
  length: Int[Array, " B"],
  interpolant: JointInterpolant,
  vocab: Vocab,
  num_times: int,
  kind: str = "tight",
  frozen: Bool[Array, "B L"] | None = None,
  open_gaps: Bool[Array, "B L+1"] | None = None,
) -> ElboTerms:
  """Estimates the two parts of `log_likelihood_bound`, whose arguments it has.

  Returns:
    `ElboTerms` f32[B]: the cost of the tokens, and that of the insertions. On
    the path `lengths_first` these are a masked diffusion model's bound given
    the length, and the cost of the length.
  """
  if kind not in KINDS:
    raise InputError(f"kind={kind!r} is unknown: choose one of {KINDS}.")
  if num_times < 1:
    raise InputError(f"num_times={num_times} must be at least 1.")
  B, L = tokens.shape

  def draw(key, tokens, length, t, frozen, open_gaps):
    times = draw_times(key, interpolant, L)
    return noise(tokens, length, *times, t, vocab, frozen, open_gaps)

  schedules = (interpolant.insertion, interpolant.unmasking)
  breaks = tuple(sorted({x for schedule in schedules for x in schedule.breaks}))
  # Nothing is ever absent without insertions: a state has one embedding.
  one_embedding = isinstance(interpolant.insertion, Immediate)

  def terms(prediction, noised, t, tokens, length, frozen):
    if kind == "paper" or one_embedding:
      return elbo_terms(prediction, noised, t, interpolant)
    alignment = align(noised, tokens, length, frozen)
    return tight_terms(prediction, noised, t, interpolant, alignment)

  def at_time(total, inputs):
    # Each sequence has its own time in the stratum: errors do not add up.
    key, stratum = inputs
    noise_key, time_key = jax.random.split(key)
    u = (stratum + jax.random.uniform(time_key, (B,))) / num_times
    times = importance_times(u, breaks=breaks)
    noised = jax.vmap(draw)(
      jax.random.split(noise_key, B),
      tokens,
      length,
      times.t,
      frozen,
      open_gaps,
    )
    prediction = denoiser(noised.tokens, noised.length, times.t)
    prediction = prediction._replace(
      token_logits=forbid_mask(prediction.token_logits, vocab)
    )
    found = jax.vmap(terms)(prediction, noised, times.t, tokens, length, frozen)
    more = jax.tree.map(lambda x: times.weight * x / num_times, found)
    return jax.tree.map(jnp.add, total, more), None

  keys = jax.random.split(key, num_times)
  strata = jnp.arange(num_times, dtype=jnp.float32)
  zeros = ElboTerms(jnp.zeros(B), jnp.zeros(B))
  total, _ = jax.lax.scan(at_time, zeros, (keys, strata))
  return total
