import json
import shutil
import subprocess
import sys

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import flexmdm_jax as fm
from flexmdm_jax import checksums
from flexmdm_jax.data.tokenizers import FolderTokenizer
from flexmdm_jax.errors import InputError
from flexmdm_jax.inference import PromptForm
from tests import fuzz
from tests.data.tiny_text import write_model_folder
from tests.inference.tiny import BEGIN, PAD, PRESETS, VOCAB, bpe, model

FORM = PromptForm((BEGIN,), (PAD,))


@pytest.fixture(scope="module")
def whole():
  return model(form=FORM, presets=PRESETS, about={"training": {"steps": 3}})


@pytest.fixture(scope="module")
def folder(whole, tmp_path_factory):
  path = tmp_path_factory.mktemp("exported") / "model"
  whole.export(path, evaluations=[{"task": "likelihood", "nats": 9.5}])
  return path


@pytest.fixture
def copy(folder, tmp_path):
  """A copy of the folder whose files may be changed."""
  path = tmp_path / "copy"
  shutil.copytree(folder, path)
  (path / checksums.NAME).unlink()
  return path


def edit(path, **changes):
  config = json.loads((path / "config.json").read_text())
  (path / "config.json").write_text(json.dumps(config | changes))


@pytest.mark.slow
def test_another_process_makes_the_same_samples(whole, folder, tmp_path):
  moved = tmp_path / "elsewhere"
  shutil.copytree(folder, moved)
  code = (
    "import json, sys, flexmdm_jax as fm\n"
    f"m = fm.load({str(moved)!r})\n"
    "print(json.dumps([m.generate(2, prompts=['ab', 'h'], seed=5),"
    " [x.tolist() for x in m.log_likelihood(['abc'], num_times=32)]]))"
  )
  out = subprocess.run(
    [sys.executable, "-c", code], capture_output=True, text=True, check=True
  ).stdout
  expected = [
    whole.generate(2, prompts=["ab", "h"], seed=5),
    [x.tolist() for x in whole.log_likelihood(["abc"], num_times=32)],
  ]
  assert json.loads(out) == json.loads(json.dumps(expected))


def test_all_but_the_weights_comes_back(whole, folder):
  found = fm.load(folder)
  for name in ("vocab", "interpolant", "path", "sampler", "max_length"):
    assert getattr(found, name) == getattr(whole, name)
  for name in ("method", "form", "presets", "about"):
    assert getattr(found, name) == getattr(whole, name)
  assert found.tokenizer.fingerprint == whole.tokenizer.fingerprint
  assert found.denoiser.model == whole.denoiser.model


@pytest.mark.parametrize("method", ["autoregressive", "mdm"])
@pytest.mark.slow
def test_baselines_come_back(method, tmp_path):
  m = model(method)
  m.export(tmp_path / "m")
  assert fm.load(tmp_path / "m").generate(2) == m.generate(2)


def tokenizers(tmp_path):
  yield bpe(tmp_path / "bpe")
  pretrained = write_model_folder(tmp_path / "hf")
  (pretrained / "chat_template.jinja").write_text("{{ messages[0].content }}")
  yield FolderTokenizer(pretrained)
  yield None


def test_tokenizers_come_back_without_their_folders(tmp_path):
  for i, tokenizer in enumerate(tokenizers(tmp_path)):
    m = model(tokenizer=tokenizer)
    m.export(tmp_path / str(i))
    shutil.rmtree(tmp_path / "bpe", ignore_errors=True)
    found = fm.load(tmp_path / str(i))
    if tokenizer is None:
      assert found.tokenizer is None
      continue
    text = "hello w## \u00e9\n[MASK]<|mdm_mask|>"
    assert found.encode(text) == tokenizer.encode(text)
    assert found.tokenizer.fingerprint == tokenizer.fingerprint
    assert found.decode(found.encode(text)) == text
  # The last one with a tokenizer had a chat template.
  m = fm.load(tmp_path / "1")
  assert m.requests(prompts=["hello"], chat=True)[0].start.length == 2


def test_weights_may_be_bfloat16_and_in_several_files(whole, tmp_path):
  whole.export(tmp_path / "m", dtype="bfloat16", max_bytes=4000)
  files = sorted((tmp_path / "m").glob("*.safetensors"))
  assert len(files) > 2
  found = fm.load(tmp_path / "m")
  assert {x.dtype for x in load_file(files[0]).values()} == {
    np.dtype(ml_dtypes.bfloat16)
  }
  for a, b in zip(
    _leaves(found.denoiser.params), _leaves(whole.denoiser.params), strict=True
  ):
    np.testing.assert_allclose(np.asarray(a, np.float32), b, rtol=4e-3)


