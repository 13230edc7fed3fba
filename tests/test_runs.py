import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.configs import (
  base,
  brackets,
  brackets_quickstart,
  llada_8b_retrofit,
  maze_41,
  maze_quickstart,
)
from flexmdm_jax import paths, schedules
from flexmdm_jax.dryrun.report import ShapesOnly, run_without_data
from flexmdm_jax.errors import InputError
from flexmdm_jax.models.parameters import abstract_params, num_parameters
from flexmdm_jax.runs import Run
from flexmdm_jax.states import PathStates
from flexmdm_jax.training import partition
from flexmdm_jax.vocab import Vocab
from tests import fuzz

CONFIGS = [maze_41, maze_quickstart, brackets, brackets_quickstart]


def settings(module=brackets_quickstart, **changes):
  config = module.get_config()
  config.update(changes)
  return config.to_dict()


@pytest.mark.parametrize("module", CONFIGS, ids=lambda m: m.__name__)
def test_every_method_of_every_config_builds(module):
  methods = Run.from_config(settings(module)).task.methods
  sizes = {}
  for method in methods:
    experiment = Run.from_config(settings(module, method=method))
    sizes[method] = num_parameters(experiment.model)
    json.dumps(experiment.config)
  # Baselines have the same trunk; only the gap head is more.
  trunk = min(sizes.values())
  assert trunk < sizes["flexmdm"] < 1.1 * trunk
  assert {n for m, n in sizes.items() if m != "flexmdm"} == {trunk}


def test_a_baseline_is_the_fixed_length_special_case():
  experiment = Run.from_config(settings(method="mdm"))
  assert experiment.interpolant.insertion == schedules.Immediate()
  assert experiment.interpolant.unmasking == schedules.Linear()
  assert experiment.model.gap_head is None


def test_config_survives_json():
  config = settings()
  again = Run.from_config(json.loads(json.dumps(config)))
  first = Run.from_config(config)
  for name in ("interpolant", "model", "optimizer", "loop", "sampler"):
    assert getattr(again, name) == getattr(first, name)


def test_schedule_and_its_parameters_are_overridden_apart():
  config = settings()
  config["insertion"] = base.schedule("geometric", low=5.0, high=0.1).to_dict()
  insertion = Run.from_config(config).interpolant.insertion
  assert insertion == schedules.Geometric(5.0, 0.1)


@pytest.mark.parametrize(
  ("section", "key", "value", "message"),
  [
    ("data", "name", "prose", "'prose' must be one of"),
    ("data", "kinds", 9, "kinds=9"),
    ("model", "width", 3, "unknown setting 'width' of model"),
    ("model", "num_heads", 5, "hidden_size=64"),
    ("train", "ema_decay", 1.0, "ema_decay=1.0"),
    ("sampler", "steps", 0, "steps=0"),
    ("insertion", "exponent", -1.0, "Power.exponent=-1.0"),
    ("model", "gap_head", None, "gap_head=None cannot tell"),
    ("train", "gap_loss", "huber", "gap_loss='huber'"),
    ("train", "states", {"law": "free"}, "law='free' must be one of"),
    ("unmasking", "low", 1.0, "takes the parameters"),
  ],
)
def test_settings_that_do_not_fit_are_named(section, key, value, message):
  config = settings()
  config[section][key] = value
  with pytest.raises(InputError, match=message):
    Run.from_config(config)


def mixed(**changes):
  config = settings()
  states = {**config["train"]["states"], **base.curriculum(), **changes}
  config["train"]["states"] = states
  return config


