"""Sampling left to right: the yardstick that the diffusion models are held to.

The same trunk, made causal, gives exact likelihoods. It has no cache of keys
and values: a sample of n tokens costs n calls on whole rows.
"""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key

from flexmdm_jax.prediction import Denoiser, forbid_mask
from flexmdm_jax.rows import Start
from flexmdm_jax.sampling.draws import draw_tokens
from flexmdm_jax.sampling.loop import Samples, row_keys
from flexmdm_jax.vocab import Vocab


@functools.partial(jax.jit, static_argnames=("vocab", "temperature", "top_p"))
def sample_autoregressive(
  key: Key[Array, "*B"],
  denoiser: Denoiser,
  start: Start,
  vocab: Vocab,
  temperature: float = 1.0,
  top_p: float = 1.0,
) -> Samples:
  """Continues every row until it ends, or is full.

  Args:
    key: one key, or one for each row; a row's sample depends on its own key
      (with one key: on the key and the row's index) and its own start alone.
    denoiser: a causal model; its logits at a position are of the next token,
      the pad's of the end.
    start: rows of the mask, which stands for the beginning, and a prompt.
    vocab: the id space.
    temperature: of the tokens; 0 takes the most probable one.
    top_p: nucleus of the tokens.

  Returns:
    `Samples` that begin as `start` does; `truncated` are rows that would
    go on, but are full.
  """
  B, L = start.tokens.shape
  keys = row_keys(key, B) if key.ndim == 0 else key
  # A position draws from bits of its own, wherever its row started. The one
  # beyond the row only tells whether a full row has ended.
  keys = jax.vmap(lambda k: jax.random.split(k, L + 1), out_axes=1)(keys)
  first = jnp.min(start.length)

  def next_token(state):
    at, tokens, length, ended = state
    logits = denoiser(tokens, length, jnp.zeros(B)).token_logits[:, at - 1]
    logits = forbid_mask(logits.astype(jnp.float32), vocab)
    drawn = draw_tokens(keys[at], logits, temperature, top_p).token
    grows = ~ended & (length == at)
    ended = ended | (grows & (drawn == vocab.pad))
    grows = grows & ~ended & (at < L)
    column = jnp.where(grows, drawn, tokens[:, at])
    tokens = tokens.at[:, at].set(column, mode="drop")
    return at + 1, tokens, length + grows.astype(jnp.int32), ended

  def unfinished(state):
    at, _, _, ended = state
    return (at <= L) & ~jnp.all(ended)

  state = (first, start.tokens, start.length, jnp.zeros(B, bool))
  _, tokens, length, ended = jax.lax.while_loop(unfinished, next_token, state)
  # One call told each new token, and one the end.
  calls = length - start.length + ended.astype(jnp.int32)
  given = jnp.arange(L) < start.length[:, None]
  return Samples(tokens, length, ~ended, calls, given)
