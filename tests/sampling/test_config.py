"""The sampler's settings: what is refused by name, and what is planned."""

import re

import numpy as np
import pytest

import flexmdm_jax as fm
from flexmdm_jax.schedules import Linear

PATH = fm.JointInterpolant(Linear(), Linear())


@pytest.mark.parametrize(
  ("field", "value", "others"),
  [
    ("steps", 0, {}),
    ("steps", 2.0, {}),
    ("steps", True, {}),
    ("steps", 1, dict(method="midpoint")),
    ("method", "magic", {}),
    ("method", None, {}),
    ("confidence", "magic", {}),
    ("confidence", "spread", dict(method="adaptive")),
    ("insertions", "magic", {}),
    ("insertions", "published", dict(method="events")),
    ("insertions", "published", dict(method="midpoint")),
    ("insertions", "published", dict(method="tau_leaping", finish=1)),
    ("window_scale", 0.5, dict(method="adaptive")),
    ("window_scale", 2.0, dict(method="euler")),
    ("max_window", 0, dict(method="adaptive")),
    ("max_window", 3, dict(method="tau_leaping")),
    ("temperature", -0.1, {}),
    ("temperature", float("inf"), {}),
    ("temperature", float("nan"), {}),
    ("top_p", 0.0, {}),
    ("top_p", 1.1, {}),
    ("time_exponent", 0.0, {}),
    ("grid", "magic", {}),
    ("grid", (0.0, 0.5, 0.25, 0.75, 1.0), {}),
    ("grid", (0.0, 0.5, 0.5, 0.75, 1.0), {}),
    ("grid", (0.1, 0.3, 0.5, 0.75, 1.0), {}),
    ("grid", (0.0, 0.3, 0.5, 0.75, 0.9), {}),
    ("grid", (0.0, 0.5, 1.0), {}),
    ("grid", (0.0, 0.3, 0.5, 0.75, 1.0), dict(method="midpoint")),
    ("grid", (), {}),
    ("group", 0, {}),
    ("group", 1.5, {}),
    ("group", 2, dict(method="tau_leaping")),
    ("entropy_budget", 0.0, {}),
    ("entropy_budget", -1.0, {}),
    ("entropy_budget", float("nan"), {}),
    ("entropy_budget", 1.0, dict(method="midpoint")),
    ("insert_budget", 0, {}),
    ("insert_budget", 3, dict(method="adaptive")),
    ("finish", -1, dict(method="tau_leaping")),
    ("finish", 4, dict(method="tau_leaping")),
    ("finish", 1.0, dict(method="tau_leaping")),
    ("finish", 1, dict(method="events")),
    ("finish", 1, dict(method="midpoint")),
    ("corrections", -1, {}),
    ("corrections", 1.0, {}),
    ("corrections", 4, {}),
    ("corrections", 2, dict(correction_calls=2)),
    ("corrections", 1, dict(correction_calls=1, method="midpoint")),
    ("corrections", 1, dict(finish=2, method="tau_leaping")),
    ("correction_time", 0.0, {}),
    ("correction_time", 1.0, {}),
    ("correction_calls", 0, {}),
    ("correction_calls", 1.0, {}),
    ("buckets", (0,), {}),
    ("buckets", (3, 2), {}),
    ("buckets", (2, 2), {}),
    ("buckets", (1.5,), {}),
  ],
)
def test_wrong_setting_is_named(field, value, others):
  settings = {"steps": 4} | others | {field: value}
  with pytest.raises(fm.InputError, match=rf"sampler\.{field}=") as error:
    fm.SamplerConfig(**settings)
  assert len(str(error.value).splitlines()) == 1


def test_wrong_number_of_times_says_how_many():
  with pytest.raises(fm.InputError, match=re.escape("must have 3 times")):
    fm.SamplerConfig(4, "midpoint", grid=(0.0, 1.0))


def test_settings_are_hashable():
  config = fm.SamplerConfig(2, grid=[0, 0.25, 1], buckets=[3, 5])
  assert config.grid == (0.0, 0.25, 1.0)
  assert config.buckets == (3, 5)
  assert hash(config) == hash(fm.SamplerConfig(**vars(config)))


def test_plan_by_hand():
  plan = fm.SamplerConfig(4).plan(PATH)
  np.testing.assert_allclose(plan.end, [0.25, 0.5, 0.75, 1.0])
  np.testing.assert_array_equal(plan.left, [4, 3, 2, 1])
  np.testing.assert_array_equal(plan.back_to, [1, 1, 1, 1])
  assert not plan.goes_back


def test_plan_of_two_calls_a_step():
  plan = fm.SamplerConfig(5, "midpoint").plan(PATH)
  np.testing.assert_allclose(plan.end, [0.5, 1.0])
  np.testing.assert_array_equal(plan.left, [2, 1])


def test_plan_with_a_finish():
  plan = fm.SamplerConfig(4, "tau_leaping", finish=2).plan(PATH)
  np.testing.assert_allclose(plan.end, [0.5, 1.0, 1.0, 1.0])
  np.testing.assert_array_equal(plan.left, [4, 3, 2, 1])


def test_plan_with_corrections():
  config = fm.SamplerConfig(7, corrections=2, correction_time=0.6)
  plan = config.plan(PATH)
  np.testing.assert_allclose(
    plan.end, [1 / 3, 2 / 3, 1, 0.8, 1, 0.8, 1], rtol=1e-6
  )
  np.testing.assert_array_equal(plan.left, [3, 2, 1, 2, 1, 2, 1])
  np.testing.assert_allclose(plan.back_to, [1, 1, 1, 0.6, 1, 0.6, 1])
  assert plan.goes_back
  each = fm.SamplerConfig(7, corrections=2, correction_calls=1).plan(PATH)
  np.testing.assert_array_equal(each.left, [5, 4, 3, 2, 1, 1, 1])


def test_plan_of_own_times():
  config = fm.SamplerConfig(4, corrections=1, grid=(0.0, 0.8, 1.0))
  np.testing.assert_allclose(config.plan(PATH).end, [0.8, 1.0, 0.9, 1.0])
