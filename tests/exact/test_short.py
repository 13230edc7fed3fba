"""A law that lists its sequences: its face, and what it refuses.

`tests/test_exactness.py` checks the denoiser by the forward equation.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flexmdm_jax as fm
from flexmdm_jax.errors import InputError
from flexmdm_jax.exact import KnownLaw, ShortLaw, short, token_shares
from flexmdm_jax.schedules import Linear
from tests import stats
from tests.laws import VOCAB

LAW = ShortLaw({(): 0.25, (0,): 0.25, (0, 1): 0.5}, VOCAB, 2)


def predict(law, states, alpha, **options):
  denoiser = law.denoiser(Linear(), gap_law=True, **options)
  t = jnp.full(len(states), alpha, jnp.float32)
  return jax.jit(denoiser)(*law.pack(states), t)


def test_posterior_by_hand():
  # At alpha = 3/4 a token is absent with probability 1/4. A lone mask is "0"
  # with weight .25, "01" without its first or second token with .5 / 4 each.
  states = [(), (VOCAB.mask,), (0,)]
  prediction = predict(LAW, states, 0.75)
  p = jax.nn.softmax(prediction.token_logits)[1, 0]
  np.testing.assert_allclose(p[:2], [0.75, 0.25], rtol=1e-6)
  gaps = jax.nn.softmax(prediction.gap_logits)
  np.testing.assert_allclose(gaps[1, 0], [0.75, 0.25, 0], rtol=1e-6)
  np.testing.assert_allclose(gaps[1, 1], [0.75, 0.25, 0], rtol=1e-6)
  # "" with .25, "0" with .25 / 4, "01" with .5 / 16.
  np.testing.assert_allclose(gaps[0, 0], np.array([8, 2, 1]) / 11, rtol=1e-6)
  np.testing.assert_allclose(
    np.exp(prediction.log_gaps[0, 0]), 4 / 11, rtol=1e-6
  )
  # "0" with .25, "01" with .5 / 4: two to one.
  np.testing.assert_allclose(gaps[2, 1], [2 / 3, 1 / 3, 0], rtol=1e-6)


def test_one_time_changes_nothing():
  states = LAW.states
  assert jax.tree.all(
    jax.tree.map(
      lambda a, b: np.allclose(a, b, rtol=1e-6),
      predict(LAW, states, 0.3),
      predict(LAW, states, 0.3, one_time=True),
    )
  )


def test_impossible_states_get_free_tokens_and_nothing_missing():
  prediction = predict(LAW, [(1, VOCAB.mask)], 0.5)
  p = jax.nn.softmax(prediction.token_logits)[0, 1]
  np.testing.assert_allclose(p, [0.5, 0.5, 0, 0, 0])
  assert (prediction.log_gaps == -jnp.inf).all()


def test_the_face():
  assert isinstance(LAW, KnownLaw)
  nats = [np.log(4), np.log(4), np.log(2), np.inf]
  sequences = [[], [0], np.array([0, 1]), [1, 0]]
  np.testing.assert_allclose(-LAW.log_prob(sequences), nats)
  assert LAW.entropy() == (pytest.approx(1.5 * np.log(2)), 0.0)
  assert LAW.mean_length() == pytest.approx(1.25)
  np.testing.assert_allclose(LAW.length_law(), [0.25, 0.25, 0.5])
  assert LAW.counts(sequences).tolist() == [1, 1, 1, 1]
  assert LAW.total_variation(sequences) == pytest.approx(0.25)
  draws = LAW.draw(5000, 0)
  assert draws[0].dtype == np.int32
  assert stats.chi_square([len(x) for x in draws], LAW.length_law()) > 1e-3
  assert set(map(tuple, draws)) == {(), (0,), (0, 1)}


def test_floor_is_that_of_perfect_samples():
  distances = [LAW.total_variation(LAW.draw(300, i)) for i in range(200)]
  error = np.std(distances) / np.sqrt(200)
  # The normal law of the counts is itself 1 % off.
  floor = LAW.total_variation_floor(300)
  assert abs(np.mean(distances) - floor) < 4 * error + 0.01 * floor


def test_sequences_are_digits_or_ids_and_may_be_frozen():
  frozen = ShortLaw({("01", (0,)): 0.5, ((0,), (0,)): 0.5}, VOCAB, 2)
  assert frozen.outcomes == {(0, 1): 0.5, (0,): 0.5}
  assert [item.frozen for item in frozen.items] == [(True, False), (True,)]


@pytest.mark.parametrize(
  ("probabilities", "max_length", "says"),
  [
    ({"0": 0.5, "1": 0.4}, 2, "must sum to 1"),
    ({}, 2, "must sum to 1"),
    ({"0": 1.5, "1": -0.5}, 2, "at least 0, got -0.5"),
    ({"011": 1.0}, 2, "has 3 tokens: max_length=2"),
    ({(7,): 1.0}, 2, r"ids in \[0, 5\)"),
    ({(VOCAB.mask,): 1.0}, 2, "without the mask 3"),
    ({"ab": 1.0}, 2, "string of digits"),
    ({("0", (1,)): 1.0}, 2, "indices below 1"),
    ({("0", (0,)): 0.5, ("1", (0,)): 0.5}, 2, "must be the same"),
    ({"0": 1.0}, 12, "too large"),
  ],
)
def test_bad_laws_are_refused(probabilities, max_length, says):
  with pytest.raises(fm.InputError, match=says):
    ShortLaw(probabilities, VOCAB, max_length)


def test_large_tables_are_refused(monkeypatch):
  # 1,024 rows of 3 numbers of absent tokens, each with 2 positions of 5 ids.
  monkeypatch.setattr(short, "_MAX_ENTRIES", 1024 * 3 * 2 * 5 - 1)
  with pytest.raises(fm.InputError, match="30720 entries for 8 states"):
    LAW.denoiser(Linear())


def test_rows_of_another_width_are_refused():
  with pytest.raises(fm.InputError, match="max_length=2"):
    LAW.denoiser(Linear())(
      jnp.zeros((1, 3), jnp.int32), jnp.array([1]), jnp.array([0.5])
    )


def test_shares_of_a_token_by_hand():
  # With alpha = beta = t: clean is the integral of (t - u) / (1 - u) over u.
  t = 0.6
  shares = token_shares(fm.JointInterpolant(Linear(), Linear()), t)
  clean = t + (1 - t) * np.log(1 - t)
  np.testing.assert_allclose(shares, [1 - t, t - clean, clean], atol=1e-6)
  np.testing.assert_allclose(
    token_shares(fm.MDM(Linear()), t), [0, 1 - t, t], atol=1e-6
  )


def test_generator_by_hand():
  # At alpha = 3/4 a token is absent with probability 1/4; hazards are 4.
  path = fm.JointInterpolant(Linear(), Linear())
  q = LAW.generator(path, 0.75)
  np.testing.assert_allclose(q.sum(axis=1), 0, atol=1e-12)
  row = q[LAW.index[(VOCAB.mask,)]]
  np.testing.assert_allclose(row[LAW.index[(0,)]], 4 * 0.75, rtol=1e-6)
  np.testing.assert_allclose(row[LAW.index[(1,)]], 4 * 0.25, rtol=1e-6)
  # Of either gap beside the mask: 1/4 of a missing token each.
  double = LAW.index[(VOCAB.mask, VOCAB.mask)]
  np.testing.assert_allclose(row[double], 4 * 0.5, rtol=1e-6)
  assert not q[LAW.index[(0, 1)]].any()  # nothing is left to do
  with pytest.raises(InputError, match="t=1"):
    LAW.generator(path, 1.0)
  frozen = ShortLaw({("01", (0,)): 1.0}, VOCAB, 2)
  with pytest.raises(InputError, match="frozen"):
    frozen.generator(path, 0.5)
