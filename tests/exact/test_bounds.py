"""The bounds of a perfect model: the tight one is the entropy."""

import pytest

import flexmdm_jax as fm
from flexmdm_jax.exact.bounds import bounds
from flexmdm_jax.schedules import Linear, Power
from tests import laws

LINEAR = fm.JointInterpolant(Linear(), Linear())
POWER = fm.JointInterpolant(Power(1.7), Power(2.89))


def test_bounds_of_the_law_of_the_pages():
  found = bounds(laws.PAPER, LINEAR)
  assert found["paper"] == pytest.approx(2.7403, abs=1e-3)
  assert found["aligned"] == pytest.approx(1.9361, abs=1e-3)
  assert found["tight"] == pytest.approx(laws.PAPER.entropy()[0], abs=1e-3)


def test_the_tight_bound_is_the_entropy_on_any_schedules():
  found = bounds(laws.THREE, POWER)
  assert found["tight"] == pytest.approx(laws.THREE.entropy()[0], abs=1e-3)
  assert found["tight"] < found["aligned"] < found["paper"]
