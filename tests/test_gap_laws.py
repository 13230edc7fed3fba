"""Laws of missing tokens: against exact sums, and their draws against them."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

import flexmdm_jax as fm
from flexmdm_jax import gap_laws
from flexmdm_jax.gap_laws import Binned, Categorical, NegativeBinomial
from tests.stats import chi_square

NUM = 20_000
FEW = (0.2, 0.1, 0.0, 0.3, 0.4)
EDGES = gap_laws.bin_edges(300)
# Two short counts, a bin of 20 or so, and a bin of a hundred or more.
BINS = np.zeros(len(EDGES) - 1)
BINS[[0, 3, 17, -2, -1]] = 0.2, 0.1, 0.3, 0.25, 0.15


def negative_binomial(mean, shape):
  # Arrays of one type in all tests, which then share what is compiled.
  return NegativeBinomial(*(jnp.log(jnp.float32(x)) for x in (mean, shape)))


def exact_nb(mean, shape, size):
  return scipy.stats.nbinom(shape, shape / (shape + mean)).pmf(np.arange(size))


# A law with the exact probabilities of its counts, up to a negligible rest.
LAWS = {
  "categorical": (Categorical(jnp.log(jnp.array(FEW))), np.array(FEW)),
  "binned": (
    Binned(jnp.log(jnp.array(BINS, jnp.float32)), EDGES),
    np.repeat(BINS / np.diff(EDGES), np.diff(EDGES)),
  ),
  "nb_broad": (negative_binomial(2.0, 0.3), exact_nb(2.0, 0.3, 400)),
  "nb_like_poisson": (negative_binomial(30.0, 500.0), exact_nb(30, 500, 200)),
}
all_laws = pytest.mark.parametrize("name", LAWS)


def log_prob(law, counts):
  """One law's log-probabilities of many counts."""
  return jax.jit(jax.vmap(law.log_prob))(jnp.asarray(counts, jnp.int32))


@all_laws
def test_log_prob_is_that_of_the_law(name):
  law, p = LAWS[name]
  ours = np.exp(np.asarray(log_prob(law, np.arange(len(p))), np.float64))
  np.testing.assert_allclose(ours, p, rtol=3e-4, atol=1e-9)
  assert ours.sum() == pytest.approx(1, abs=1e-4)
  # Not under jit.
  assert float(law.log_prob(jnp.int32(0))) == pytest.approx(np.log(p[0]))


@all_laws
def test_moments(name):
  law, p = LAWS[name]
  n = np.arange(len(p))
  assert float(jnp.exp(law.log_mean())) == pytest.approx(p @ n, rel=1e-5)
  variance = p @ n**2 - (p @ n) ** 2
  assert float(law.variance()) == pytest.approx(variance, rel=1e-4)


@all_laws
def test_the_mean_score_is_zero(name):
  law, p = LAWS[name]
  if name == "categorical":
    # At a logit of -inf no count is possible.
    law, p = Categorical(jnp.zeros(4)), np.full(4, 0.25)
  grad = jax.jit(jax.vmap(jax.grad(lambda law, n: law.log_prob(n)), (None, 0)))
  for x in jax.tree.leaves(grad(law, jnp.arange(len(p)))):
    assert np.isfinite(x).all() and np.abs(x).max() > 0.1
    np.testing.assert_allclose(p @ np.asarray(x, np.float64), 0, atol=1e-4)


def test_gradients_by_hand():
  @jax.jit
  @jax.grad
  def gradient(law, n):
    return law.log_prob(n)

  by_bin = gradient(LAWS["binned"][0], 18).logits
  onehot = np.arange(len(BINS)) == 16
  np.testing.assert_allclose(by_bin, onehot - BINS, atol=1e-6)
  # d/dlog mu = (n - mu) r / (r + mu), which at n = mu is 0.
  of_mean = gradient(negative_binomial(4.0, 2.0), 10).log_mu
  assert float(of_mean) == pytest.approx((10 - 4) * 2 / (2 + 4), rel=1e-5)
  of_mean = gradient(negative_binomial(1000.0, 50.0), 1000).log_mu
  assert abs(of_mean) < 1e-3


