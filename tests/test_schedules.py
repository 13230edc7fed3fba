"""Every schedule: identities, both ends, sampling laws, and golden numbers."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import flexmdm_jax as fm
from flexmdm_jax import schedules

SCHEDULES = [
  schedules.Linear(),
  schedules.Sine(),
  schedules.Cosine(),
  schedules.Polynomial(2.0),
  schedules.Polynomial(0.5),
  schedules.Power(1.7),
  schedules.Power(2.89),
  schedules.Power(0.5),
  schedules.Geometric(10.0, 0.01),
]
T = jnp.linspace(0.02, 0.98, 25)
# With both ends; of the same shape, so that nothing compiles twice.
GRID = jnp.linspace(0.0, 1.0, 25)
# The last float32 before 1.
LAST = 1 - 2.0**-24


def ends(function):
  return np.asarray(function(GRID))[[0, -1]]


every_schedule = pytest.mark.parametrize("schedule", SCHEDULES, ids=str)


def assert_close(actual, expected, rtol=1e-5, atol=1e-6):
  np.testing.assert_allclose(actual, expected, rtol=rtol, atol=atol)


@every_schedule
def test_runs_from_0_to_1(schedule):
  assert_close(ends(schedule.alpha), [0, 1], atol=1e-7)
  assert_close(ends(schedule.survival), [1, 0], atol=1e-7)
  assert_close(ends(schedule.inverse), [0, 1], atol=1e-7)
  assert_close(ends(schedule.inverse_survival), [1, 0], atol=1e-7)


@every_schedule
def test_derivative_is_the_gradient_of_alpha(schedule):
  gradient = jax.vmap(jax.grad(schedule.alpha))(T)
  # The gradient of expm1 adds 1 again, which costs it digits near t = 1.
  assert_close(schedule.derivative(T), gradient, atol=5e-6)
  assert (gradient > 0).all()


@every_schedule
def test_jit_changes_nothing(schedule):
  def everything(t):
    return {
      "alpha": schedule.alpha(t),
      "survival": schedule.survival(t),
      "derivative": schedule.derivative(t),
      "hazard": schedule.hazard(t),
      "inverse": schedule.inverse(t),
      "inverse_survival": schedule.inverse_survival(t),
      "jump": schedule.jump(t / 2, t),
      "integrated_hazard": schedule.integrated_hazard(t / 2, t),
    }

  jax.tree.map(assert_close, jax.jit(everything)(GRID), everything(GRID))


@every_schedule
def test_survival_is_one_minus_alpha(schedule):
  assert_close(schedule.survival(T) + schedule.alpha(T), 1.0)


@every_schedule
def test_inverses_round_trip(schedule):
  assert_close(schedule.alpha(schedule.inverse(GRID)), GRID)
  assert_close(schedule.survival(schedule.inverse_survival(GRID)), GRID)


@every_schedule
def test_hazard_is_derivative_over_survival(schedule):
  # Nearer to 1, 1 - alpha has few digits; that is why `survival` exists.
  t = 0.9 * GRID
  expected = schedule.derivative(t) / (1 - schedule.alpha(t))
  assert_close(schedule.hazard(t), expected, rtol=1e-4)


@pytest.mark.parametrize(
  ("schedule", "order"),
  [
    (schedules.Linear(), 1),
    (schedules.Sine(), 2),
    (schedules.Cosine(), 1),
    (schedules.Polynomial(2.0), 1),
    (schedules.Polynomial(0.5), 1),
    (schedules.Power(1.7), 1.7),
    (schedules.Power(2.89), 2.89),
    (schedules.Power(0.5), 0.5),
    (schedules.Geometric(10.0, 0.01), 1),
    (schedules.Geometric(100.0, 0.01), 1),
  ],
  ids=str,
)
def test_hazard_near_1_is_the_order_of_the_zero_over_the_time_left(
  schedule, order
):
  # Survival ~ c (1-t)^m gives hazard m / (1-t), down to the last float.
  for left in (2.0**-16, 2.0**-20, 2.0**-24):
    assert float(schedule.hazard(1 - left)) * left == pytest.approx(
      order, rel=1e-4
    )


@every_schedule
def test_finite_at_both_ends(schedule):
  for function in (schedule.derivative, schedule.hazard):
    assert np.isfinite(ends(function)).all()
    assert (ends(function) >= 0).all()
  assert np.isfinite(schedule.integrated_hazard(0 * GRID, GRID)).all()


@every_schedule
def test_gradients_are_finite_up_to_the_last_float(schedule):
  t = jnp.minimum(T + 0.02, LAST)
  for function in (schedule.alpha, schedule.survival, schedule.hazard):
    assert np.isfinite(jax.vmap(jax.grad(function))(t)).all()


@every_schedule
def test_jump_is_the_truncated_law(schedule):
  for share in (0.0, 0.5, 0.9, 1.0):
    s, u = share * 0.9 * GRID, 0.9 * GRID
    jump = np.asarray(schedule.jump(s, u))
    assert (jump >= 0).all() and (jump <= 1).all()
    alpha_s, alpha_u = schedule.alpha(s), schedule.alpha(u)
    expected = (alpha_u - alpha_s) / (1 - alpha_s)
    assert_close(jump, expected, rtol=1e-4)
    survived = np.exp(-schedule.integrated_hazard(s, u))
    assert_close(jump, 1 - survived)


@every_schedule
def test_jump_to_1_is_certain(schedule):
  assert (schedule.jump(GRID, jnp.ones(25)) == 1.0).all()


@every_schedule
def test_jumps_compose(schedule):
  s, m, u = 0.2 * GRID, 0.5 * GRID, 0.9 * GRID
  stays = (1 - schedule.jump(s, m)) * (1 - schedule.jump(m, u))
  assert_close(1 - schedule.jump(s, u), stays)


# --- Sampling. P-values of fixed draws; the keys are arbitrary. ---

N = 20_000


def uniform_p_value(quantiles):
  return stats.kstest(np.asarray(quantiles, np.float64), "uniform").pvalue


@every_schedule
def test_sample_has_the_law_alpha(schedule):
  times = schedule.sample(jax.random.key(1), (N,))
  assert times.shape == (N,) and times.dtype == jnp.float32
  assert (times >= 0).all() and (times <= 1).all()
  assert uniform_p_value(schedule.alpha(times)) > 1e-3


@every_schedule
def test_sample_after_has_the_truncated_law(schedule):
  s = jnp.tile(jnp.array([0.0, 0.3, 0.6, 0.9]), N // 4)
  times = schedule.sample_after(jax.random.key(2), s)
  assert (times >= s).all() and (times <= 1).all()
  assert uniform_p_value(schedule.jump(s, times)) > 1e-3


@every_schedule
def test_the_raw_time_formula_fails_the_same_test(schedule):
  """Inverting s + U (1 - s) is right for the linear schedule alone."""
  s = jnp.full(N, 0.6)
  u = jax.random.uniform(jax.random.key(3), (N,))
  wrong = schedule.inverse(s + u * (1 - s))
  p_value = uniform_p_value(schedule.jump(s, jnp.maximum(wrong, s)))
  if schedule == schedules.Linear():
    assert p_value > 1e-3
  else:
    assert p_value < 1e-6


def test_sample_after_1_is_1():
  for schedule in SCHEDULES:
    times = schedule.sample_after(jax.random.key(4), jnp.ones(N))
    assert (times == 1.0).all(), schedule


# --- Single schedules. ---


def test_values_by_hand():
  third = jnp.float32(1 / 3)
  assert_close(schedules.Linear().alpha(third), 1 / 3)
  assert_close(schedules.Sine().alpha(third), 0.5)  # sin 30 degrees
  assert_close(schedules.Cosine().alpha(2 * third), 0.5)  # 1 - cos 60 degrees
  assert_close(schedules.Polynomial(2.0).alpha(third), 1 / 9)
  assert_close(schedules.Power(2.0).alpha(third), 1 - 4 / 9)
  # Half way, 4^(1/2) * 0.25^(1/2) = 1.
  first, middle, last = np.exp([-4.0, -1.0, -0.25])
  assert_close(
    schedules.Geometric(4.0, 0.25).alpha(0.5), (middle - first) / (last - first)
  )


@pytest.mark.parametrize("low", [10.0, 100.0, 1000.0])
def test_geometric_is_renormalised(low):
  schedule = schedules.Geometric(low, 0.01)
  assert ends(schedule.alpha).tolist() == [0.0, 1.0]
  assert ends(schedule.survival).tolist() == [1.0, 0.0]
  assert np.isfinite(ends(schedule.hazard)).all()
  assert_close(schedule.alpha(schedule.inverse(T)), T, atol=1e-5)


def test_steep_schedules_keep_both_ends():
  for exponent in (0.1, 10.0):
    for cls in (schedules.Polynomial, schedules.Power):
      schedule = cls(exponent)
      assert ends(schedule.alpha).tolist() == [0.0, 1.0]
      assert ends(schedule.survival).tolist() == [1.0, 0.0]
      assert ends(schedule.inverse).tolist() == [0.0, 1.0]
      assert np.isfinite(ends(schedule.hazard)).all()


def test_immediate_happens_at_0():
  schedule = schedules.Immediate()
  t = jnp.array([0.0, 0.5, 1.0])
  assert (schedule.alpha(t) == 1).all()
  assert (schedule.hazard(t) == 0).all()
  assert (schedule.integrated_hazard(0.0, t) == 0).all()
  assert (schedule.sample(jax.random.key(0), (3,)) == 0).all()


# --- Parity with the public PyTorch code. ---


@pytest.mark.parametrize(
  ("name", "schedule"),
  [
    ("linear", schedules.Linear()),
    ("sin", schedules.Sine()),
    ("cosine", schedules.Cosine()),
    ("polynomial_2", schedules.Polynomial(2.0)),
    ("polynomial_0.5", schedules.Polynomial(0.5)),
  ],
)
def test_golden(golden, name, schedule):
  expected = golden("core_tiny/schedules.safetensors")
  t = expected["t"]
  alpha = expected[f"{name}.alpha"]
  assert_close(schedule.alpha(t), alpha, rtol=1e-4)
  assert_close(schedule.derivative(t), expected[f"{name}.alpha_dot"], rtol=1e-4)
  assert_close(schedule.hazard(t), expected[f"{name}.hazard"], rtol=1e-4)
  assert_close(
    schedule.inverse(alpha), expected[f"{name}.inverse_of_alpha"], rtol=1e-4
  )


def test_golden_geometric_up_to_the_affine_map(golden):
  expected = golden("core_tiny/schedules.safetensors")
  schedule = schedules.Geometric(10.0, 0.01)
  t, name = expected["t"], "geometric_10_0.01"
  first, last = np.exp(np.float32([-10.0, -0.01]))
  alpha = (expected[f"{name}.alpha"] - first) / (last - first)
  slope = expected[f"{name}.alpha_dot"]
  assert_close(schedule.alpha(t), alpha, rtol=1e-4)
  assert_close(schedule.derivative(t), slope / (last - first), rtol=1e-4)
  hazard = slope / (last - expected[f"{name}.alpha"])
  assert_close(schedule.hazard(t), hazard, rtol=1e-4)
  # Theirs never reaches 1, so that its hazard is too small near the end.
  assert (expected[f"{name}.hazard"] < hazard).all()
  assert_close(schedule.inverse(alpha), t, rtol=1e-4)


# --- Configurations. ---


@pytest.mark.parametrize(
  "schedule", [*SCHEDULES, schedules.Immediate()], ids=str
)
def test_config_round_trip(schedule):
  config = json.loads(json.dumps(schedules.to_config(schedule)))
  assert schedules.from_config(config) == schedule


@pytest.mark.parametrize(
  ("config", "named"),
  [
    ({"name": "sin"}, "'sin'"),
    ({}, "None"),
    ({"name": "power"}, "exponent"),
    ({"name": "linear", "exponent": 2.0}, "exponent"),
    ({"name": "polynomial", "power": 2.0}, "power"),
    ({"name": "power", "exponent": "two"}, "Power.exponent='two'"),
  ],
)
def test_config_errors(config, named):
  with pytest.raises(fm.InputError, match=named):
    schedules.from_config(config)


@pytest.mark.parametrize("value", [0.0, -1.0, float("inf"), float("nan")])
def test_exponents_are_positive_and_finite(value):
  for cls in (schedules.Polynomial, schedules.Power):
    with pytest.raises(fm.InputError, match=f"{cls.__name__}.exponent"):
      cls(value)


@pytest.mark.parametrize(
  ("low", "high"), [(1.0, 1.0), (0.01, 10.0), (1.0, 0.0), (-1.0, -2.0)]
)
def test_geometric_must_increase(low, high):
  with pytest.raises(fm.InputError, match="Geometric"):
    schedules.Geometric(low, high)


def test_is_frozen_and_hashable():
  assert len({schedules.Power(1.7), schedules.Power(1.7)}) == 1
  with pytest.raises(dataclasses.FrozenInstanceError):
    schedules.Power(1.7).exponent = 2.0


HALF = schedules.Window(schedules.Power(2.0), 0.25, 0.75)


def test_window_plays_its_schedule_between_two_times():
  inner = schedules.Power(2.0)
  t = jnp.array([0.25, 0.3, 0.5, 0.7])
  clock = 2 * (t - 0.25)
  assert_close(HALF.alpha(t), inner.alpha(clock))
  assert_close(HALF.survival(t), inner.survival(clock))
  assert_close(HALF.derivative(t), 2 * inner.derivative(clock))
  assert_close(HALF.hazard(t), 2 * inner.hazard(clock), rtol=1e-4)
  assert_close(HALF.inverse(HALF.alpha(t)), t)
  assert_close(HALF.inverse_survival(HALF.survival(t)), t)
  assert_close(HALF.jump(0.3, t[2:]), inner.jump(0.1, clock[2:]))
  times = HALF.sample(jax.random.key(0), (2000,))
  p_value = stats.kstest(np.asarray(times), lambda x: HALF.alpha(x)).pvalue
  assert p_value > 1e-3
  assert 0.25 <= times.min() <= times.max() <= 0.75


def test_nothing_happens_outside_a_window():
  outside = jnp.array([0.0, 0.2, 0.8, 1.0])
  assert_close(HALF.alpha(outside), [0, 0, 1, 1])
  assert_close(HALF.hazard(outside), 0.0)
  assert_close(HALF.derivative(outside), 0.0)
  # All is done at the end; past it nothing is left, though the last step's
  # jump is 1 as every schedule's.
  assert_close(HALF.jump(0.5, 0.75), 1.0)
  assert_close(HALF.jump(0.75, 0.9), 0.0)
  assert_close(HALF.jump(0.75, 1.0), 1.0)
  assert_close(HALF.jump(0.0, 0.25), 0.0)


def test_windows_tell_their_ends():
  assert HALF.breaks == (0.25, 0.75)
  assert schedules.Window(schedules.Linear(), 0.0, 0.5).breaks == (0.5,)
  assert schedules.Window(HALF, 0.0, 0.5).breaks == (0.125, 0.375, 0.5)
  assert schedules.Linear().breaks == ()


def test_window_survives_json():
  config = json.loads(json.dumps(schedules.to_config(HALF)))
  assert schedules.from_config(config) == HALF


@pytest.mark.parametrize(
  "ends", [(0.5, 0.5), (-0.1, 0.5), (1.0, 0.5), ("0", 1)]
)
def test_bad_windows_are_refused(ends):
  with pytest.raises(fm.InputError, match=r"Window\.begin"):
    schedules.Window(schedules.Linear(), *ends)


@pytest.mark.parametrize(
  ("text", "schedule"),
  [
    ("linear", schedules.Linear()),
    ("power:1.7", schedules.Power(1.7)),
    ("geometric:10:0.01", schedules.Geometric(10.0, 0.01)),
    ("power:2@0.25-0.75", HALF),
  ],
)
def test_schedules_are_parsed(text, schedule):
  assert schedules.parse(text) == schedule
