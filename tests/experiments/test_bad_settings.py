"""Settings that no run can have end in one line, before any work."""

import contextlib
import math

import jaxtyping
import pytest

from experiments.benchmarks.inputs import BAD, settings_of, with_setting
from experiments.configs import (
  llada_8b_retrofit,
  markov,
  maze_quickstart,
  openwebtext_175m,
)
from flexmdm_jax.dryrun.report import ShapesOnly
from flexmdm_jax.errors import InputError
from flexmdm_jax.runs import Run
from flexmdm_jax.vocab import Vocab

NAN = math.nan
# What was once taken, or ended in a traceback.
TABLE = [
  *(
    (f"model.{size}", value, f"model.{size}={value}")
    for size in ("hidden_size", "num_heads", "num_layers", "cond_size")
    for value in (0, -1)
  ),
  ("model.mlp_ratio", 0, "model.mlp_ratio=0"),
  ("model.hidden_size", 97, "multiple of"),
  ("model.num_layers", 10**9, "at most 10,000"),
  ("model.time_scale", NAN, "finite"),
  ("model.dtype", "int8", "model.dtype='int8'"),
  ("train.accumulation", 0, "train.accumulation=0"),
  ("train.batch_size", 10**11, "at most 1,000,000,000"),
  ("train.batch_size", 32.5, "an integer"),
  ("train.seed", 2**64, "train.seed=18446744073709551616"),
  ("train.seed", -1, "at least 0"),
  ("train.ema_decay", 1.0, "below 1"),
  ("train.time_exponent", 0.0, "train.time_exponent=0.0"),
  ("train.time_exponent", -1.0, "at least 0.01"),
  ("train.time_exponent", NAN, "finite"),
  ("train.states", 3, "train.states=3 must be settings by name"),
  ("optimizer.b1", 2.0, "optimizer.b1=2.0"),
  ("optimizer.b1", NAN, "finite"),
  ("optimizer.weight_decay", -1.0, "optimizer.weight_decay=-1.0"),
  ("optimizer.weight_decay", NAN, "finite"),
  ("optimizer.clip_norm", NAN, "finite"),
  ("optimizer.final_ratio", NAN, "finite"),
  ("optimizer.warmup_steps", 10**6, "below the"),
  ("insertion.exponent", 1e-30, "Power.exponent=1e-30"),
  ("insertion.exponent", "x", "a number"),
  ("insertion", "power", "settings by name"),
  ("data.size", 8, "must be odd"),
  ("data.max_length", "abc", "an integer"),
  ("sampler.temperature", 1e38, "at most 10,000"),
  ("sampler.top_p", 1e-38, "sampler.top_p=1e-38"),
  ("sampler.steps", 10**30, "at most 1,000,000"),
  ("sampler.grid", [0.0, NAN], "finite"),
  ("mesh.data", 0.5, "mesh.data=0.5"),
  ("method", None, "method=None"),
]


@pytest.mark.parametrize(("name", "value", "says"), TABLE)
def test_is_named_in_one_line(name, value, says):
  config = maze_quickstart.get_config()
  with pytest.raises(InputError) as error:
    Run.from_config(with_setting(config.to_dict(), name, value))
  assert says in str(error.value)
  assert "\n" not in str(error.value)


@pytest.fixture
def text_config(tmp_path):
  """A config of a text, whose files are there."""
  (tmp_path / "train.jsonl").write_text('{"text": "one two"}\n' * 9)
  config = openwebtext_175m.get_config()
  config.data.update(
    folder=str(tmp_path), train=str(tmp_path / "train.jsonl"), tokenizer="char"
  )
  return config


@pytest.mark.slow
def test_no_value_of_a_retrofit_is_a_defect():
  config = llada_8b_retrofit.get_config().to_dict()
  task = ShapesOnly(Vocab(**config["model"]["vocab"]), 1024)
  for setting in settings_of({"model": config["model"]}):
    for value in BAD:
      with contextlib.suppress(InputError, jaxtyping.TypeCheckError):
        Run.from_config(with_setting(config, setting, value), task)


@pytest.mark.parametrize(
  "name",
  [
    "maze",
    pytest.param("markov", marks=pytest.mark.slow),
    pytest.param("text", marks=pytest.mark.slow),
  ],
)
def test_no_value_of_any_setting_is_a_defect(
  name, text_config, tmp_path, monkeypatch
):
  """Every setting in turn has every bad value: none ends in a traceback."""
  monkeypatch.chdir(tmp_path)  # where a relative folder is made
  configs = {
    "maze": maze_quickstart.get_config(),
    "markov": markov.get_config(),
    "text": text_config,
  }
  config = configs[name].to_dict()
  names = settings_of(config)
  refused = 0
  for setting in names:
    for value in BAD:
      try:
        Run.from_config(with_setting(config, setting, value))
      except InputError as error:
        assert "\n" not in str(error), (setting, value)
        refused += 1
      except jaxtyping.TypeCheckError:
        refused += 1  # the tests' own hook, of networks' annotations
  assert refused > len(names) * len(BAD) / 2
