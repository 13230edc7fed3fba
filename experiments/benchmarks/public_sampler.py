"""Port of the public sampler's algorithm, to compare ours with.

Every step pays for `max_length` positions: full logits in float32, a Poisson
count for each pair of position and token, a scatter of insertions; then the
host looks at the state. Masks with exactly one event are revealed, and a row
whose insertions do not fit loses them all in that step. These are its own
ways: never use it to sample.

Source: the PyTorch code that goes with arXiv 2509.01025.
"""

import functools

import jax
import jax.numpy as jnp

from flexmdm_jax.interpolant import JointInterpolant
from flexmdm_jax.prediction import Denoiser, forbid_mask
from flexmdm_jax.vocab import Vocab


@functools.partial(jax.jit, static_argnames=("interpolant", "vocab"))
def _step(key, denoiser, tokens, t, dt, last, *, interpolant, vocab):
  B, L = tokens.shape
  token_key, gap_key, end_key = jax.random.split(key, 3)
  length = jnp.sum(tokens != vocab.pad, axis=1)
  prediction = denoiser(tokens, length, jnp.full(B, t))
  logits = forbid_mask(prediction.token_logits.astype(jnp.float32), vocab)
  masked = tokens == vocab.mask

  rates = interpolant.unmasking.hazard(t) * jax.nn.softmax(logits)
  events = jax.random.poisson(token_key, rates * dt, dtype=jnp.int32)
  reveal = masked & (jnp.sum(events, axis=-1) == 1)
  drawn = jnp.argmax(events, axis=-1)
  at_the_end = jax.random.categorical(end_key, logits)
  drawn = jnp.where(last, at_the_end, drawn).astype(jnp.int32)
  tokens = jnp.where(reveal | (masked & last), drawn, tokens)

  index = jnp.arange(L + 1)
  expected = interpolant.insertion.hazard(t) * jnp.exp(prediction.log_gaps)
  inserted = jax.random.poisson(gap_key, expected * dt, dtype=jnp.int32)
  inserted = jnp.where(index <= length[:, None], inserted, 0)
  fits = length + jnp.sum(inserted, axis=1) <= L
  inserted = jnp.where(fits[:, None] & ~last, inserted, 0)
  slot = index[:-1] + jnp.cumsum(inserted, axis=1)[:, :-1]
  slot = jnp.where(index[:-1] < length[:, None], slot, L)
  length = length + jnp.sum(inserted, axis=1)
  new = jnp.where(index[:-1] < length[:, None], vocab.mask, vocab.pad)
  rows = jnp.arange(B)[:, None]
  new = new.astype(jnp.int32).at[rows, slot].set(tokens, mode="drop")
  return new, jnp.any(new == vocab.mask)


def sample(
  key: jax.Array,
  denoiser: Denoiser,
  tokens: jax.Array,
  interpolant: JointInterpolant,
  vocab: Vocab,
  steps: int,
) -> jax.Array:
  """Samples from the state `tokens` i32[B, L] on, in `steps` steps."""
  for i in range(steps):
    tokens, has_masks = _step(
      jax.random.fold_in(key, i),
      denoiser,
      tokens,
      i / steps,
      1 / steps,
      i == steps - 1,
      interpolant=interpolant,
      vocab=vocab,
    )
    bool(has_masks)  # the host looks, at every step
  return tokens
