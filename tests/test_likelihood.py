"""The bound's estimate against numerical integration, for a hand denoiser."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate

import flexmdm_jax as fm
from flexmdm_jax import schedules

VOCAB = fm.Vocab(size=6, mask=4, pad=5)
LINEAR = fm.JointInterpolant(schedules.Linear(), schedules.Linear())
L = 5
# The denoiser expects this share of a token in every gap, times 1 - t.
SHARE = 0.7


def denoiser(tokens, length, t):
  """All tokens equally likely, the mask's own id too; gaps shrink with time."""
  B, L = tokens.shape
  log_gaps = jnp.log(SHARE * (1 - t))[:, None]
  return fm.Prediction(
    jnp.zeros((B, L, VOCAB.size)), jnp.broadcast_to(log_gaps, (B, L + 1))
  )


def expected_bound(n):
  """The bound of `n` tokens.

  The time left is r = 1 - t, the hazards are 1 / r. A token is absent with
  probability r, a mask with probability -r log r. Summed over gaps of counts
  x, phi(x, y) = y - x + x log x - x log y; a run of exactly x absent tokens
  begins at a given place with a probability that depends on the two ends.
  """

  def integrand(r):
    unmask = n * -np.log(r) * np.log(VOCAB.size - 1)
    log_y = np.log(SHARE * r)
    present = 1 - r
    entropy = 0.0
    for x in range(2, n + 1):
      if x == n:
        runs = r**n
      else:
        runs = r**x * (2 * present + (n - x - 1) * present**2)
      entropy += runs * x * np.log(x)
    insert = (
      (n * present + 1) * SHARE * r - n * r + entropy - n * r * log_y
    ) / r
    return unmask + insert

  return integrate.quad(integrand, 0, 1)[0]


def test_mean_is_the_integral():
  rows = 4096
  lengths = [0, 1, 4, 5]
  tokens = jnp.zeros((len(lengths) * rows, L), jnp.int32)
  estimates = fm.log_likelihood_bound(
    jax.random.key(0),
    denoiser,
    tokens,
    jnp.repeat(jnp.array(lengths), rows),
    LINEAR,
    VOCAB,
    num_times=16,
    kind="paper",
  )
  for n, values in zip(lengths, estimates.reshape(-1, rows), strict=True):
    values = np.asarray(values, np.float64)
    error = values.std() / np.sqrt(rows)
    assert error < 0.01 * expected_bound(n)
    assert abs(values.mean() - expected_bound(n)) < 4 * error + 1e-5, n


def test_expected_bound_by_hand():
  # The empty sequence pays for the insertions expected of it.
  assert expected_bound(0) == pytest.approx(SHARE)
  # -log r integrates to 1. One token pays log 5 to be unmasked, and to be
  # inserted the integrals of SHARE (2 - r), of -1 and of -log(SHARE r).
  one = np.log(5) + SHARE * 1.5 - 1 - np.log(SHARE) + 1
  assert expected_bound(1) == pytest.approx(one)


@pytest.mark.parametrize(
  ("arguments", "named"),
  [({"num_times": 0}, "num_times=0"), ({"kind": "loose"}, "kind='loose'")],
)
def test_errors(arguments, named):
  with pytest.raises(fm.InputError, match=named):
    fm.log_likelihood_bound(
      jax.random.key(0),
      denoiser,
      jnp.zeros((1, L), jnp.int32),
      jnp.zeros(1, jnp.int32),
      LINEAR,
      VOCAB,
      **{"num_times": 1, "kind": "paper", **arguments},
    )