def test_negative_binomial_at_the_extremes_of_float32():
  n, mean, shape = (
    x.ravel()
    for x in np.meshgrid(
      [0, 1, 7, 300, 10_000],
      [1e-6, 1e-2, 3.0, 1e4],
      [1e-4, 1.0, 50.0, 3000.0],
      indexing="ij",
    )
  )
  law = negative_binomial(jnp.float32(mean), jnp.float32(shape))
  # By summation: SciPy's own difference of log-gammas loses digits.
  ways = [
    np.sum(np.log(r + np.arange(k)) - np.log(1 + np.arange(k)))
    for k, r in zip(n, shape, strict=True)
  ]
  exact = ways - shape * np.log1p(mean / shape) - n * np.log1p(shape / mean)

  @jax.jit
  def both(law, n):
    value, pull = jax.vjp(lambda law: law.log_prob(n), law)
    return value, *pull(jnp.ones_like(value))

  ours, slope = both(law, jnp.asarray(n, jnp.int32))
  np.testing.assert_allclose(ours, exact, rtol=1e-5, atol=2e-3)
  for x in jax.tree.leaves(slope):
    assert np.isfinite(x).all()
  np.testing.assert_allclose(
    slope.log_mu, (n - mean) * shape / (shape + mean), rtol=1e-4, atol=1e-3
  )


def test_counts_beyond_the_largest_are_scored_as_that_one():
  for name, most in (("categorical", 4), ("binned", 300)):
    first, *others = log_prob(LAWS[name][0], [most, most + 1, 1000])
    assert first == others[0] == others[1] > -10


def test_no_missing_token_has_a_log_mean_of_minus_infinity():
  empty = jnp.array([0.0, -jnp.inf, -jnp.inf])
  for law in (Categorical(empty), Binned(empty, (0, 1, 4, 9))):
    mean, gradient = jax.jit(jax.value_and_grad(type(law).log_mean))(law)
    assert mean == -jnp.inf
    np.testing.assert_array_equal(gradient.logits, 0)
  assert np.isnan(Categorical(empty.at[0].set(jnp.nan)).log_mean())


def test_laws_are_float32_for_bfloat16_logits():
  half = [
    Categorical(jnp.zeros(3, jnp.bfloat16)),
    Binned(jnp.zeros(2, jnp.bfloat16), (0, 1, 3)),
    NegativeBinomial(*jnp.zeros(2, jnp.bfloat16)),
  ]
  for law in half:
    log_prob = functools.partial(law.log_prob, jnp.array(1))
    for f in (law.log_mean, law.variance, log_prob):
      assert jax.eval_shape(f).dtype == jnp.float32


def test_a_batch_is_its_rows():
  logits = jax.random.normal(jax.random.key(0), (2, 3, len(BINS)))
  count = jnp.array([[0, 1, 8], [89, 400, 3]])
  laws = (
    Categorical(logits),
    Binned(logits, EDGES),
    NegativeBinomial(logits[..., 0], logits[..., 1]),
  )

  @jax.jit
  def numbers(laws, count):
    return [
      (law.log_prob(count), law.log_mean(), law.variance()) for law in laws
    ]

  whole = numbers(laws, count)
  assert whole[0][0].shape == (2, 3)
  rows = jax.vmap(numbers)(laws, count)
  jax.tree.map(
    functools.partial(np.testing.assert_allclose, rtol=1e-5), rows, whole
  )


# --- Thinning. ---


@jax.jit
def thin(key, law, probability):
  """The draws of one row, whose gaps have the laws `law`."""
  return law.thin(key, probability)


def repeat(law, num=NUM):
  return jax.tree.map(lambda x: jnp.broadcast_to(x, (num, *x.shape)), law)


def thinned(p, probability):
  """Probabilities of the numbers that are kept, by enumeration."""
  n = np.arange(len(p))
  return p @ scipy.stats.binom(n[:, None], probability).pmf(n)


@all_laws
def test_thinned_draws_have_the_thinned_law(name):
  law, p = LAWS[name]
  # At the last, the binomial numbers of long bins are drawn by rejection.
  for i, probability in enumerate((1.0, 0.3, 0.85)):
    draws = thin(jax.random.key(i), repeat(law), jnp.float32(probability))
    assert draws.dtype == jnp.int32 and draws.min() >= 0
    assert chi_square(draws, thinned(p, probability)) > 1e-3
  assert not thin(jax.random.key(3), repeat(law), jnp.float32(0.0)).any()