def test_curriculum_is_in_shares_of_the_run():
  config = mixed(at=(0.25, 0.5), full=(0.9, 0.4), blank=(0.1, 0.1))
  law = Run.from_config(config).objective.states
  assert law.steps == (250, 500)
  assert law.full == (0.9, 0.4)
  assert law.insertion == schedules.Power(3.0)
  # A fixed-length baseline has no gaps to open.
  config["method"] = "mdm"
  assert isinstance(Run.from_config(config).objective.states, PathStates)


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    (dict(at=(0.5, 1.5)), r"at=\(0.5, 1.5\) must be at least 0 and at most 1"),
    (dict(at=(-0.1, 0.5)), r"at=\(-0.1, 0.5\)"),
    (dict(full=(0.95, 0.5)), "sum to at most 1"),
    (dict(share=0.5), "unknown setting 'share'"),
  ],
)
def test_bad_curricula_are_refused(changes, message):
  with pytest.raises(InputError, match=message):
    Run.from_config(mixed(**changes))


def test_path_is_the_configs_or_the_trained_one():
  experiment = Run.from_config(settings())
  assert experiment.path is experiment.interpolant
  first = Run.from_config(settings(path="lengths_first"))
  assert first.path == paths.lengths_first()
  assert first.with_path("trained").path == first.interpolant
  assert first.with_path(None) is first
  baseline = Run.from_config(settings(path="lengths_first", method="mdm"))
  assert baseline.path is baseline.interpolant
  with pytest.raises(InputError, match="needs a model that inserts"):
    baseline.with_path("lengths_first")
  with pytest.raises(InputError, match="path='shortest'"):
    Run.from_config(settings(path="shortest"))


@pytest.mark.slow
def test_a_flexmdm_goes_on_from_an_mdm(tmp_path):
  def tiny(**changes):
    config = settings(**changes)
    config["data"].update(folder=str(tmp_path), num_train=50, num_eval=5)
    config["model"].update(
      hidden_size=16, num_layers=1, num_heads=2, cond_size=8
    )
    config["train"].update(num_steps=2, batch_size=8)
    config["optimizer"].update(warmup_steps=0)
    return Run.from_config(config)

  mdm, folder = tiny(method="mdm"), tmp_path / "mdm"
  mdm.train(folder, progress=False)
  _, denoiser = mdm.restore(folder)
  experiment = tiny(pretrained=str(folder))
  step = experiment.with_weights(experiment.train_step())
  params = jax.device_get(step.init(jax.random.key(1)).params)
  gap_head = params.pop("gap_head")
  assert gap_head["out"]["bias"][0] == -1.0
  jax.tree.map(
    np.testing.assert_array_equal, params, jax.device_get(denoiser.params)
  )
  wider = tiny(pretrained=str(folder))
  wider = dataclasses.replace(wider, model=wider.model.clone(hidden_size=32))
  with pytest.raises(InputError, match="give both runs one"):
    wider.with_weights(wider.train_step()).init(jax.random.key(1))


def test_missing_key_is_named():
  config = settings()
  del config["sampler"]
  with pytest.raises(InputError, match="no key 'sampler'"):
    Run.from_config(config)


def test_unknown_section_is_named():
  with pytest.raises(InputError, match="unknown setting 'noise' of the config"):
    Run.from_config(settings(noise={}))
  with pytest.raises(InputError, match="unknown setting 'rows' of mesh"):
    Run.from_config(settings(mesh={"rows": 1}))


def without_sampler(config):
  del config["sampler"]


@pytest.mark.parametrize(
  "change",
  [
    without_sampler,
    lambda config: config.update(noise="linear"),
    lambda config: config["train"].update(old=1),
    lambda config: config["mesh"].update(rows=1),
  ],
)
def test_directory_of_another_version_is_refused(tmp_path, change):
  config = settings()
  change(config)
  (tmp_path / "config.json").write_text(json.dumps(config))
  with pytest.raises(InputError, match="made by another version") as error:
    Run.from_workdir(tmp_path)
  assert "\n" not in str(error.value)


