"""Quantised kernels: close to the trained ones, trained around, loaded."""

import functools
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

import flexmdm_jax as fm
from flexmdm_jax import memory
from flexmdm_jax.errors import InputError
from flexmdm_jax.models import quantization
from flexmdm_jax.models.lora import LoRA
from flexmdm_jax.models.parameters import abstract_params, init_params
from flexmdm_jax.models.transformer import Transformer
from flexmdm_jax.pretrained import checkpoint
from flexmdm_jax.training import partition
from tests.pretrained import hf
from tests.training import tiny

GOLDEN = hf.ROOT / "tests/golden/dream_flexmdm_tiny"

L = 6
MODEL = Transformer(
  fm.Vocab(size=11, mask=9, pad=10),
  L,
  hidden_size=32,
  num_layers=3,
  num_heads=4,
  num_kv_heads=2,
  mlp_size=48,
  qkv_bias=True,
  gap_head="log_rate",
  time_group=2,
  lora=LoRA(rank=2, alpha=3.0, dropout=0.0, targets=("q", "down", "head")),
)
INPUTS = (
  jnp.array([[0, 1, 9, 9, 2, 3], [4, 9, 0, 0, 0, 0]]),
  jnp.array([6, 2]),
  jnp.array([0.25, 0.75]),
)


def flat(params):
  return traverse_util.flatten_dict(dict(params), sep="/")


@functools.cache
def pair():
  """A network whose parameters all carry a signal, and it in int8."""
  rng = np.random.default_rng(0)
  params = jax.tree.map(
    lambda x: jnp.asarray(rng.normal(0, 0.1, x.shape), x.dtype),
    abstract_params(MODEL),
  )
  return (MODEL, params), quantization.quantize(MODEL, params)


@functools.partial(jax.jit, static_argnums=0)
@functools.partial(jax.grad, argnums=1)
def gradient(model, trained, frozen):
  params = partition.join(trained, frozen)
  predicted = model.apply({"params": params}, *INPUTS)
  return jnp.mean(jax.nn.logsumexp(predicted.token_logits[:, :2], -1)) + (
    jnp.mean(predicted.log_gaps[:, :3] ** 2)
  )


@functools.partial(jax.jit, static_argnums=0)
def logits(model, params):
  return model.apply({"params": params}, *INPUTS).token_logits[:, :2]


def test_a_kernel_by_hand():
  kernel = jnp.array([[1.27, 0.0, -0.2], [-0.5, 0.0, 0.1]])
  whole, scale = quantization.quantize_kernel(kernel, 1)
  np.testing.assert_array_equal(whole, [[127, 0, -127], [-50, 0, 64]])
  np.testing.assert_allclose(scale, [0.01, 1, 0.2 / 127], rtol=1e-6)


@pytest.mark.parametrize("num_inputs", (1, 2))
def test_rounding_is_within_half_a_step_of_each_output(num_inputs):
  kernel = jax.random.normal(jax.random.key(0), (3, 4, 5, 6))
  whole, scale = quantization.quantize_kernel(kernel, num_inputs, stacked=True)
  assert whole.dtype == jnp.int8
  assert scale.shape == (3, *kernel.shape[1 + num_inputs :])
  whole, axes = np.asarray(whole, np.float32), tuple(range(1, 1 + num_inputs))
  steps = np.expand_dims(scale, axes)
  assert np.all(np.abs(whole * steps - kernel) <= steps * 0.5001)
  assert np.all(np.abs(whole).max(axes) == 127)


def test_only_the_blocks_kernels_are_integers():
  (_, params), (model, quantized) = pair()
  assert flat(quantized).keys() == flat(abstract_params(model)).keys()
  for path, x in flat(abstract_params(model)).items():
    assert (x.shape, x.dtype) == (
      flat(quantized)[path].shape,
      flat(quantized)[path].dtype,
    )
    kernel = path.startswith("blocks/") and path.endswith("/kernel")
    assert (x.dtype == jnp.int8) == kernel
    if not kernel and path in flat(params):
      assert flat(quantized)[path] is flat(params)[path]
  # Quantising again changes nothing.
  again = quantization.quantize(model, quantized)[1]
  assert all(x is flat(again)[path] for path, x in flat(quantized).items())


@functools.cache
def first_values():
  model = MODEL.clone(quantize="int8")
  return flat(jax.jit(init_params, static_argnums=0)(model, jax.random.key(0)))


