"""Folders there and back; tests/models/test_transformer.py has the parity."""

import json

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file

import flexmdm_jax as fm
from flexmdm_jax.pretrained.folder import (
  Tensors,
  check_tokenizer,
  weight_files,
)
from tests import fuzz
from tests.pretrained import hf

RETROFIT = hf.GOLDEN / "retrofit.safetensors"


def assert_same_tensors(actual, expected):
  actual, expected = load_file(actual), load_file(expected)
  assert set(actual) == set(expected)
  for key, x in expected.items():
    assert actual[key].dtype == x.dtype, key
    np.testing.assert_array_equal(
      actual[key].view(np.uint8), x.view(np.uint8), err_msg=key
    )


def assert_same(actual, expected):
  (model, params), (expected_model, expected_params) = actual, expected
  assert model == expected_model
  jax.tree.map(np.testing.assert_array_equal, params, expected_params)


@pytest.mark.parametrize("shards", [1, 3])
def test_there_and_back(tmp_path, shards):
  source = hf.copy(tmp_path / "in", shards)
  model, params = fm.convert.llada_from_hf(source)
  assert model.mask_padding
  fm.convert.llada_to_hf(model, params, tmp_path / "out")
  assert_same_tensors(
    tmp_path / "out" / "model.safetensors", hf.GOLDEN / "model.safetensors"
  )
  assert_same(fm.convert.llada_from_hf(tmp_path / "out"), (model, params))


def test_there_and_back_with_a_retrofit(tmp_path):
  model, params = fm.convert.llada_from_hf(hf.GOLDEN, retrofit=RETROFIT)
  fm.convert.llada_to_hf(model, params, tmp_path / "out")
  out = tmp_path / "out"
  assert_same_tensors(
    out / "model.safetensors", hf.GOLDEN / "model.safetensors"
  )
  assert_same_tensors(out / "retrofit.safetensors", RETROFIT)
  again = fm.convert.llada_from_hf(out, retrofit=out / "retrofit.safetensors")
  assert_same(again, (model, params))


def test_a_retrofit_of_ours(tmp_path):
  """Another head, other targets, merged or not: a file tells."""
  model, params = fm.convert.llada_from_hf(hf.GOLDEN, retrofit=RETROFIT)
  model = model.clone(gap_head="log_rate", time_scale=1000.0, gap_scale=None)
  model, params = fm.merge_lora(model, params)
  out = tmp_path / "out"
  fm.convert.llada_to_hf(model, params, out)
  again, same = fm.convert.llada_from_hf(
    out, retrofit=out / "retrofit.safetensors"
  )
  assert again == model.clone(gap_scale=128.0)
  jax.tree.map(np.testing.assert_array_equal, same, params)


def test_half_precision_stays(tmp_path):
  source = hf.copy(tmp_path / "in", dtype=ml_dtypes.bfloat16)
  model, params = fm.convert.llada_from_hf(source)
  assert model.dtype == model.param_dtype == jnp.bfloat16
  assert params["blocks"]["q"]["kernel"].dtype == jnp.bfloat16
  fm.convert.llada_to_hf(model, params, tmp_path / "out")
  assert_same_tensors(
    tmp_path / "out" / "model.safetensors", source / "model.safetensors"
  )


def test_options_are_fields(tmp_path):
  model, _ = fm.convert.llada_from_hf(hf.GOLDEN, max_length=32, remat="full")
  assert model.max_length == 32 and model.remat == "full"


def test_layout():
  _, params = fm.convert.llada_from_hf(hf.GOLDEN, retrofit=RETROFIT)
  state = load_file(hf.GOLDEN / "model.safetensors") | load_file(RETROFIT)
  block = "model.transformer.blocks"
  kernel = params["blocks"]["q"]["kernel"]
  theirs = state[f"{block}.2.q_proj.weight"]
  np.testing.assert_array_equal(kernel[2, :, 3, 5], theirs[3 * 16 + 5])
  kernel = params["blocks"]["attention_out"]["kernel"]
  theirs = state[f"{block}.7.attn_out.weight"]
  np.testing.assert_array_equal(kernel[7, 3, 5], theirs[:, 3 * 16 + 5])
  # Scale before shift; blocks 8 and 9 are the second group.
  kernel = params["modulation"]["kernel"]
  theirs = state[f"backbone.base_model.model.{block}.9.temb_mod.weight"]
  np.testing.assert_array_equal(kernel[1, :, 1, 5], theirs[64 + 5])


