"""Jump rates by hand, and what must have none."""

import math

import jax
import jax.numpy as jnp
import numpy as np

import flexmdm_jax as fm
from flexmdm_jax import schedules
from flexmdm_jax.prediction import (
  as_pytree,
  features_or_prediction,
  forbid_mask,
  ignores_padding,
  insert_rates,
)

VOCAB = fm.Vocab(size=4, mask=2, pad=3)
# Hazards at t = 0.5: 2 x 2 for insertion, 3 x 2 for unmasking.
INTERPOLANT = fm.JointInterpolant(schedules.Power(2.0), schedules.Power(3.0))
T = jnp.float32(0.5)
# A token, a mask, and two positions beyond the end that hold the mask's id.
TOKENS = jnp.array([1, 2, 2, 2])
LENGTH = jnp.int32(2)


def predict():
  # Without the mask id, token 0 is twice as likely as 1 or 3.
  logits = jnp.log(jnp.array([2.0, 1.0, 100.0, 1.0]))
  log_gaps = jnp.log(jnp.array([0.5, 0.0, 3.0, 7.0, 7.0]))
  return fm.Prediction(jnp.tile(logits, (4, 1)), log_gaps)


def test_rates_by_hand():
  rates = fm.rates(predict(), TOKENS, LENGTH, T, INTERPOLANT, VOCAB)
  expected = np.zeros((4, 4))
  expected[1] = [3, 1.5, 0, 1.5]
  np.testing.assert_allclose(rates.unmask, expected, rtol=1e-6)
  np.testing.assert_allclose(rates.insert, [2, 0, 12, 0, 0], rtol=1e-6)


def test_a_mask_leaves_at_the_hazard():
  rates = fm.rates(predict(), TOKENS, LENGTH, T, INTERPOLANT, VOCAB)
  np.testing.assert_allclose(rates.unmask.sum(axis=1), [0, 6, 0, 0], rtol=1e-6)


def test_predictions_without_a_rate_are_not_read():
  expected = fm.rates(predict(), TOKENS, LENGTH, T, INTERPOLANT, VOCAB)
  clean = predict()
  poisoned = fm.Prediction(
    clean.token_logits.at[jnp.array([0, 2, 3])].set(jnp.nan),
    clean.log_gaps.at[3:].set(jnp.nan),
  )
  actual = fm.rates(poisoned, TOKENS, LENGTH, T, INTERPOLANT, VOCAB)
  jax.tree.map(np.testing.assert_array_equal, actual, expected)


def test_mdm_inserts_nothing():
  interpolant = fm.MDM(schedules.Linear())
  rates = fm.rates(predict(), TOKENS, LENGTH, T, interpolant, VOCAB)
  assert (rates.insert == 0).all()


def test_forbid_mask_conditions_on_another_token():
  law = jax.nn.softmax(forbid_mask(predict().token_logits, VOCAB)[0])
  np.testing.assert_allclose(law, [0.5, 0.25, 0, 0.25], rtol=1e-6)
  uniform = jax.nn.softmax(forbid_mask(jnp.zeros((2, 4)), VOCAB))
  assert float(uniform[1, 0]) == math.fsum([uniform[1, 1]])


def test_insert_rates_are_those_of_the_rates():
  rates = fm.rates(predict(), TOKENS, LENGTH, T, INTERPOLANT, VOCAB)
  ours = insert_rates(predict().log_gaps, T, INTERPOLANT)
  np.testing.assert_array_equal(ours[: int(LENGTH) + 1], rates.insert[:3])


class Capable:
  """A denoiser with all that one may have."""

  ignores_padding = True

  def __call__(self, tokens, length, t):
    return predict()

  def features(self, tokens, length, t):
    return predict()


def test_what_a_denoiser_can_do_beyond_predicting():
  def plain(tokens, length, t):
    return predict()

  capable = Capable()
  assert features_or_prediction(capable) == capable.features
  assert features_or_prediction(plain) is plain
  assert ignores_padding(capable) and not ignores_padding(plain)


def test_a_plain_function_becomes_a_pytree():
  wrapped = as_pytree(lambda tokens, length, t: predict())
  assert not jax.tree.leaves(wrapped)
  assert wrapped(TOKENS, LENGTH, T).token_logits.shape == (4, 4)
  partly = jax.tree_util.Partial(lambda x, *_: x, T)
  assert as_pytree(partly) is partly