def test_first_values_are_as_large_as_those_in_floating_point():
  params = first_values()
  for path in ("q", "attention_out", "gate"):
    whole = params[f"blocks/{path}/kernel"].value
    scale = params[f"blocks/{path}/kernel_scale"].value
    std = jnp.std(whole.astype(jnp.float32)) * jnp.mean(scale)
    np.testing.assert_allclose(std, 0.02, rtol=0.1)


@pytest.mark.slow
def test_gradients_of_updates_are_those_of_the_float_model():
  gradients = []
  for model, params in pair():
    gradients.append(flat(gradient(model, *partition.split(model, params))))
  exact, quantized = gradients
  assert exact.keys() == quantized.keys()
  assert any("lora_a" in path for path in exact)
  for path, x in exact.items():
    error = jnp.linalg.norm(quantized[path] - x) / jnp.linalg.norm(x)
    assert 0 < error < 0.03, (path, error)


def test_outputs_are_close_in_float32_and_in_bfloat16():
  (_, params), (model, quantized) = pair()
  exact = logits(MODEL, params)
  error = jnp.max(jnp.abs(logits(model, quantized) - exact)) / jnp.std(exact)
  assert 0 < error < 0.05
  half = logits(model.clone(dtype=jnp.bfloat16), quantized)
  assert jnp.max(jnp.abs(half - exact)) / jnp.std(exact) < 0.1


def test_scales_lie_with_their_outputs():
  names = {
    path.split("/")[1]: x.names
    for path, x in first_values().items()
    if path.endswith("kernel_scale")
  }
  assert names["q"] == ("layers", "heads", "head_dim")
  assert names["attention_out"] == ("layers", "embed")
  assert names["up"] == ("layers", "mlp")


@pytest.mark.parametrize("scheme", ("int3", ""))
def test_an_unknown_scheme_is_one_line(scheme):
  with pytest.raises(InputError, match="int8"):
    quantization.quantize(*pair()[0], scheme)
  with pytest.raises(InputError, match="quantize"):
    MODEL.clone(quantize=scheme)


def test_a_dit_is_refused():
  dit = fm.DiT(fm.Vocab(8, 6, 7), 16, hidden_size=16, num_layers=1, num_heads=2)
  with pytest.raises(InputError, match="the model is a DiT: leave it out"):
    quantization.quantize(dit, {})


def test_updates_do_not_merge_into_integers():
  with pytest.raises(InputError, match="cannot take up its low-rank update"):
    fm.merge_lora(*pair()[1])


def test_whole_training_of_integers_is_refused():
  tuned = tiny.train_step(model=pair()[1][0])
  base = flat(tuned.abstract_base)
  assert base["blocks/q/kernel"].dtype == jnp.int8
  assert "blocks/q/lora_a" not in base
  with pytest.raises(InputError, match="int8, which has no gradient") as error:
    tiny.train_step(model=pair()[1][0].clone(lora=None))
  assert "\n" not in str(error.value)


def test_estimates_of_memory_count_a_byte_each():
  (model, _), (whole, params) = pair()
  kernels = [x for x in flat(params).values() if x.dtype == jnp.int8]
  scales = [x for path, x in flat(params).items() if path.endswith("_scale")]
  saved = sum(x.size for x in kernels) - 2 * sum(x.size for x in scales)
  for of in (memory.of_sampling, memory.of_training):
    assert of(model, 4, 1) - of(whole, 4, 1) == saved


def test_sampling():
  (_, _), (model, params) = pair()
  linear = fm.schedules.Linear()
  samples = fm.sample(
    jax.random.key(0),
    fm.denoiser(model, params),
    fm.empty_start(4, L, model.vocab),
    fm.JointInterpolant(linear, linear),
    model.vocab,
    fm.SamplerConfig(steps=4),
  )
  assert jnp.all(samples.length <= L)
  assert jnp.all(samples.tokens != model.vocab.mask)


# --- Folders. ---


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
  """The tiny public FlexMDM: as published, converted, and exported in float."""
  tmp = tmp_path_factory.mktemp("folders")
  (tmp / "hf").mkdir()
  for name in (
    "config.json",
    "model.safetensors",
    "flexmdm_extras.safetensors",
  ):
    shutil.copy(GOLDEN / name, tmp / "hf")
  checkpoint.from_hf(tmp / "hf", tmp / "orbax")
  fm.load(tmp / "hf").export(tmp / "float")
  return tmp