@pytest.mark.parametrize("head", ["distribution", "binned"])
def test_a_head_that_predicts_a_law_is_trained_on_it(head):
  config = settings(maze_quickstart)
  config["train"]["states"]["law"] = "path"
  config["train"]["gap_loss"] = "phi"
  config["model"]["gap_head"] = "log_rate"
  assert not Run.from_config(config).objective.bound_names
  config["model"]["gap_head"] = head
  objective = Run.from_config(config).objective
  assert objective.gap_loss == "law"
  # The loss is then no bound, even on the path's own states.
  assert objective.bound_names == ("bound_unmask", "bound_insert")
  config["model"]["gap_head"] = "log_rate"
  config["train"]["gap_loss"] = "law"
  with pytest.raises(InputError, match=r"train\.gap_loss='law' needs a gap"):
    Run.from_config(config)


def test_directory_without_a_run_is_refused(tmp_path):
  with pytest.raises(InputError, match="holds no run"):
    Run.from_workdir(tmp_path)


def test_pinned_baseline_has_two_ways_to_guess(tmp_path):
  config = settings(maze_quickstart, method="mdm_pinned")
  config["data"].update(folder=str(tmp_path), num_train=50, num_eval=5)
  task = Run.from_config(config).task
  source = task.records("test")
  records = [source[i] for i in range(len(source))]
  starts = {name: x.start(records) for name, x in task.variants().items()}
  assert starts.keys() == {"law", "even"}
  for start in starts.values():
    np.testing.assert_array_equal(start.frozen.sum(1), [3] * len(records))
    assert not start.open_gaps.any()
  # Even positions are the same for all; those of the law are not.
  assert (starts["even"].frozen == starts["even"].frozen[0]).all()
  assert not (starts["law"].frozen == starts["law"].frozen[0]).all()


def test_held_out_problems_are_not_trained_on(tmp_path):
  config = settings(maze_quickstart)
  config["data"].update(folder=str(tmp_path), num_train=500, num_eval=50)
  task = Run.from_config(config).task

  def problems(split):
    return {
      tuple(record["tokens"][record["subgoal_index"]].tolist())
      for record in task.records(split)
    }

  train, test = problems("train"), problems("test")
  assert len(train) == 500 and len(test) == 50
  assert not train & test
  assert dataclasses.asdict(task.vocab) == {"size": 51, "mask": 49, "pad": 50}


def retrofit(**changes):
  config = llada_8b_retrofit.get_config()
  config.model.update(changes)
  return run_without_data(config.to_dict())


def test_the_retrofit_trains_what_the_paper_trains():
  experiment = retrofit()
  trained, frozen = partition.split(
    experiment.model, abstract_params(experiment.model)
  )
  sizes = [
    sum(x.size for x in jax.tree.leaves(tree)) for tree in (trained, frozen)
  ]
  assert sizes[0] == 402_657_281
  assert 8.0e9 < sizes[1] < 8.1e9
  assert {x.dtype for x in jax.tree.leaves(frozen)} == {jnp.dtype("bfloat16")}


def test_without_a_rank_the_model_is_trained_whole():
  lora = dict(rank=0, alpha=1.0, dropout=0.0, targets=("q",))
  model = retrofit(lora=lora).model
  assert model.lora is None
  assert partition.split(model, abstract_params(model))[1] == {}


def test_model_and_data_must_have_one_vocabulary():
  config = llada_8b_retrofit.get_config().to_dict()
  task = ShapesOnly(Vocab(100, 98, 99), 1024)
  with pytest.raises(InputError, match="the model's own tokenizer"):
    Run.from_config(config, task)
  with pytest.raises(InputError, match=r"model\.kind='mamba' is unknown"):
    retrofit(kind="mamba")


@pytest.mark.parametrize("examples", fuzz.EXAMPLES)
def test_any_config(tmp_path, examples):
  def act(content):
    (tmp_path / "config.json").write_bytes(content)
    Run.from_workdir(tmp_path)

  fuzz.each(examples, fuzz.contents(settings()), act)
