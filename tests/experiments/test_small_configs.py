"""From a parent to a fine-tuned FlexMDM: the small configs, end to end."""

import jax
import numpy as np
import pytest
from flax import traverse_util

import flexmdm_jax as fm
from experiments.configs import small_gsm8k, small_infilling, small_llada
from flexmdm_jax.errors import InputError
from flexmdm_jax.runs import Run
from flexmdm_jax.tasks.reasoning import make_problems

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def data(tmp_path_factory):
  folder = tmp_path_factory.mktemp("data")
  make_problems(folder / "problems", 200, most_steps=1)
  return folder


def tiny(module, data, *, pretrained=None, **train):
  config = module.get_config()
  config.data.update(
    folder=str(data / "cache"),
    train=str(data / "problems" / "train.jsonl"),
    tokenizer_folder=str(data / "problems" / "tokenizer"),
    max_length=96,
    buckets=(),
  )
  config.model.update(hidden_size=16, num_layers=2, num_heads=2)
  config.model.update(num_kv_heads=2, mlp_size=16)
  config.optimizer.warmup_steps = 1
  config.train.update(
    num_steps=2, batch_size=8, report_every=1, checkpoint_every=2
  )
  config.train.update(train)
  config.pretrained = None if pretrained is None else str(pretrained)
  return config


@pytest.fixture(scope="module")
def parent(data):
  Run.from_config(tiny(small_llada, data).to_dict()).train(
    data / "parent", progress=False
  )
  return data / "parent"


@pytest.fixture(scope="module")
def retrofit(data, parent):
  config = tiny(small_gsm8k, data, pretrained=parent)
  Run.from_config(config.to_dict()).train(data / "retrofit", progress=False)
  return data / "retrofit"


def flat(params):
  return traverse_util.flatten_dict(jax.device_get(dict(params)), sep="/")


def initial(config):
  """All parameters with which a run begins."""
  run = Run.from_config(config.to_dict())
  step = run.with_weights(run.train_step())
  trained = step.init(jax.random.key(0)).params
  return flat(trained), flat(step.base)


def assert_equal(found, expected):
  for path, x in expected.items():
    np.testing.assert_allclose(found[path], x, err_msg=path)


def test_a_retrofit_freezes_its_parent(parent, retrofit):
  whole, adapted = fm.load(parent), fm.load(retrofit)
  assert whole.method == "mdm" and adapted.method == "flexmdm"
  params = flat(adapted.denoiser.params)
  assert_equal(params, flat(whole.denoiser.params))
  assert any("lora" in path for path in params)
  (answer,) = adapted.generate(prompts=["Jon has 2 nuts.\n"], steps=4)
  assert answer.text.startswith("Jon has 2 nuts.\n")


@pytest.mark.parametrize("exported", [False, True])
def test_a_fine_tuning_goes_on_from_a_retrofit(data, retrofit, exported):
  folder = retrofit
  if exported:
    folder = data / "exported"
    fm.load(retrofit).export(folder)
  trained, base = initial(tiny(small_gsm8k, data, pretrained=folder))
  expected = flat(fm.load(retrofit).denoiser.params)
  assert_equal({**trained, **base}, expected)
  assert trained.keys() | base.keys() == expected.keys()
  assert any("lora" in path for path in trained) and base


def test_another_shape_is_refused(data, retrofit):
  config = tiny(small_gsm8k, data, pretrained=retrofit)
  config.model.mlp_size = 24
  with pytest.raises(InputError, match=r"pretrained=.* of the shape"):
    initial(config)


def test_the_baseline_is_tuned_alike(data, parent):
  config = tiny(small_gsm8k, data, pretrained=parent)
  config.method = "mdm"
  Run.from_config(config.to_dict()).train(data / "mdm", progress=False)
  model = fm.load(data / "mdm")
  answers = model.generate(
    prompts=["a", "b"], hole_tokens=[3, 7], steps=4, batch_size=1
  )
  assert all(answer.filled for answer in answers)


def test_holes_in_code(data, parent, tmp_path):
  config = tiny(small_infilling, data)
  config.data.update(text_key="text", most_holes=3)
  config.model.lora.rank = 0  # from random values
  Run.from_config(config.to_dict()).train(tmp_path / "run", progress=False)
  (hole,) = fm.load(tmp_path / "run").generate(infills=[("a", "b")], steps=4)
  assert hole.text == f"a{hole.filled[0]}b"