@pytest.fixture(scope="module")
def loaded(folders):
  return fm.load(folders / "hf", quantize="int8")


def assert_equal_params(a, b):
  assert a.model == b.model
  a, b = flat(a.params), flat(b.params)
  assert a.keys() == b.keys()
  for path, x in a.items():
    assert x.dtype == b[path].dtype
    np.testing.assert_array_equal(x, b[path], err_msg=path)


@pytest.mark.parametrize(
  "kind", ("float", pytest.param("orbax", marks=pytest.mark.slow))
)
def test_every_folder_gives_the_same_integers(folders, loaded, kind):
  found = fm.load(folders / kind, quantize="int8")
  assert_equal_params(found.denoiser, loaded.denoiser)
  plain = fm.load(folders / kind).denoiser
  assert plain.model.quantize is None
  assert_equal_params(
    fm.denoiser(*quantization.quantize(plain.model, plain.params)),
    loaded.denoiser,
  )


def test_outputs_of_the_golden_model(folders, loaded):
  tokens = jnp.arange(48).reshape(2, 24) % 80
  predictions = [
    jax.jit(model.denoiser.model.apply)(
      {"params": model.denoiser.params},
      tokens.at[:, ::2].set(model.vocab.mask),
      jnp.array([24, 20]),
      jnp.array([0.3, 0.8]),
    )
    for model in (fm.load(folders / "hf"), loaded)
  ]
  exact, quantized = (x.token_logits[:, :20] for x in predictions)
  error = jnp.sqrt(jnp.mean((quantized - exact) ** 2)) / jnp.std(exact)
  assert 0 < error < 0.04  # 0.022 when written


def test_an_export_keeps_the_integers(loaded, tmp_path):
  loaded.export(tmp_path / "kept")
  again = fm.load(tmp_path / "kept")
  assert_equal_params(again.denoiser, loaded.denoiser)
  # Quantised already.
  assert fm.load(tmp_path / "kept", quantize="int8").denoiser.model == (
    loaded.denoiser.model
  )
  loaded.export(tmp_path / "half", dtype="bfloat16")
  half = fm.load(tmp_path / "half").denoiser.params
  kept = loaded.denoiser.params
  assert half["embed"].dtype == jnp.bfloat16
  for name in ("kernel", "kernel_scale"):
    np.testing.assert_array_equal(
      half["blocks"]["q"][name], kept["blocks"]["q"][name]
    )


def test_a_damaged_export_is_one_line(loaded, tmp_path):
  loaded.export(tmp_path / "kept")
  (tmp_path / "kept" / "flexmdm_checksums.json").unlink()
  config = tmp_path / "kept" / "config.json"
  network = json.loads(config.read_text())["network"]
  hf.edit_json(config, network={**network, "quantize": None})
  with pytest.raises(InputError, match=r"has blocks.*kernel_scale.*lacks"):
    fm.load(tmp_path / "kept")
  hf.edit_weights(
    tmp_path / "kept",
    lambda x: [x.pop(key) for key in list(x) if key.endswith("_scale")],
  )
  with pytest.raises(InputError, match="neither float32 nor bfloat16"):
    fm.load(tmp_path / "kept")
  hf.edit_json(config, network={**network, "quantize": "int3"})
  with pytest.raises(InputError, match=r"network\.quantize.*int8"):
    fm.load(tmp_path / "kept")


def test_integers_in_a_public_folder_are_refused(folders, tmp_path):
  shutil.copytree(folders / "hf", tmp_path / "in")
  key = "model.layers.0.self_attn.q_proj.weight"
  hf.edit_weights(
    tmp_path / "in", lambda x: x.update({key: x[key].astype(np.int8)})
  )
  with pytest.raises(InputError, match=f"{key} is quantised"):
    fm.load(tmp_path / "in", quantize="int8")


def test_load_refuses_an_unknown_scheme_before_it_reads():
  with pytest.raises(InputError, match=r"quantize.*nf4.*int8"):
    fm.load("no such folder", quantize="nf4")


def test_a_public_folder_has_no_place_for_scales(loaded, tmp_path):
  network = loaded.denoiser
  with pytest.raises(InputError, match="no place for scales"):
    fm.convert.dream_flexmdm_to_hf(
      network.model, network.params, tmp_path / "out"
    )
  assert not list(tmp_path.iterdir())
