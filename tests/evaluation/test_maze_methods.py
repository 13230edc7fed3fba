"""Methods on one maze: trained, scored, drawn, and put into the table."""

import json

import jax
import numpy as np
import pytest

from experiments.configs import maze_quickstart
from flexmdm_jax.errors import InputError
from flexmdm_jax.evaluation import maze_table
from flexmdm_jax.evaluation.evaluation import evaluate
from flexmdm_jax.evaluation.likelihood import HeldOutLikelihood
from flexmdm_jax.evaluation.maze import MazePlanning
from flexmdm_jax.evaluation.maze_methods import draw, train_and_score
from tests.evaluation.tiny import tiny


@pytest.fixture(scope="module")
def methods(tmp_path_factory):
  folder = tmp_path_factory.mktemp("comparison")
  config = tiny(maze_quickstart, folder)
  return {
    name: train_and_score(
      config, method, folder / method, num=5, sampling_steps=(1, 2)
    )
    for name, method in (("FlexMDM", "flexmdm"), ("MDM", "mdm_pinned"))
  }


@pytest.mark.slow
def test_methods_are_scored_on_the_same_problems(methods):
  flex, mdm = methods["FlexMDM"], methods["MDM"]
  for a, b in zip(flex.records, mdm.records, strict=True):
    np.testing.assert_array_equal(a["tokens"], b["tokens"])
  for method in methods.values():
    summary = method.summary()
    json.dumps(summary)
    assert 0 <= summary["success"] <= 1
    assert summary["steps"] == 2
    assert summary["success_by_steps"].keys() == {1, 2}
  assert flex.best.positions == ""
  assert mdm.best.positions in ("law", "even")


@pytest.mark.slow
def test_pictures_and_trace_are_drawn(methods, tmp_path):
  draw(tmp_path, methods)
  for name in ("loss", "lengths", "success", "mazes"):
    assert (tmp_path / f"{name}.png").stat().st_size > 5000
  assert "</html>" in (tmp_path / "trace.html").read_text()


@pytest.mark.slow
def test_a_trace_ends_with_the_samples(methods):
  flex = methods["FlexMDM"]
  start = flex.run.task.start(flex.records[:3])
  key = jax.random.key(1)
  samples = flex.run.sample(key, flex.denoiser, start, batch_size=2)
  trace = flex.run.trace(key, flex.denoiser, start)
  assert trace.length.shape == (flex.run.sampler.steps + 1, 3)
  np.testing.assert_array_equal(trace.tokens[0], start.tokens)
  np.testing.assert_array_equal(trace.tokens[-1], samples.tokens)
  np.testing.assert_array_equal(trace.length[-1], samples.length)


@pytest.mark.slow
def test_evaluation_of_a_maze(methods):
  flex = methods["FlexMDM"]
  result = evaluate(MazePlanning(), flex.run, flex.denoiser, num=3)
  assert result["num"] == 3 and 0 <= result["success"] <= 1
  with pytest.raises(InputError, match="likelihood needs unconditional"):
    evaluate(HeldOutLikelihood(), flex.run, flex.denoiser, num=3)


@pytest.mark.slow
def test_evaluations_refuse_bad_settings(methods):
  flex = methods["FlexMDM"]

  def measure(num=3, **options):
    evaluate(MazePlanning(), flex.run, flex.denoiser, num=num, **options)

  with pytest.raises(InputError, match="num=0"):
    measure(num=0)
  with pytest.raises(InputError, match="batch_size=0"):
    measure(batch_size=0)
  for split in ("dev", "test/web", "test[x"):
    with pytest.raises(InputError, match=r"split='.*' is unknown"):
      measure(split=split)


def test_a_case_is_a_config():
  base = maze_quickstart.get_config().to_dict()
  case = maze_table.Case(9, 4, 100, 30, 50)
  config = case.config(base, "data")
  assert config["data"]["size"] == 9 and config["data"]["subgoals"] == 4
  assert config["data"]["num_train"] == 50
  assert config["data"]["max_length"] == 30
  assert config["data"]["folder"] == "data"
  assert config["train"]["num_steps"] == 100
  assert config["optimizer"]["warmup_steps"] <= 25
  assert base == maze_quickstart.get_config().to_dict()


def test_the_table_has_a_row_for_each_method(tmp_path):
  rows = [
    {
      "size": size,
      "K": 2,
      "train_steps": 10,
      "method": method,
      "success_by_steps": {4: 0.25, 8: 0.5},
      "length_error": 1.0,
    }
    for size in (7, 41)
    for method in ("flexmdm", "mdm_pinned", "mdm_prefix")
  ]
  assert maze_table.name(rows[0]) == "size7_K2_steps10_flexmdm"
  maze_table.write(tmp_path, rows)
  assert len(json.loads((tmp_path / "table.json").read_text())["rows"]) == 6
  lines = (tmp_path / "table.md").read_text().splitlines()
  assert len({line.count("|") for line in lines}) == 1
  assert lines[2].endswith("| flexmdm | 25.0 | 50.0 | 1.00 |  |")
  # The paper has two of the methods, on 41x41.
  assert [line.split("|")[-2].strip() for line in lines[5:]] == [
    "92.3",
    "68.4",
    "",
  ]
