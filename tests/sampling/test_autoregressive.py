"""The autoregressive model: what it samples is what it says is likely."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

import flexmdm_jax as fm
from flexmdm_jax.likelihood import next_token_nats
from flexmdm_jax.losses import next_token_losses
from flexmdm_jax.rows import Start
from flexmdm_jax.sampling.autoregressive import sample_autoregressive
from flexmdm_jax.sampling.loop import row_keys

VOCAB = fm.Vocab(size=4, mask=2, pad=3)
# The mask, which stands for the beginning, and up to two tokens.
L = 3


@pytest.fixture(scope="module")
def denoiser():
  model = fm.DiT(
    VOCAB,
    L,
    hidden_size=8,
    num_layers=1,
    num_heads=2,
    cond_size=4,
    gap_head=None,
    causal=True,
  )
  start = starts([[]])
  init = jax.jit(model.init)
  params = init(jax.random.key(0), start.tokens, start.length, jnp.zeros(1))[
    "params"
  ]
  # Heads and gates are zero at first; a law that is not uniform needs more.
  rng = np.random.default_rng(0)
  params = jax.tree.map(
    lambda x: x + jnp.asarray(rng.normal(0, 0.3, x.shape), jnp.float32), params
  )
  return fm.denoiser(model, params)


def starts(prompts):
  tokens = np.full((len(prompts), L), VOCAB.pad, np.int32)
  for row, prompt in zip(tokens, prompts, strict=True):
    row[: len(prompt) + 1] = [VOCAB.mask, *prompt]
  length = np.array([len(prompt) + 1 for prompt in prompts], np.int32)
  rows = np.arange(L) < length[:, None]
  closed = np.zeros((len(prompts), L + 1), bool)
  return Start(*map(jnp.asarray, (tokens, length, rows, closed)))


def log_probabilities(denoiser, sequences):
  start = starts(sequences)
  nats = next_token_nats(denoiser, start.tokens, start.length, VOCAB)
  return -nats.sum(axis=-1)


def test_next_token_losses_by_hand():
  # Uniform over three tokens: two tokens and their end cost log 3 each.
  logits = jnp.zeros((L, 4)).at[:, VOCAB.mask].set(-jnp.inf)
  losses = next_token_losses(logits, jnp.array([2, 0, 1]), jnp.int32(3), VOCAB)
  np.testing.assert_allclose(losses, [np.log(3)] * 3, rtol=1e-6)
  # Positions beyond the end are not read.
  logits = logits.at[1:].set(jnp.nan)
  losses = next_token_losses(logits, jnp.array([2, 3, 3]), jnp.int32(1), VOCAB)
  np.testing.assert_allclose(losses, [np.log(3), 0, 0], rtol=1e-6)


def test_later_tokens_change_no_earlier_logits(denoiser):
  tokens = jnp.array([[2, 0, 0], [2, 0, 1]])
  length = jnp.array([3, 3])
  a, b = denoiser(tokens, length, jnp.zeros(2)).token_logits
  np.testing.assert_allclose(a[:2], b[:2], rtol=1e-5)
  assert np.abs(a[2] - b[2]).max() > 1e-3


def test_samples_have_the_law_that_the_loss_says(denoiser):
  sequences = [s for n in range(L) for s in itertools.product((0, 1), repeat=n)]
  log_p = np.asarray(log_probabilities(denoiser, sequences), np.float64)
  p = np.exp(log_p)
  assert 0.2 < p.sum() < 1
  num = 4000
  start = starts([[]] * num)
  samples = sample_autoregressive(jax.random.key(2), denoiser, start, VOCAB)
  rows = [
    tuple(row[1:n])
    for row, n in zip(
      np.asarray(samples.tokens).tolist(),
      np.asarray(samples.length).tolist(),
      strict=True,
    )
  ]
  ended = [
    row
    for row, cut in zip(rows, np.asarray(samples.truncated), strict=True)
    if not cut
  ]
  counts = [ended.count(s) for s in sequences]
  assert sum(counts) == len(ended)
  cut = num - len(ended)
  observed, expected = np.array([*counts, cut]), np.array([*p, 1 - p.sum()])
  assert scipy.stats.chisquare(observed, num * expected).pvalue > 1e-3
  # Rows that would go on are full.
  assert {len(row) for row in set(rows) - set(ended)} <= {L - 1}


def test_prompts_and_batch_mates(denoiser):
  keys = row_keys(jax.random.key(3), 3)
  together = sample_autoregressive(
    keys, denoiser, starts([[0], [], [1, 1]]), VOCAB
  )
  assert together.tokens[0, :2].tolist() == [2, 0]
  assert together.tokens[2].tolist() == [2, 1, 1]
  alone = sample_autoregressive(keys[:1], denoiser, starts([[0]]), VOCAB)
  assert together.tokens[0].tolist() == alone.tokens[0].tolist()


def test_temperature_0_takes_the_mode(denoiser):
  start = starts([[]] * 20)
  samples = sample_autoregressive(
    jax.random.key(4), denoiser, start, VOCAB, temperature=0
  )
  assert len(np.unique(np.asarray(samples.tokens), axis=0)) == 1
