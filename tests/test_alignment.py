"""The posterior over embeddings against counting them one by one."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flexmdm_jax as fm
from flexmdm_jax import losses, schedules
from flexmdm_jax.alignment import align

VOCAB = fm.Vocab(size=6, mask=4, pad=5)
L = 4
LINEAR = fm.JointInterpolant(schedules.Linear(), schedules.Linear())

ABSENT, MASK, CLEAN, FROZEN = range(4)
# At t = 0.5 these times make a token absent, a mask, or clean.
INSERTION = jnp.array([1.0, 0.5, 0.0, 1.0])
UNMASKING = jnp.array([1.0, 1.0, 0.5, 1.0])


def cases(fates):
  """Every clean sequence over two tokens, with every fate of its tokens."""
  for n in range(L + 1):
    for tokens in itertools.product((0, 1), repeat=n):
      for fate in itertools.product(fates, repeat=n):
        yield tokens, fate


@functools.partial(jax.jit, static_argnames="room")
def align_all(tokens, length, fate, room=L):
  del room

  def one(tokens, length, fate):
    frozen = fate == FROZEN
    times = INSERTION[fate], UNMASKING[fate]
    noised = fm.noise(tokens, length, *times, jnp.float32(0.5), VOCAB, frozen)
    return noised, align(noised, tokens, length, frozen)

  return jax.vmap(one)(tokens, length, fate)


def embeddings(tokens, fate):
  """All ways in which the state of these fates sits in its sequence."""
  present = [j for j, f in enumerate(fate) if f != ABSENT]
  for source in itertools.combinations(range(len(tokens)), len(present)):
    pairs = list(zip(present, source, strict=True))
    if all(
      (j == k)
      if FROZEN in (fate[j], fate[k])
      else (fate[j] == MASK or tokens[j] == tokens[k])
      for j, k in pairs
    ) and all(k in source for k, f in enumerate(fate) if f == FROZEN):
      yield source


def by_counting(tokens, fate):
  posterior, gaps = np.zeros((L, L)), np.zeros(L + 1)
  found = list(embeddings(tokens, fate))
  for source in found:
    for i, j in enumerate(source):
      posterior[i, j] += 1 / len(found)
    ends = (-1, *source, len(tokens))
    for i, (a, b) in enumerate(itertools.pairwise(ends)):
      gaps[i] += (b - a - 1) / len(found)
  return posterior, gaps


@pytest.mark.parametrize(
  "fates",
  [(ABSENT, MASK, CLEAN), (ABSENT, MASK, CLEAN, FROZEN)],
  ids=["free", "frozen"],
)
def test_as_counted_one_by_one(fates):
  rows = list(cases(fates))
  tokens = np.full((len(rows), L), VOCAB.pad, np.int32)
  fate = np.zeros((len(rows), L), np.int32)
  for i, (row, its_fate) in enumerate(rows):
    tokens[i, : len(row)] = row
    fate[i, : len(row)] = its_fate
  length = np.array([len(row) for row, _ in rows], np.int32)
  _, alignment = align_all(tokens, length, fate)
  posterior, gaps = map(
    np.stack, zip(*[by_counting(*r) for r in rows], strict=True)
  )
  np.testing.assert_allclose(alignment.posterior, posterior, atol=2e-6)
  np.testing.assert_allclose(alignment.gaps, gaps, atol=5e-6)


def test_by_hand():
  # "0m" of "010": the clean 0 is the first one, since the mask follows it.
  fate = jnp.array([[CLEAN, MASK, ABSENT, ABSENT]])
  tokens = jnp.array([[0, 1, 0, VOCAB.pad]])
  _, alignment = align_all(tokens, jnp.array([3]), fate)
  np.testing.assert_allclose(
    alignment.posterior[0, :2], [[1, 0, 0, 0], [0, 0.5, 0.5, 0]], atol=1e-6
  )
  np.testing.assert_allclose(alignment.gaps[0], [0, 0.5, 0.5, 0, 0], atol=1e-6)


def test_expected_gradient_is_that_of_the_drawn_embedding():
  # Of all the ways to make one state of one sequence, the mean loss gradient.
  tokens = jnp.array([0, 1, 0, 1])
  length = jnp.int32(4)
  logits = jax.random.normal(jax.random.key(0), (L, VOCAB.size))
  log_gaps = jax.random.normal(jax.random.key(1), (L + 1,))
  t = jnp.float32(0.5)

  def gradient(noised, alignment):
    def loss(logits, log_gaps):
      prediction = fm.Prediction(logits, log_gaps)
      return sum(fm.elbo_terms(prediction, noised, t, LINEAR, alignment))

    return jax.grad(loss, argnums=(0, 1))(logits, log_gaps)

  ways = []
  for fate in itertools.product((ABSENT, MASK, CLEAN), repeat=L):
    noised, alignment = jax.tree.map(
      lambda x: x[0],
      align_all(tokens[None], length[None], jnp.array([fate])),
    )
    n = int(noised.length)
    if noised.tokens[:n].tolist() == [VOCAB.mask, 1]:
      ways.append((noised, alignment))
  assert len(ways) == 4
  means = jax.tree.map(
    lambda *x: jnp.mean(jnp.stack(x), axis=0),
    *[gradient(noised, None) for noised, _ in ways],
  )
  for noised, alignment in ways:
    jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5),
      gradient(noised, alignment),
      means,
    )


def test_token_entropy_counts_equal_tokens_once():
  alignment = fm.alignment.Alignment(
    tokens=jnp.array([0, 1, 0]),
    posterior=jnp.array([[0.25, 0.5, 0.25], [1, 0, 0], [0.5, 0, 0.5]]),
    gaps=jnp.zeros(4),
  )
  np.testing.assert_allclose(
    losses.token_entropy(alignment), [np.log(2), 0, 0], atol=1e-6
  )


def test_no_product_of_matrices_rounds_an_index():
  # Accelerators multiply matrices of float32 in fewer bits.
  arguments = jnp.zeros((1, L), jnp.int32), jnp.array([L])
  jaxpr = jax.make_jaxpr(align_all, static_argnums=3)(
    *arguments, jnp.zeros((1, L), jnp.int32), L
  )
  assert "dot_general" not in str(jaxpr)


def test_long_sequences_keep_their_digits():
  room, n = 512, 500
  rng = np.random.default_rng(0)
  tokens = np.minimum(rng.zipf(1.5, room), 4).astype(np.int32) - 1
  fate = rng.choice([ABSENT, MASK, CLEAN], size=room, p=[0.5, 0.2, 0.3])
  noised, alignment = jax.tree.map(
    lambda x: np.asarray(x[0]),
    align_all(
      tokens[None], jnp.array([n]), jnp.asarray(fate, jnp.int32)[None], room
    ),
  )
  m = int(noised.length)
  alike = noised.masked[:m, None] | (noised.target[:m, None] == tokens[:n])
  with np.errstate(divide="ignore"):
    may = np.log(alike)
  before = np.full((n + 1, m + 1), -np.inf)
  after = np.full((n + 1, m + 1), -np.inf)
  before[0, 0] = after[n, m] = 0.0
  for j in range(n):
    kept = np.append(-np.inf, before[j, :-1] + may[:, j])
    before[j + 1] = np.logaddexp(before[j], kept)
    k = n - 1 - j
    kept = np.append(after[k + 1, 1:] + may[:, k], -np.inf)
    after[k] = np.logaddexp(after[k + 1], kept)
  log_posterior = before[:-1, :-1].T + may + after[1:, 1:].T - before[n, m]
  posterior = np.exp(log_posterior)
  np.testing.assert_allclose(posterior.sum(axis=1), 1.0, rtol=1e-9)
  np.testing.assert_allclose(alignment.posterior[:m, :n], posterior, atol=5e-5)
  source = np.concatenate([[-1], posterior @ np.arange(n), [n]])
  np.testing.assert_allclose(
    alignment.gaps[: m + 1], np.diff(source) - 1, atol=2e-3
  )