@pytest.mark.parametrize("name", hf.BAD)
def test_bad_folders(tmp_path, name):
  spoil, named = hf.BAD[name]
  folder = hf.copy(tmp_path / "in")
  spoil(folder)
  with pytest.raises(fm.InputError) as error:
    fm.convert.llada_from_hf(folder)
  assert named in str(error.value) and "\n" not in str(error.value)


def retrofit_error(tmp_path, change, metadata=None):
  path = tmp_path / "retrofit.safetensors"
  state = load_file(RETROFIT)
  change(state)
  hf.save_file(state, path, metadata)
  with pytest.raises(fm.InputError) as error:
    fm.convert.llada_from_hf(hf.GOLDEN, retrofit=path)
  return str(error.value)


def test_bad_retrofits(tmp_path):
  key = "backbone.base_model.model.model.transformer.blocks.{}.temb_mod.bias"

  def differs(state):
    state[key.format(3)] = state[key.format(3)] + 1

  line = retrofit_error(tmp_path, differs)
  assert key.format(3) in line and key.format(0) in line

  line = retrofit_error(tmp_path, lambda x: x.pop(key.format(9)))
  assert line == f"the weights lack {key.format(9)}."

  line = retrofit_error(tmp_path, lambda x: x, {"lora_alpha": "many"})
  assert "many" in line

  def twice(state):
    state["model.transformer.ln_f.weight"] = np.ones(64, np.float32)

  assert "model.transformer.ln_f.weight" in retrofit_error(tmp_path, twice)


def test_bad_outputs(tmp_path):
  model, params = fm.convert.llada_from_hf(hf.GOLDEN)
  (tmp_path / "file").write_text("")
  for name in ("", "file", "file/under"):
    with pytest.raises(fm.InputError, match=str(tmp_path / name)):
      fm.convert.llada_to_hf(model, params, tmp_path / name)
  assert (tmp_path / "file").read_text() == ""
  with pytest.raises(fm.InputError, match="begin=3"):
    fm.convert.llada_to_hf(model.clone(begin=3), params, tmp_path / "out")


def header(content, length=None, data=b"\0" * 16):
  content = json.dumps(content).encode()
  length = len(content) if length is None else length
  return length.to_bytes(8, "little") + content + data


TENSOR = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
HEADER = {"a": TENSOR, "b": {**TENSOR, "data_offsets": [8, 16]}}


@pytest.mark.parametrize(
  "content",
  [
    header(HEADER, length=2**63),
    header(HEADER, length=10**6),
    header({**HEADER, "b": {**TENSOR, "data_offsets": [4, 12]}}),
    header({**HEADER, "a": {**TENSOR, "data_offsets": [8, 0]}}),
    header({**HEADER, "a": {**TENSOR, "dtype": "F33"}}),
    header({**HEADER, "a": {**TENSOR, "shape": [float("nan")]}}),
    header({**HEADER, "a": {**TENSOR, "shape": [2**62, 2**62]}}),
    header({**HEADER, "a": {**TENSOR, "shape": [3]}}),
    header(HEADER, data=b""),
    b"",
  ],
)
def test_headers_that_lie(tmp_path, content):
  path = tmp_path / "model.safetensors"
  path.write_bytes(content)
  with pytest.raises(fm.InputError, match=r"cannot read .*download it again"):
    Tensors([path])


@pytest.mark.parametrize("examples", fuzz.EXAMPLES)
def test_any_header(tmp_path, examples):
  path = tmp_path / "model.safetensors"

  def act(content):
    path.write_bytes(content)
    tensors = Tensors([path])
    for key, dtype in tensors.dtypes.items():
      if dtype is not None:
        assert tensors[key].shape == tensors.shapes[key]

  fuzz.each(examples, fuzz.changed(HEADER).map(header), act)
  fuzz.each(examples, fuzz.spoiled(header(HEADER)), act)


@pytest.mark.parametrize("examples", fuzz.EXAMPLES)
@pytest.mark.parametrize("name", ["index", "tokenizer"])
def test_any_file_beside_the_weights(tmp_path, name, examples):
  folder = hf.copy(tmp_path / "in", shards=2)
  model = {"vocab": {"a": 0, "b": 1}}
  content = {"model": model, "added_tokens": [{"id": 2, "content": "c"}]}
  path = folder / "tokenizer.json"
  if name == "index":
    path = folder / hf.INDEX
    content = json.loads(path.read_text())
    # A few keys stand for all.
    content["weight_map"] = dict([*content["weight_map"].items()][:3])

  def act(content):
    path.write_bytes(content)
    weight_files(folder)
    check_tokenizer(folder, 3)

  fuzz.each(examples, fuzz.contents(content), act)
