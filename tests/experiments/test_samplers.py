"""Samplers that a command line has, and configs that have less of them."""

import pytest

from experiments.common.samplers import parse_fields, parse_samplers
from experiments.configs import brackets_quickstart
from flexmdm_jax.errors import InputError
from flexmdm_jax.runs import Run
from flexmdm_jax.sampling import SamplerConfig


def test_fields_have_the_types_of_the_settings():
  text = "entropy_budget=0.2,group=2,confidence=None,insertions=poisson"
  assert parse_fields("sampler", text) == {
    "entropy_budget": 0.2,
    "group": 2,
    "confidence": None,
    "insertions": "poisson",
  }
  assert parse_fields("sampler", "") == {}
  # Neither a tuple's commas nor a number's sign part two fields.
  text = "grid=(0, 0.5, 1),entropy_budget=1e+3"
  assert parse_fields("sampler", text) == {
    "grid": (0, 0.5, 1),
    "entropy_budget": 1000.0,
  }


def test_samplers_are_settings():
  text = "tau_leaping+grid=events+finish=4"
  found = parse_samplers("methods", ["events", text])
  assert found == {
    "events": {"method": "events"},
    text: {"method": "tau_leaping", "grid": "events", "finish": 4},
  }
  for fields in found.values():
    assert SamplerConfig(steps=8, **fields).method == fields["method"]


@pytest.mark.parametrize(
  ("text", "says"),
  [
    ("budget=1", "'budget=1' must be NAME=VALUE"),
    ("group", "'group' must be NAME=VALUE"),
    ("steps=4", "'steps=4' must be NAME=VALUE"),
    ("group=1,group=2", "group twice"),
    ("group=1.5", "group=1.5 must be an integer"),
    ("group=True", "group=True must be an integer"),
    ("entropy_budget=much", "entropy_budget='much' must be a number or None"),
  ],
)
def test_wrong_fields_are_named(text, says):
  with pytest.raises(InputError, match=says) as error:
    parse_fields("sampler", text)
  assert str(error.value).startswith(f"--sampler={text}")


def test_no_samplers():
  with pytest.raises(InputError, match="--methods is empty"):
    parse_samplers("methods", [])


def test_a_config_of_before_these_settings_still_opens():
  config = brackets_quickstart.get_config().to_dict()
  new = Run.from_config(config).sampler
  # What config.json of an earlier version has.
  config["sampler"] = {
    "steps": 128,
    "method": "tau_leaping",
    "confidence": "margin",
    "window_scale": None,
    "max_window": None,
    "temperature": 1.0,
    "top_p": 1.0,
    "time_exponent": 1.0,
  }
  old = Run.from_config(config).sampler
  assert old == SamplerConfig(128, method="tau_leaping", confidence="margin")
  assert (old.grid, old.group, old.corrections) == (new.grid, 1, 0)
  config["sampler"] = {"steps": 4}
  assert Run.from_config(config).sampler == SamplerConfig(4)
