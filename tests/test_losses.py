"""The bound's integrand: golden parity, values by hand, and its gradients."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flexmdm_jax as fm
from flexmdm_jax import losses, schedules
from flexmdm_jax.gap_laws import Categorical

LINEAR = fm.JointInterpolant(schedules.Linear(), schedules.Linear())
elbo_terms = jax.jit(fm.elbo_terms, static_argnums=3)

# Two of five tokens are there, a mask (truth 2) and a clean one; two are
# missing before the first, none between them, one at the end.
NOISED = fm.Noised(
  tokens=jnp.array([4, 1, 5, 5, 5]),
  length=jnp.int32(2),
  source=jnp.array([2, 3, 0, 0, 0]),
  target=jnp.array([2, 1, 5, 5, 5]),
  masked=jnp.array([True, False, False, False, False]),
  gaps=jnp.array([2, 0, 1, 0, 0, 0]),
  open_gaps=jnp.array([True, True, True, False, False, False]),
)
# With linear schedules, both hazards are 1 / (1 - t) = 4.
T = jnp.float32(0.75)


def prediction(token_logits=None, log_gaps=None, gap_logits=None):
  if token_logits is None:
    token_logits = jnp.zeros((5, 6))
  if log_gaps is None:
    log_gaps = jnp.zeros(6)
  return fm.Prediction(token_logits, log_gaps, gap_logits)


def test_golden(golden):
  arrays = golden("core_tiny/interpolant_and_loss.safetensors")
  B, L = arrays["xt"].shape
  interpolant = fm.JointInterpolant(schedules.Sine(), schedules.Linear())
  noised = fm.Noised(
    tokens=jnp.asarray(arrays["xt"], jnp.int32),
    length=jnp.asarray(arrays["xt_length"], jnp.int32),
    source=jnp.asarray(arrays["st"], jnp.int32),
    target=jnp.asarray(arrays["target"], jnp.int32),
    masked=jnp.asarray(arrays["masked"], bool),
    gaps=jnp.asarray(arrays["gaps"], jnp.int32),
    open_gaps=jnp.asarray(arrays["gap_valid"], bool),
  )
  predicted = fm.Prediction(
    jnp.asarray(arrays["token_logits"]),
    jnp.log(jnp.asarray(arrays["expected_gaps"])),
  )
  terms = jax.jit(
    jax.vmap(fm.elbo_terms, in_axes=(0, 0, 0, None)), static_argnums=3
  )(predicted, noised, jnp.asarray(arrays["t"]), interpolant)
  for ours, theirs in [
    (terms.unmask, arrays["unmask_loss"]),
    (terms.insert, arrays["insertion_loss"]),
  ]:
    np.testing.assert_allclose(ours.sum() / (B * L), theirs[0], rtol=1e-5)


def test_golden_weights_are_the_hazards(golden):
  arrays = golden("core_tiny/interpolant_and_loss.safetensors")
  for schedule, name in [
    (schedules.Linear(), "unmask_weight"),
    (schedules.Sine(), "insert_weight"),
  ]:
    weights = arrays[name]
    hazard = np.broadcast_to(
      schedule.hazard(arrays["t"])[:, None], weights.shape
    )
    np.testing.assert_allclose(hazard, weights, rtol=1e-5)


# --- phi. ---


def test_phi_by_hand():
  log_y = jnp.log(jnp.array([0.5, 3.0, 2.0]))
  x = jnp.array([0, 3, 1])
  # phi(0, y) = y; phi(x, x) = 0; phi(1, 2) = 2 - 1 - log 2.
  expected = [0.5, 0.0, 1 - math.log(2)]
  np.testing.assert_allclose(losses.phi(x, log_y), expected, atol=1e-6)


def test_phi_is_positive_off_the_diagonal():
  x, log_y = jnp.meshgrid(jnp.arange(6), jnp.linspace(-5.0, 5.0, 40))
  assert (losses.phi(x, log_y) > 0).all()


def test_phi_gradient_is_y_minus_x():
  x = jnp.array([0.0, 1.0, 5.0])
  y = jnp.array([0.3, 1.0, 2.0])
  gradient = jax.vmap(jax.grad(losses.phi, argnums=1))(x, jnp.log(y))
  np.testing.assert_allclose(gradient, y - x, atol=1e-6)


def test_phi_of_an_impossible_gap_is_0():
  value, gradient = jax.value_and_grad(losses.phi, argnums=1)(
    jnp.float32(0), jnp.float32(-jnp.inf)
  )
  assert value == 0 and gradient == 0


# --- The terms. ---


def test_terms_by_hand():
  # The truth 2 has probability 3/8, against 1/8 for each of five others.
  token_logits = jnp.zeros((5, 6)).at[0, 2].set(jnp.log(3.0))
  log_gaps = jnp.log(jnp.array([1.0, 0.5, 2.0, 9.0, 9.0, 9.0]))
  terms = elbo_terms(prediction(token_logits, log_gaps), NOISED, T, LINEAR)
  assert float(terms.unmask) == pytest.approx(4 * math.log(8 / 3))
  gaps = (1 - 2 + 2 * math.log(2)) + 0.5 + (2 - 1 - math.log(2))
  assert float(terms.insert) == pytest.approx(4 * gaps)


def test_each_term_has_its_own_hazard():
  interpolant = fm.JointInterpolant(schedules.Power(3.0), schedules.Power(2.0))
  terms = elbo_terms(prediction(), NOISED, T, interpolant)
  linear = elbo_terms(prediction(), NOISED, T, LINEAR)
  assert float(terms.insert) == pytest.approx(3 * float(linear.insert))
  assert float(terms.unmask) == pytest.approx(2 * float(linear.unmask))


def test_what_carries_no_loss_is_not_read():
  """Predictions for clean tokens, beyond the end, and for closed gaps."""
  expected = elbo_terms(prediction(), NOISED, T, LINEAR)
  poisoned = prediction(
    jnp.zeros((5, 6)).at[1:].set(jnp.nan), jnp.zeros(6).at[3:].set(jnp.nan)
  )
  assert elbo_terms(poisoned, NOISED, T, LINEAR) == expected


def test_gradients_are_finite_with_impossible_gaps_and_tokens():
  # -inf: the middle gap can miss nothing, and the mask is never the truth.
  log_gaps = jnp.zeros(6).at[1].set(-jnp.inf).at[3:].set(-jnp.inf)
  token_logits = jnp.zeros((5, 6)).at[:, 4].set(-jnp.inf)

  def loss(token_logits, log_gaps):
    terms = elbo_terms(prediction(token_logits, log_gaps), NOISED, T, LINEAR)
    return terms.unmask + terms.insert

  gradients = jax.grad(loss, argnums=(0, 1))(token_logits, log_gaps)
  for gradient in gradients:
    assert np.isfinite(gradient).all()
  # d/dlogits of cross-entropy is p - onehot; of phi in log y it is y - x.
  np.testing.assert_allclose(
    gradients[0][0], 4 * np.array([0.2, 0.2, -0.8, 0.2, 0, 0.2]), atol=1e-6
  )
  np.testing.assert_allclose(gradients[1], [-4, 0, 0, 0, 0, 0], atol=1e-6)


def test_mdm_has_no_insertion_term():
  log_gaps = jnp.full(6, -jnp.inf)
  noised = NOISED._replace(gaps=jnp.zeros(6, jnp.int32))
  interpolant = fm.MDM(schedules.Linear())
  terms = elbo_terms(prediction(None, log_gaps), noised, T, interpolant)
  assert terms.insert == 0
  assert float(terms.unmask) == pytest.approx(4 * math.log(6))


def law_nats(law, noised):
  unread = jnp.full(6, jnp.nan)
  return losses.gap_nats(unread, noised, gap_loss="law", law=law)


def test_gap_law_by_hand():
  # Counts 0, 1, 2 with probabilities 1/4, 1/4, 1/2; the counts are 2, 0, 1.
  logits = jnp.tile(jnp.log(jnp.array([1.0, 1.0, 2.0])), (6, 1))
  nats = law_nats(Categorical(logits), NOISED)
  assert float(nats) == pytest.approx(math.log(2) + 2 * math.log(4))


def test_gap_law_scores_what_it_cannot_count_as_its_last_count():
  noised = NOISED._replace(gaps=jnp.array([9, 0, 1, 0, 0, 0]))
  logits = jnp.tile(jnp.log(jnp.array([1.0, 3.0])), (6, 1))
  nats = law_nats(Categorical(logits), noised)
  assert float(nats) == pytest.approx(2 * math.log(4 / 3) + math.log(4))


def test_a_law_that_is_not_predicted_is_refused():
  with pytest.raises(fm.InputError, match="gap_loss='law' needs"):
    losses.unweighted_terms(prediction(), NOISED, gap_loss="law")


def test_damped_gaps_have_the_same_zero_and_a_bounded_gradient():
  gaps = jnp.array([0, 1, 3, 100, 7, 2])
  noised = NOISED._replace(gaps=gaps, open_gaps=jnp.ones(6, bool))

  def gradient(log_gaps):
    return jax.grad(lambda x: losses.gap_nats(x, noised, gap_loss="damped"))(
      log_gaps
    )

  truth = jnp.log(jnp.maximum(gaps.astype(jnp.float32), 1e-6))
  np.testing.assert_allclose(gradient(truth), 0.0, atol=1e-5)
  guess = jnp.log(jnp.array([1.0, 2.0, 30.0, 1.0, 7000.0, 0.5]))
  y = jnp.exp(guess)
  np.testing.assert_allclose(
    gradient(guess), (y - gaps.astype(jnp.float32)) / (1 + y), rtol=1e-5
  )
  # Twice a gap of 100 weighs as twice a gap of 1, within a factor of two.
  assert abs(gradient(truth + jnp.log(2.0))[3]) < 1


def test_losses_are_float32_for_bfloat16_predictions():
  half = jax.tree.map(
    lambda x: x.astype(jnp.bfloat16), prediction(gap_logits=jnp.zeros((6, 3)))
  )
  terms = elbo_terms(half, NOISED, T, LINEAR)
  assert terms.unmask.dtype == terms.insert.dtype == jnp.float32
  # Summed in float32: bfloat16 would round 4 log 6 at the third digit.
  assert float(terms.unmask) == pytest.approx(4 * math.log(6))
  term = law_nats(half.law, NOISED)
  assert term.dtype == jnp.float32
