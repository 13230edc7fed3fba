import json

import numpy as np
import pytest

from experiments.configs import brackets_quickstart, maze_quickstart
from flexmdm_jax.errors import InputError
from flexmdm_jax.evaluation import planning
from flexmdm_jax.evaluation.maze_comparison import contend, draw
from flexmdm_jax.evaluation.tasks import evaluate
from flexmdm_jax.runs import Run
from flexmdm_jax.tasks import subgoals
from flexmdm_jax.tasks.maze.law import is_solution


def tiny(module, folder, **data):
  config = module.get_config()
  config.data.update(
    folder=str(folder / "data"), num_train=40, num_eval=6, **data
  )
  config.model.update(hidden_size=8, num_layers=1, num_heads=2, cond_size=4)
  config.optimizer.warmup_steps = 1
  config.train.update(num_steps=2, batch_size=8, report_every=1)
  config.sampler.steps = 2
  return config.to_dict()


@pytest.fixture(scope="module")
def contenders(tmp_path_factory):
  folder = tmp_path_factory.mktemp("comparison")
  config = tiny(maze_quickstart, folder)
  return folder, {
    name: contend(config, method, folder / method, num=5, sampling_steps=(1, 2))
    for name, method in (("FlexMDM", "flexmdm"), ("MDM", "mdm_pinned"))
  }


def test_contenders_are_scored_on_the_same_problems(contenders):
  _, both = contenders
  flex, mdm = both["FlexMDM"], both["MDM"]
  for a, b in zip(flex.records, mdm.records, strict=True):
    np.testing.assert_array_equal(a["tokens"], b["tokens"])
  for contender in both.values():
    summary = contender.summary()
    json.dumps(summary)
    assert 0 <= summary["success"] <= 1
    assert summary["steps"] == 2
    assert summary["success_by_steps"].keys() == {1, 2}
  assert flex.best.positions == ""
  assert mdm.best.positions in ("law", "even")


def test_pictures_and_trace_are_drawn(contenders, tmp_path):
  draw(tmp_path, contenders[1])
  for name in ("loss", "lengths", "success", "mazes"):
    assert (tmp_path / f"{name}.png").stat().st_size > 5000
  assert "</html>" in (tmp_path / "trace.html").read_text()


def test_true_paths_score_one_and_spoiled_ones_do_not(contenders):
  contender = contenders[1]["FlexMDM"]
  task, records = contender.experiment.task, contender.records
  truth = [record["tokens"].tolist() for record in records]
  truncated = np.zeros(len(records), bool)
  perfect = planning._score(task, records, truth, truncated, "")
  assert perfect.success == 1
  assert perfect.length_tv == perfect.length_error == 0
  spoiled = [path[:-1] for path in truth]
  score = planning._score(task, records, spoiled, truncated, "")
  assert score.success == 0
  assert score.length_error == 1
  for path, record in zip(truth, records, strict=True):
    assert is_solution(task.maze, path, subgoals(record))


def test_evaluation_tasks(contenders, tmp_path):
  maze = contenders[1]["FlexMDM"]
  result = evaluate("maze", maze.experiment, maze.denoiser, num=3)
  assert result["num"] == 3 and 0 <= result["success"] <= 1
  with pytest.raises(InputError, match="likelihood needs unconditional"):
    evaluate("likelihood", maze.experiment, maze.denoiser, num=3)
  with pytest.raises(InputError, match="perplexity is unknown"):
    evaluate("perplexity", maze.experiment, maze.denoiser, num=3)
  with pytest.raises(InputError, match="num=0"):
    evaluate("maze", maze.experiment, maze.denoiser, num=0)
  for split in ("dev", "test/web", "test[x"):
    with pytest.raises(InputError, match=r"split='.*' is unknown"):
      evaluate("maze", maze.experiment, maze.denoiser, num=3, split=split)

  experiment = Run.from_config(tiny(brackets_quickstart, tmp_path))
  experiment.train(tmp_path / "run", progress=False)
  _, denoiser = experiment.restore(tmp_path / "run")
  lengths = evaluate("lengths", experiment, denoiser, num=4)
  assert 0 <= lengths["length_tv"] <= 1 and 0 <= lengths["balanced"] <= 1
  bound = evaluate(
    "likelihood",
    experiment,
    denoiser,
    num=4,
    num_times=32,
    split="validation",
  )
  assert bound["split"] == "validation"
  assert bound["nats"] > 0 and bound["stderr"] >= 0
  with pytest.raises(InputError, match="maze needs mazes"):
    evaluate("maze", experiment, denoiser, num=3)


def test_output_keeps_what_was_there(tmp_path):
  path = tmp_path / "a" / "b.json"
  files.write_json(path, {"x": 1})
  with pytest.raises(TypeError):
    files.write_json(path, {"x": object()})
  assert json.loads(path.read_text()) == {"x": 1}
  with pytest.raises(InputError, match="is a directory"):
    files.require_writable(tmp_path)
  with pytest.raises(InputError, match="cannot write"):
    files.require_writable(path / "c.json")
  with pytest.raises(InputError, match="cannot write"):
    files.write_text(path / "c.json", "")