@pytest.mark.parametrize("name", ["categorical", "binned"])
def test_a_sure_count_is_kept_whole_or_not_at_all(name):
  law = LAWS[name][0]
  for count in (0, 4):
    logits = jnp.where(jnp.arange(len(law.logits)) == count, 0.0, -jnp.inf)
    logits = logits.astype(jnp.float32)
    sure = repeat(dataclasses.replace(law, logits=logits))
    for probability, expected in ((1.0, count), (0.0, 0), (-0.0, 0)):
      drawn = thin(jax.random.key(4), sure, jnp.float32(probability))
      np.testing.assert_array_equal(drawn, expected)


@pytest.mark.parametrize(
  ("mean", "shape", "expected"),
  [
    (1e4, 3000.0, 1e4),
    (1e4, 3e7, 1e4),
    (1e-6, 1.0, 0.0),
    (1.0, 1e-9, 0.0),
    # Where no row has room any more.
    (3e6, 1e6, 1e6),
  ],
)
def test_extreme_negative_binomials_can_be_drawn(mean, shape, expected):
  law = repeat(negative_binomial(mean, shape))
  drawn = np.asarray(thin(jax.random.key(0), law, jnp.float32(1.0)), np.float64)
  error = np.sqrt((expected + expected**2 / shape) / NUM)
  assert abs(drawn.mean() - expected) <= 5 * error + (expected == 0) * 1e-3


@pytest.mark.parametrize("name", ["categorical", "binned", "nb_broad"])
def test_no_draw_depends_on_the_padding(name):
  whole = jax.tree.map(
    lambda x: 3 * jax.random.normal(jax.random.key(0), x.shape),
    repeat(LAWS[name][0]),
  )
  key, probability = jax.random.key(2), jnp.float32(0.4)
  row = jax.tree.map(lambda x: x[:30], whole)
  alone = thin(key, row, probability)
  assert len(np.unique(alone)) > 3
  np.testing.assert_array_equal(thin(key, whole, probability)[:30], alone)
  # What a network gives there may be no number.
  poisoned = jax.tree.map(lambda x: x.at[30:].set(jnp.nan), whole)
  np.testing.assert_array_equal(thin(key, poisoned, probability)[:30], alone)


# --- Bins. ---


def test_edges_by_hand():
  assert gap_laws.bin_edges(0) == (0, 1)
  assert gap_laws.bin_edges(3) == (0, 1, 2, 3, 4)
  assert gap_laws.bin_edges(15) == tuple(range(17))
  assert gap_laws.bin_edges(16)[15:] == (15, 16, 17)
  # 40 to 44 would be less than half of a bin of 8; 40 to 45 would not.
  assert gap_laws.bin_edges(42)[16:] == (16, 20, 24, 28, 32, 43)
  assert gap_laws.bin_edges(43)[16:] == (16, 20, 24, 28, 32, 40, 44)
  long = gap_laws.bin_edges(1024)
  assert len(long) == 41 and long[-4:] == (640, 768, 896, 1025)


def test_bins_of_short_sequences_are_the_counts():
  logits = jax.random.normal(jax.random.key(0), (16,))
  ours = log_prob(Binned(logits, gap_laws.bin_edges(15)), np.arange(18))
  expected = log_prob(Categorical(logits), np.arange(18))
  np.testing.assert_array_equal(ours, expected)


@pytest.mark.parametrize("edges", [(), (0,), (1, 2), (0, 2, 2), (0, 3, 1)])
def test_bad_edges_are_named(edges):
  with pytest.raises(fm.InputError, match=r"edges=\("):
    Binned(jnp.zeros(2), edges)


def test_bad_sizes_are_named():
  with pytest.raises(fm.InputError, match="max_length=-1"):
    gap_laws.bin_edges(-1)
  with pytest.raises(fm.InputError, match="logits of 3 bins"):
    Binned(jnp.zeros(3), (0, 1, 2)).log_mean()
