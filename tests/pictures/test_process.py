import numpy as np
import pytest

from flexmdm_jax.errors import InputError
from flexmdm_jax.pictures import process
from tests.pictures.test_figures import assert_picture, has_colour

BLUE = "#0072b2"


def test_hitting_times(tmp_path):
  path = tmp_path / "new" / "times.png"
  process.plot_hitting_times(path, "ab", [0.2, 0.5], [0.4, 0.9], [0.0, 0.6])
  assert_picture(path, 7.2, 2.22)
  assert has_colour(path, BLUE)
  with pytest.raises(InputError, match="at least one token"):
    process.plot_hitting_times(path, "", [], [])
  with pytest.raises(InputError, match="two times a token"):
    process.plot_hitting_times(path, "ab", [0.2], [0.4])


def test_token_shares(tmp_path):
  path = tmp_path / "shares.png"
  times = np.linspace(0, 1, 5)
  shares = np.stack([1 - times, times / 2, times / 2], axis=-1)
  process.plot_token_shares(path, times, {"linear": shares, "other": shares})
  assert_picture(path, 7.2, 3.0)
  with pytest.raises(InputError, match="at least one pair"):
    process.plot_token_shares(path, times, {})
  with pytest.raises(InputError, match=r"'a' have the shape \(5, 2\)"):
    process.plot_token_shares(path, times, {"a": shares[:, :2]})


def test_law_over_time(tmp_path):
  path = tmp_path / "law.png"
  times = np.linspace(0, 1, 5)
  process.plot_law_over_time(path, times, {"m": {"a": times, "b": 1 - times}})
  assert_picture(path, 3.6, 3.0)
  with pytest.raises(InputError, match="at least one line"):
    process.plot_law_over_time(path, times, {"m": {}})


def test_generator(tmp_path):
  path = tmp_path / "generator.png"
  rates = np.array([[-2.0, 2.0], [0.0, 0.0]])
  process.plot_generator(path, ["", "a"], rates)
  assert_picture(path, 4.8, 4.0)
  process.plot_generator(path, ["", "a"], np.zeros((2, 2)))  # no move at all
  with pytest.raises(InputError, match=r"give \[2, 2\]"):
    process.plot_generator(path, ["", "a"], rates[:1])
  with pytest.raises(InputError, match="at least one state"):
    process.plot_generator(path, [], np.zeros((0, 0)))


def test_parts(tmp_path):
  path = tmp_path / "parts.png"
  bars = {"paper": {"x": 1.0, "y": 2.0}, "tight": {"x": 0.5, "y": 1.0}}
  process.plot_parts(path, bars, "nats", ("entropy", 1.2))
  assert_picture(path, 7.2, 2.4)
  process.plot_parts(path, {"a": {"x": 1.0}}, "nats")
  with pytest.raises(InputError, match="at least one bar"):
    process.plot_parts(path, {}, "nats")
  with pytest.raises(InputError, match="the same one to 3 parts"):
    process.plot_parts(path, {"a": {"x": 1.0}, "b": {"y": 1.0}}, "nats")


def test_weak_scaling(tmp_path):
  path = tmp_path / "scaling.png"
  rows = [
    dict(devices=n, tokens_per_second=1e5 * n**0.9, efficiency=n**-0.1)
    for n in (1, 2, 4)
  ]
  process.plot_weak_scaling(path, {"h100": rows})
  assert_picture(path, 9, 3.6)
  with pytest.raises(InputError, match="at least one row"):
    process.plot_weak_scaling(path, {"h100": []})
