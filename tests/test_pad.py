"""A pad may be an ordinary token too: the length decides, never its value."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flexmdm_jax as fm
from flexmdm_jax import schedules


@pytest.mark.parametrize("kind", ["tight", "paper"])
def test_a_pad_inside_a_text_is_a_token_like_any_other(kind):
  # LLaDA's pad is its end of text: relabelled as a token that is no pad, the
  # same text has the same bound.
  vocab = fm.Vocab(6, mask=4, pad=5)
  interpolant = fm.JointInterpolant(schedules.Linear(), schedules.Linear())

  def denoiser(tokens, length, t):
    B, L = tokens.shape
    logits = jnp.where(tokens == 0, 1.0, 0.0)[..., None] * jnp.arange(6.0)
    logits = logits.at[..., 5].set(logits[..., 3])
    return fm.Prediction(logits, jnp.zeros((B, L + 1)))

  def bound(word):
    row = [0, word, 1, word, word] + [5] * 3
    return fm.log_likelihood_bound(
      jax.random.key(0),
      denoiser,
      jnp.array([row] * 4),
      jnp.array([5, 4, 2, 1]),
      interpolant,
      vocab,
      num_times=32,
      kind=kind,
    )

  np.testing.assert_allclose(bound(5), bound(3), rtol=1e-6)


def test_a_sampled_pad_ends_nothing():
  vocab = fm.Vocab(6, mask=4, pad=5)
  interpolant = fm.JointInterpolant(schedules.Linear(), schedules.Linear())

  def samples(word):
    def denoiser(tokens, length, t):
      B, L = tokens.shape
      logits = jnp.full((B, L, 6), -jnp.inf).at[..., word].set(0.0)
      return fm.Prediction(logits, jnp.zeros((B, L + 1)))

    return fm.sample(
      jax.random.key(0),
      denoiser,
      fm.prompt_start([[0, word]] * 4, 16, vocab),
      interpolant,
      vocab,
      fm.SamplerConfig(steps=16),
    )

  pads, others = samples(5), samples(3)
  np.testing.assert_array_equal(pads.length, others.length)
  assert pads.length.max() > 2
  inside = np.arange(16) < np.asarray(pads.length)[:, None]
  relabelled = np.where(np.asarray(pads.tokens) == 5, 3, pads.tokens)
  np.testing.assert_array_equal(
    np.where(inside, relabelled, 0), np.where(inside, others.tokens, 0)
  )