def _leaves(tree):
  import jax

  return jax.tree.leaves(tree)


def test_a_folder_tells_nothing_of_this_machine(folder):
  names = {path.name for path in folder.iterdir()}
  assert names == {
    "README.md",
    "config.json",
    "model.safetensors",
    checksums.NAME,
  }
  for name in names - {"model.safetensors"}:
    assert str(folder.parent) not in (folder / name).read_text()


def test_nothing_is_overwritten(whole, tmp_path):
  (tmp_path / "a").write_text("mine")
  with pytest.raises(InputError, match="is there already"):
    whole.export(tmp_path)
  assert (tmp_path / "a").read_text() == "mine"
  for options in ({"dtype": "int8"}, {"evaluations": [{"nats": 1}]}):
    with pytest.raises(InputError):
      whole.export(tmp_path / "b", **options)
    assert not (tmp_path / "b").exists()


def _weights(path, change):
  tensors = load_file(path / "model.safetensors")
  change(tensors)
  save_file(tensors, path / "model.safetensors")


def _cast(tensors, dtype):
  tensors["embed.embedding"] = tensors["embed.embedding"].astype(dtype)


DAMAGES = {
  "lacks embed.embedding": lambda x: _weights(
    x, lambda t: t.pop("embed.embedding")
  ),
  "has more": lambda x: _weights(x, lambda t: t.update(more=np.zeros(1))),
  "has embed.embedding of the shape": lambda x: _weights(
    x, lambda t: t.update({"embed.embedding": t["embed.embedding"][1:]})
  ),
  "has embed.embedding of a type that is neither": lambda x: _weights(
    x, lambda t: _cast(t, np.int32)
  ),
  "no .safetensors file": lambda x: (x / "model.safetensors").unlink(),
  "format_version=2": lambda x: edit(x, format_version=2),
  "method": lambda x: edit(x, method="gan"),
  "unknown setting 'heads' of .*network": lambda x: edit(
    x, network={"kind": "dit", "heads": 2, "vocab": vars(VOCAB)}
  ),
  "network.kind": lambda x: edit(x, network={"kind": "lstm"}),
  "tokenizer": lambda x: edit(x, tokenizer={"kind": "pickle"}),
  "another tokenizer": lambda x: edit(
    x, tokenizer={"kind": "char", "characters": "abcdefghi", "fingerprint": ""}
  ),
  "its tokenizer": lambda x: edit(
    x, tokenizer={"kind": "char", "characters": "ab", "fingerprint": ""}
  ),
  "'path' is missing": lambda x: (x / "config.json").write_text(
    json.dumps(
      {
        k: v
        for k, v in json.loads((x / "config.json").read_text()).items()
        if k != "path"
      }
    )
  ),
  "beside a prompt": lambda x: edit(x, prompt={"before": [99]}),
}


@pytest.mark.parametrize("message", DAMAGES)
def test_what_does_not_fit_is_one_line(message, copy):
  DAMAGES[message](copy)
  with pytest.raises(InputError, match=message) as error:
    fm.load(copy)
  assert "\n" not in str(error.value)


def test_a_changed_byte_is_noticed(folder, tmp_path):
  shutil.copytree(folder, tmp_path / "m")
  for name in ("config.json", "model.safetensors"):
    path = tmp_path / "m" / name
    content = path.read_bytes()
    path.write_bytes(content[:-2] + bytes([content[-2] ^ 1]) + content[-1:])
    with pytest.raises(InputError):
      fm.load(tmp_path / "m")
    path.write_bytes(content)
  fm.load(tmp_path / "m")


@pytest.mark.parametrize("number", fuzz.EXAMPLES)
def test_hostile_configs_are_one_line(number, copy):
  config = json.loads((copy / "config.json").read_text())

  def act(content):
    (copy / "config.json").write_bytes(content)
    fm.load(copy)

  fuzz.each(number, fuzz.contents(config), act)


@pytest.mark.parametrize("number", fuzz.EXAMPLES)
def test_hostile_weights_are_one_line(number, copy):
  base = (copy / "model.safetensors").read_bytes()

  def act(content):
    (copy / "model.safetensors").write_bytes(content)
    fm.load(copy)

  fuzz.each(number, fuzz.spoiled(base), act)
