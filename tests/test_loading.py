import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest

import flexmdm_jax as fm
from experiments.configs import brackets_quickstart
from flexmdm_jax.errors import InputError
from flexmdm_jax.pretrained import checkpoint
from flexmdm_jax.runs import Run
from tests.evaluation.tiny import tiny
from tests.pretrained import hf

PUBLIC = hf.GOLDEN.parent / "dream_flexmdm_tiny"


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
  folder = tmp_path_factory.mktemp("run")
  config = tiny(brackets_quickstart, folder)
  Run.from_config(config).train(folder / "w", progress=False)
  return folder / "w"


def test_a_work_directory_samples_as_its_run(workdir, tmp_path):
  run = Run.from_workdir(workdir)
  step, denoiser = run.restore(workdir)
  m = fm.load(workdir)
  start = fm.empty_start(3, m.max_length, m.vocab)
  run = run.with_sampler(buckets=())  # one program for all
  samples = run.sample(jax.random.key(2), denoiser, start, 3)
  found = m.generate(3, seed=2, buckets=())
  for i, generation in enumerate(found):
    expected = samples.tokens[i, : samples.length[i]]
    np.testing.assert_array_equal(generation.tokens, expected)
  assert m.about["training"]["steps"] == step
  m.export(tmp_path / "m")
  assert fm.load(tmp_path / "m").generate(3, seed=2, buckets=()) == found
  card = (tmp_path / "m" / "README.md").read_text()
  assert str(workdir.parent) not in card


@pytest.fixture(scope="module")
def public():
  return dataclasses.replace(fm.load(PUBLIC), max_length=24)


@pytest.mark.slow
def test_the_public_flexmdm_answers_prompts(public, tmp_path):
  pad = public.vocab.pad
  (generation,) = public.generate(prompts=[[89, 1, 2]], steps=4)
  assert generation.tokens[:4] == [89, 1, 2, pad]
  assert generation.filled == [generation.tokens[4:]]
  way = public.way(preset="published")
  assert way.sampler.insertions == "published"
  assert way.path.insertion == fm.schedules.Power(2.9)
  # An export and a conversion are the same model.
  public.export(tmp_path / "exported")
  checkpoint.from_hf(PUBLIC, tmp_path / "converted")
  for folder in ("exported", "converted"):
    found = dataclasses.replace(fm.load(tmp_path / folder), max_length=24)
    assert found.generate(prompts=[[89, 1, 2]], steps=4) == [generation]
    assert found.form == public.form
    assert found.presets == public.presets


def test_a_tokenizer_tells_what_begins_a_prompt(tmp_path):
  folder = tmp_path / "m"
  shutil.copytree(PUBLIC, folder)
  tokens = {"89": {"content": "<bos>"}}
  told = {"bos_token": "<bos>", "added_tokens_decoder": tokens}
  (folder / "tokenizer_config.json").write_text(json.dumps(told))
  m = fm.load(folder)
  assert m.form.before == (89,)
  (request,) = m.requests(prompts=[[1]])
  assert request.start.tokens[:3].tolist() == [89, 1, m.vocab.pad]


def test_what_is_no_model_is_one_line(workdir, tmp_path):
  (tmp_path / "empty").mkdir()
  (tmp_path / "other").mkdir()
  (tmp_path / "other" / "config.json").write_text('{"model_type": "bert"}')
  checkpoint.from_hf(hf.copy(tmp_path / "llada"), tmp_path / "converted")
  for folder, message in {
    "none": "is no folder",
    "empty": "holds no model",
    "other": "is no model",
    "llada": "is no FlexMDM but .'LLaDAModelLM'",
    "converted": "no FlexMDM with schedules",
  }.items():
    with pytest.raises(InputError, match=message) as error:
      fm.load(tmp_path / folder)
    assert "\n" not in str(error.value)
