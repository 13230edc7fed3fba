"""The public 7B FlexMDM: its arrays, its folder, its prompts, its loss."""

import dataclasses
import functools
import json
import math
import shutil

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from flax import traverse_util
from safetensors.numpy import load_file, save_file

import flexmdm_jax as fm
from experiments.configs import dream_flexmdm_7b
from flexmdm_jax import losses
from flexmdm_jax.dryrun.report import run_without_data
from flexmdm_jax.interpolant import noise
from flexmdm_jax.models import quantization
from flexmdm_jax.models.transformer import ADDED
from flexmdm_jax.pretrained import FAMILIES, checkpoint, dream_flexmdm
from flexmdm_jax.pretrained.families import places_of
from flexmdm_jax.pretrained.weights import flat_params
from flexmdm_jax.runs import Run
from flexmdm_jax.states import PathStates
from flexmdm_jax.training.objectives import Diffusion
from tests.data.tiny_text import write_model_folder
from tests.pretrained import hf

GOLDEN = hf.ROOT / "tests/golden/dream_flexmdm_tiny"
PICKLED, SAFE = "flexmdm_extras.pt", "flexmdm_extras.safetensors"
BEGIN = 89
PATHS = PathStates(
  dream_flexmdm.INTERPOLANT, time_exponent=1.0, weight_floor=1e-3
)


def copied(folder, extras=SAFE):
  """A copy of the golden folder with one file of extras, or none."""
  folder.mkdir(parents=True)
  for name in ("config.json", "model.safetensors", extras):
    if name:
      shutil.copy(GOLDEN / name, folder)
  return folder


@pytest.fixture(scope="module")
def loaded():
  return fm.convert.dream_flexmdm_from_hf(GOLDEN)


@pytest.fixture(scope="module")
def network(loaded):
  """`(params, tokens, length, t) -> Prediction`, compiled once."""
  model, params = loaded
  apply = jax.jit(model.apply)

  def predict(tokens, length, t, params=params):
    ids = (jnp.asarray(x, jnp.int32) for x in (tokens, length))
    return apply({"params": params}, *ids, jnp.asarray(t))

  return predict


@pytest.fixture(scope="module")
def io(golden):
  return golden("dream_flexmdm_tiny/io.safetensors")


@pytest.fixture(scope="module")
def loss(golden):
  arrays = golden("dream_flexmdm_tiny/noise_and_loss.safetensors")
  return {
    key: jnp.asarray(x.astype(np.int32) if x.dtype == np.int64 else x)
    for key, x in arrays.items()
  }


def inside(length, L=24):
  return np.arange(L) < np.asarray(length)[:, None]


def assert_close(actual, expected, where, tolerance):
  difference = np.abs(np.asarray(actual) - np.asarray(expected))
  assert difference[where].max() <= tolerance


# --- The network. ---


def test_fields(loaded):
  model, params = loaded
  assert model == fm.Transformer(
    vocab=fm.Vocab(97, mask=90, pad=88),
    max_length=768,
    hidden_size=64,
    num_layers=3,
    num_heads=4,
    num_kv_heads=2,
    mlp_size=160,
    rotary_base=1e6,
    norm_epsilon=1e-6,
    qkv_bias=True,
    shifted=True,
    gap_head="log_rate",
    time_group=1,
    time_scale=1000.0,
  )
  assert params["modulation"]["kernel"].shape == (3, 64, 2, 64)


def hf_config(folder):
  return json.loads((folder / "config.json").read_text())


@pytest.mark.parametrize("extras", [PICKLED, SAFE])
def test_parity(tmp_path, network, io, extras):
  _, params = fm.convert.dream_flexmdm_from_hf(copied(tmp_path / "in", extras))
  found = network(io["input_ids"], io["length"], io["t"], params)
  there = inside(io["length"])
  assert_close(found.token_logits, io["logits_unmask"], there, 2e-3)
  assert_close(found.log_gaps[:, 1:], io["log_length"], there, 2e-3)
  assert np.all(np.isneginf(found.log_gaps[:, 0]))
  assert found.token_logits.dtype == found.log_gaps.dtype == jnp.float32


@pytest.mark.parametrize("factor", [8, -8])
def test_the_clamp(loaded, network, io, factor):
  _, params = loaded
  out = jax.tree.map(lambda x: x * factor, params["gap_head"]["out"])
  params = {**params, "gap_head": {**params["gap_head"], "out": out}}
  found = network(io["input_ids"], io["length"], io["t"], params)
  name = f"times_{'minus_8' if factor < 0 else '8'}"
  expected = io[f"log_length_proj2_{name}"]
  there = inside(io["length"])
  assert np.abs(expected[there]).max() == 15
  assert_close(found.log_gaps[:, 1:], expected, there, 5e-3)


def test_padding_changes_nothing(network, io):
  there = inside(io["length"])
  expected = network(io["input_ids"], io["length"], io["t"])
  other = np.where(there, io["input_ids"], 7)
  found = network(other, io["length"], io["t"])
  np.testing.assert_array_equal(
    found.token_logits[there], expected.token_logits[there]
  )


@pytest.mark.slow
def test_features_are_the_prediction(loaded, io):
  model, params = loaded
  ids = [jnp.asarray(io[x], jnp.int32) for x in ("input_ids", "length")]
  model = model.clone(lora=fm.LoRA(rank=2, targets=("q", "head")))
  params = fill_lora(model, params)
  arguments = ({"params": params}, *ids, jnp.asarray(io["t"]))
  direct = model.apply(*arguments)
  late = model.apply(*arguments, features=True)
  there = inside(io["length"])
  assert_close(late.token_logits(), direct.token_logits, there, 1e-5)
  merged, merged_params = fm.merge_lora(model, params)
  found = merged.apply({"params": merged_params}, *arguments[1:])
  assert_close(found.token_logits, direct.token_logits, there, 1e-3)


def fill_lora(model, params):
  """The parameters, and numbers in the places of the low-rank updates."""
  flat = traverse_util.flatten_dict(params, sep="/")
  key = jax.random.key(0)
  for path, x in flat_params(model).items():
    if path not in flat:
      flat[path] = 0.1 * jax.random.normal(key, x.shape)
  return traverse_util.unflatten_dict(flat, sep="/")


@pytest.mark.parametrize(
  ("changes", "words"),
  [
    ({"begin": 3}, "begin=3"),
    ({"gap_head": "binned"}, "gap_head='binned'"),
  ],
)
def test_fields_that_do_not_go_together(loaded, changes, words):
  with pytest.raises(fm.InputError, match=words):
    loaded[0].clone(**changes)


def test_rates_are_zero_before_the_first_token(network, loss):
  found = network(loss["xt"], loss["xt_length"], loss["t"])
  model_vocab = fm.Vocab(97, mask=90, pad=88)
  rates = jax.vmap(
    functools.partial(
      fm.rates, interpolant=dream_flexmdm.INTERPOLANT, vocab=model_vocab
    )
  )(found, loss["xt"], loss["xt_length"], loss["t"])
  assert np.all(rates.insert[:, 0] == 0)
  assert np.all(np.isfinite(rates.insert)) and np.all(rates.insert >= 0)
  assert np.all(np.isfinite(rates.unmask))


def test_published_sizes():
  """28 layers of 3584: 7.6B of Dream-Coder, and .8B that are added."""
  model = published()
  sizes = {path: math.prod(x.shape) for path, x in flat_params(model).items()}
  added = sum(n for x, n in sizes.items() if x.split("/")[0] in ADDED)
  assert sum(sizes.values()) - added == 7_615_616_512
  assert added == 28 * 7168 * 3585 + sum(
    (14336 * 3585, 3584 * 14337, 2 * 3584, 3584 * 3585, 3585)
  )
  frozen = model.clone(lora=fm.LoRA(added=False))
  assert not frozen.trainable(("time", "in", "kernel"))
  assert frozen.trainable(("blocks", "q", "lora_a"))
  assert model.clone(lora=fm.LoRA()).trainable(("time", "in", "kernel"))


def published():
  """The network of the config."""
  config = dream_flexmdm_7b.get_config().to_dict()
  return run_without_data(config).model.clone(lora=None)


# --- Its folder. ---


def same_tensors(actual, expected):
  actual, expected = load_file(actual), load_file(expected)
  assert set(actual) == set(expected)
  for key, x in expected.items():
    assert actual[key].dtype == x.dtype, key
    np.testing.assert_array_equal(
      actual[key].view(np.uint8), x.view(np.uint8), err_msg=key
    )


@pytest.mark.parametrize(
  "extras", [PICKLED, pytest.param(SAFE, marks=pytest.mark.slow)]
)
def test_there_and_back_on_disk(tmp_path, loaded, extras):
  source = copied(tmp_path / "in", extras)
  (source / "tokenizer_config.json").write_text("{}")
  (source / "model.safetensors").unlink()
  hf.write(source, load_file(GOLDEN / "model.safetensors"), shards=3)
  model = checkpoint.from_hf(source, tmp_path / "orbax")
  assert model == loaded[0] == checkpoint.load_model(tmp_path / "orbax")
  params = checkpoint.load(tmp_path / "orbax", checkpoint.spread(model))
  jax.tree.map(np.testing.assert_array_equal, params, loaded[1])

  out = tmp_path / "out"
  checkpoint.to_hf(tmp_path / "orbax", out, max_bytes=200_000)
  state = {}
  for path in out.glob("model-*.safetensors"):
    state |= load_file(path)
  save_file(state, tmp_path / "joined.safetensors")
  same_tensors(tmp_path / "joined.safetensors", GOLDEN / "model.safetensors")
  assert not (out / PICKLED).exists()
  assert hf_config(out) == hf_config(source)
  assert (out / "tokenizer_config.json").exists()
  if extras == SAFE:
    same_tensors(out / SAFE, source / SAFE)
  else:  # in their own type
    kinds = {x.dtype for x in load_file(out / SAFE).values()}
    assert kinds == {np.dtype(ml_dtypes.bfloat16)}
  again = fm.convert.dream_flexmdm_from_hf(out)
  assert again[0] == loaded[0]
  jax.tree.map(np.testing.assert_array_equal, again[1], loaded[1])


def test_there_and_back_in_memory(tmp_path, loaded):
  fm.convert.dream_flexmdm_to_hf(*loaded, tmp_path / "out")
  for name in ("model.safetensors", SAFE):
    same_tensors(tmp_path / "out" / name, GOLDEN / name)
  model, params = fm.convert.dream_flexmdm_from_hf(tmp_path / "out")
  assert model == loaded[0] and dream_flexmdm.is_flexmdm(tmp_path / "out")
  jax.tree.map(np.testing.assert_array_equal, params, loaded[1])
  with pytest.raises(fm.InputError, match="is there already"):
    fm.convert.dream_flexmdm_to_hf(*loaded, tmp_path / "out")


def test_what_is_of_another_form(tmp_path, loaded):
  model, params = loaded
  for changes, words in (
    ({"time_group": 2}, "time_group=2"),
    ({"lora": fm.LoRA(rank=2)}, "merge_lora"),
  ):
    with pytest.raises(fm.InputError, match=words):
      fm.convert.dream_flexmdm_to_hf(
        model.clone(**changes), params, tmp_path / "out"
      )
  with pytest.raises(fm.InputError, match="shifted=True"):
    fm.convert.llada_to_hf(model, params, tmp_path / "out")
  assert not (tmp_path / "out").exists()


def test_the_backbone_in_half_precision(tmp_path):
  source = copied(tmp_path / "in", PICKLED)
  half = {
    key: x.astype(ml_dtypes.bfloat16)
    for key, x in load_file(GOLDEN / "model.safetensors").items()
  }
  save_file(half, source / "model.safetensors")
  model, params = fm.convert.dream_flexmdm_from_hf(source)
  assert model.dtype == model.param_dtype == jnp.bfloat16
  assert params["embed"].dtype == jnp.bfloat16
  assert params["modulation"]["kernel"].dtype == jnp.float32
  found = model.apply(
    {"params": params},
    jnp.ones((1, 4), jnp.int32),
    jnp.full(1, 4, jnp.int32),
    jnp.full(1, 0.5),
  )
  assert np.all(np.isfinite(found.token_logits))


def _extras(change):
  def spoil(folder):
    state = load_file(folder / SAFE)
    change(state)
    save_file(state, folder / SAFE)

  return spoil


def _remove(name):
  return lambda folder: (folder / name).unlink()


def _config(**changes):
  return lambda folder: hf.edit_json(folder / "config.json", **changes)


def _cut(name):
  def spoil(folder):
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[:-100])

  return spoil


def _pickled(folder):
  (folder / SAFE).rename(folder / PICKLED)


KEY = "temb_mods.1.weight"
BAD = {
  "no extras": (_remove(SAFE), "holds no flexmdm_extras.safetensors"),
  "missing extra": (
    _extras(lambda x: x.pop(KEY)),
    f"the weights lack {KEY}",
  ),
  "missing layer": (
    _config(num_hidden_layers=4),
    "the weights lack model.layers.3",
  ),
  "extra extra": (
    _extras(lambda x: x.update({"temb_mods.3.bias": x["temb_mods.1.bias"]})),
    "unknown tensors: temb_mods.3.bias",
  ),
  "wrong type": (
    _extras(lambda x: x.update({KEY: x[KEY].astype(np.int8)})),
    f"{KEY} is quantised",
  ),
  "wrong shape": (
    _extras(lambda x: x.update({KEY: x[KEY].T.copy()})),
    "[64, 128]",
  ),
  "in both files": (
    _extras(lambda x: x.update({"lm_head.weight": x[KEY]})),
    "lm_head.weight is in two files",
  ),
  "truncated extras": (_cut(SAFE), f"cannot read .*{SAFE}"),
  "extras of another kind": (_pickled, f"cannot read .*{PICKLED}"),
  "another architecture": (
    _config(architectures=["LlamaForCausalLM"]),
    "LlamaForCausalLM",
  ),
  "another type of model": (_config(model_type="Qwen2"), "model_type='Qwen2'"),
  "no weights": (_remove("model.safetensors"), "holds no .safetensors file"),
  "no config": (_remove("config.json"), "config.json"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_folders(tmp_path, name):
  spoil, words = BAD[name]
  folder = copied(tmp_path / "in")
  spoil(folder)
  with pytest.raises(fm.InputError) as error:
    fm.convert.dream_flexmdm_from_hf(folder)
  line = str(error.value)
  assert "\n" not in line
  for part in words.split(".*"):
    assert part in line, line
  if name != "no extras":  # which is a good Dream
    with pytest.raises(fm.InputError) as error:
      checkpoint.from_hf(folder, tmp_path / "out")
    assert str(error.value) == line
    assert not (tmp_path / "out").exists()


def test_extras_of_a_llada(tmp_path):
  folder = hf.copy(tmp_path / "in")
  shutil.copy(GOLDEN / SAFE, folder)
  with pytest.raises(fm.InputError, match="belong to model_type='Dream'"):
    fm.convert.llada_from_hf(folder)
  assert not dream_flexmdm.is_flexmdm(folder)


def test_a_retrofit_of_a_flexmdm():
  with pytest.raises(fm.InputError, match="give no retrofit"):
    fm.convert.llada_from_hf(GOLDEN, retrofit=GOLDEN / SAFE)


def test_detection(tmp_path):
  assert dream_flexmdm.is_flexmdm(GOLDEN)
  assert dream_flexmdm.is_flexmdm(copied(tmp_path / "a", PICKLED))
  assert not dream_flexmdm.is_flexmdm(copied(tmp_path / "b", None))
  assert not dream_flexmdm.is_flexmdm(tmp_path / "missing")
  assert dream_flexmdm.extras_file(GOLDEN).name == SAFE
  model, _ = fm.convert.llada_from_hf(GOLDEN)
  assert model.shifted


def test_every_name_is_known(loaded):
  places = places_of(loaded[0], FAMILIES["DreamModel"].table)
  keys = set(load_file(GOLDEN / "model.safetensors"))
  assert set(places) == keys | set(load_file(GOLDEN / SAFE))


# --- Prompts, schedules and sampling. ---


def test_the_id_that_begins(tmp_path, loaded):
  vocab = loaded[0].vocab
  path = tmp_path / "tokenizer_config.json"
  listed = {"89": {"content": "<b>"}, "x": {"content": "<c>"}, "7": 1}
  path.write_text(
    json.dumps({"bos_token": "<b>", "added_tokens_decoder": listed})
  )
  assert dream_flexmdm.begin_id(tmp_path, vocab) == 89
  path.write_text(json.dumps({"bos_token": {"content": "<b>"}}))
  with pytest.raises(fm.InputError, match="bos_token='<b>'"):
    dream_flexmdm.begin_id(tmp_path, vocab)
  tokens = {"added_tokens": [{"content": "<b>", "id": 89}, 3]}
  (tmp_path / "tokenizer.json").write_text(json.dumps(tokens))
  assert dream_flexmdm.begin_id(tmp_path, vocab) == 89
  tokens["added_tokens"][0]["id"] = 97
  (tmp_path / "tokenizer.json").write_text(json.dumps(tokens))
  with pytest.raises(fm.InputError, match="does not tell"):
    dream_flexmdm.begin_id(tmp_path, vocab)
  path.write_text(json.dumps({"bos_token": ["<b>"]}))
  with pytest.raises(fm.InputError, match="does not tell"):
    dream_flexmdm.begin_id(tmp_path, vocab)


def test_the_published_clock(golden):
  arrays = golden("dream_flexmdm_tiny/schedules.safetensors")
  key = "remap.power_2.9_to_power_1.7.f64"
  shown = fm.paths.trained_clock(
    dream_flexmdm.INTERPOLANT,
    dream_flexmdm.PUBLISHED_PATH,
    jnp.asarray(arrays["t"]),
  )
  np.testing.assert_allclose(shown, arrays[key], rtol=1e-4, atol=1e-6)
  for name in ("insertion", "unmasking"):
    schedule = getattr(dream_flexmdm.INTERPOLANT, name)
    found = schedule.alpha(jnp.asarray(arrays["t"]))
    expected = arrays[f"power_{schedule.exponent}.alpha.f64"]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
  "published", [pytest.param(True, marks=pytest.mark.slow), False]
)
def test_sampling(loaded, published):
  model, params = loaded
  path = trained = dream_flexmdm.INTERPOLANT
  config = fm.SamplerConfig(steps=6)
  if published:
    path = dream_flexmdm.PUBLISHED_PATH
    config = dataclasses.replace(dream_flexmdm.PUBLISHED_SAMPLER, steps=6)
  prompts = [[BEGIN, 1, 2, model.vocab.pad], [BEGIN, 3, model.vocab.pad]]
  start = fm.prompt_start(prompts, 16, model.vocab)
  # Random weights miss less than one token.
  head = params["gap_head"]
  out = {**head["out"], "bias": head["out"]["bias"] + 2}
  params = {**params, "gap_head": {**head, "out": out}}
  denoiser = fm.on_path(fm.denoiser(model, params), trained, path)
  found = fm.sample(
    jax.random.key(0), denoiser, start, path, model.vocab, config
  )
  for i, prompt in enumerate(prompts):
    row = np.asarray(found.tokens[i, : found.length[i]])
    np.testing.assert_array_equal(row[: len(prompt)], prompt)
    assert len(row) > len(prompt) and model.vocab.mask not in row


# --- Its loss. ---


def noised_of(loss, vocab):
  """The states that the public code made, by our noise."""
  prompts = loss["prompt_mask"] > 0

  def one(tokens, length, insertion_time, unmasking_time, t, frozen):
    return noise(
      tokens, length, insertion_time, unmasking_time, t, vocab, frozen
    )

  noised = jax.vmap(one)(
    loss["x1"],
    loss["x1_length"],
    loss["insertion_time"],
    loss["unmasking_time"],
    loss["t"],
    prompts,
  )
  # Of the row without a prompt, which released data have not: what is missing
  # before its first token is in no loss.
  return noised._replace(
    gaps=noised.gaps.at[:, 0].set(0),
    open_gaps=noised.open_gaps.at[:, 0].set(False),
  )


def test_noise(loaded, loss):
  noised = noised_of(loss, loaded[0].vocab)
  np.testing.assert_array_equal(noised.tokens, loss["xt"])
  np.testing.assert_array_equal(noised.length, loss["xt_length"])
  np.testing.assert_array_equal(noised.masked, loss["masked"] > 0)
  np.testing.assert_array_equal(noised.target, loss["target"])
  np.testing.assert_array_equal(noised.gaps[:, 1:], loss["gaps"])
  np.testing.assert_array_equal(
    noised.open_gaps[:, 1:], loss["insertion_mask"] > 0
  )


def test_weights(loss):
  states = PATHS.at(jax.random.split(jax.random.key(0), 4), loss["t"])
  for ours, theirs in (("unmask", "unmasking"), ("insert", "insertion")):
    np.testing.assert_allclose(
      getattr(states, f"{ours}_weight"), loss[f"{theirs}_weight"], rtol=1e-4
    )
  assert not PATHS.is_bound and PathStates(dream_flexmdm.INTERPOLANT).is_bound


def rows_of(loss, prediction, noised):
  """Each row's two losses as published, by our functions."""
  score = functools.partial(losses.unweighted_terms, gap_loss="poisson")
  terms = jax.vmap(score)(prediction, noised)
  return terms.weighted(loss["unmasking_weight"], loss["insertion_weight"])


def test_loss_of_the_arrays(loaded, loss):
  raw = loss["logits_raw"]
  prediction = fm.Prediction(
    jnp.concatenate([raw[:, :1], raw[:, :-1]], axis=1),
    jnp.pad(loss["log_length"], ((0, 0), (1, 0)), constant_values=-jnp.inf),
  )
  found = rows_of(loss, prediction, noised_of(loss, loaded[0].vocab))
  compare_losses(found, loss, 1e-5)


def compare_losses(found, loss, tolerance):
  size = len(loss["x1"]) * int(loss["max_len"][0])
  for ours, theirs in (("unmask", "unmask"), ("insert", "insertion")):
    rows = getattr(found, ours)
    np.testing.assert_allclose(
      rows, loss[f"{theirs}_loss_rows"], rtol=tolerance, atol=1e-6
    )
    np.testing.assert_allclose(
      jnp.sum(rows) / size, loss[f"{theirs}_loss"], rtol=tolerance
    )


def test_loss_through_the_model(loaded, network, loss):
  noised = noised_of(loss, loaded[0].vocab)
  prediction = network(noised.tokens, noised.length, loss["t"])
  compare_losses(rows_of(loss, prediction, noised), loss, 1e-3)


@pytest.mark.parametrize("chunk", [None, 8])
def test_the_objective_by_options(loaded, loss, chunk):
  """As `train` has them, dense and in chunks; with gradients."""
  model, params = loaded
  noised = noised_of(loss, model.vocab)
  objective = Diffusion(
    PATHS,
    model.vocab,
    gap_loss="poisson",
    loss_chunk=chunk,
    forbid_mask=False,
  )
  assert objective.bound_names == ("bound_unmask", "bound_insert")

  def total(params):
    features = fm.denoiser(model, params).features(
      noised.tokens, noised.length, loss["t"]
    )
    terms = objective._unweighted_terms(features, noised, None, "poisson")
    terms = terms.weighted(loss["unmasking_weight"], loss["insertion_weight"])
    return jnp.sum(terms.unmask) + jnp.sum(terms.insert), terms

  gradient, terms = jax.jit(jax.grad(total, has_aux=True))(params)
  compare_losses(terms, loss, 1e-3)
  assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves(gradient))
  assert all(np.any(x != 0) for x in jax.tree.leaves(gradient))


@pytest.mark.parametrize("gap_loss", ["phi", "damped", "poisson"])
def test_a_gap_that_is_never_open_costs_nothing(gap_loss):
  """Nor does it make a gradient that is not finite."""
  noised = fm.Noised(
    *(jnp.zeros(2, jnp.int32), jnp.int32(2), jnp.zeros(2, jnp.int32)),
    *(jnp.zeros(2, jnp.int32), jnp.zeros(2, bool)),
    gaps=jnp.array([0, 3, 0]),
    open_gaps=jnp.array([False, True, True]),
  )

  def nats(log_gaps):
    return losses.gap_nats(log_gaps, noised, None, gap_loss)

  log_gaps = jnp.array([-jnp.inf, 0.5, -1.0])
  value, gradient = jax.value_and_grad(nats)(log_gaps)
  assert np.isfinite(value) and np.all(np.isfinite(gradient))
  expected = jnp.exp(log_gaps[1:]) - jnp.array([3.0, 0.0])
  if gap_loss == "damped":
    expected /= 1 + jnp.exp(log_gaps[1:])
  np.testing.assert_allclose(gradient, [0.0, *expected], rtol=1e-5)


# --- Fine-tuning it. ---


@pytest.mark.slow
@pytest.mark.parametrize("rank, quantize", [(2, None), (0, None), (2, "int8")])
def test_fine_tuning(tmp_path, rank, quantize):
  """From its folder to a tuned run, and whole back to its folder."""
  sizes = dict(hidden_size=16, num_layers=2, num_heads=2, num_kv_heads=1)
  vocab = fm.Vocab(270, mask=262, pad=261)
  model = published().clone(
    **sizes,
    mlp_size=24,
    vocab=vocab,
    max_length=160,
    dtype=jnp.float32,
    param_dtype=jnp.float32,
  )
  params = fill_lora(model, {})
  fm.convert.dream_flexmdm_to_hf(model, params, tmp_path / "folder")
  checkpoint.from_hf(tmp_path / "folder", tmp_path / "orbax")

  rows = [{"question": f"{i}?", "answer": f"{i}\n#### {i}"} for i in range(9)]
  (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
  config = dream_flexmdm_7b.get_config()
  config.data.update(
    name="gsm8k",
    folder=str(tmp_path / "cache"),
    train=str(tmp_path / "rows.jsonl"),
    test=str(tmp_path / "rows.jsonl"),
    tokenizer_folder=str(write_model_folder(tmp_path / "tokenizer")),
    begin_id=5,
    separator_id=vocab.pad,
    max_length=160,
    buckets=(160,),
  )
  config.model.update(
    **sizes,
    mlp_size=24,
    vocab=dataclasses.asdict(vocab),
    dtype="float32",
    param_dtype="float32",
    quantize=quantize,
  )
  config.model.lora.rank = rank
  config.train.update(num_steps=2, batch_size=8, accumulation=1, report_every=1)
  config.optimizer.update(warmup_steps=0)
  config.pretrained = str(tmp_path / "orbax")
  run = Run.from_config(config.to_dict())
  result = run.train(tmp_path / "work", progress=False)
  assert result["step"] == 2 and np.isfinite(result["loss"])
  _, tuned = run.restore(tmp_path / "work")
  embed = tuned.params["embed"]
  assert np.array_equal(embed, params["embed"]) == bool(rank)
  if quantize:
    kernel = tuned.params["blocks"]["q"]["kernel"]
    assert kernel.dtype == jnp.int8
    config.model.quantize = None
    plain = Run.from_config(config.to_dict())
    plain.train(tmp_path / "plain", progress=False)
    # Trained in floating point, it is quantised where it is loaded.
    loaded = fm.load(tmp_path / "plain", quantize="int8").denoiser
    assert loaded.model == tuned.model
    assert np.array_equal(loaded.params["blocks"]["q"]["kernel"], kernel)
    return
  if not rank:
    # The weights of a run that was trained whole, with updates around them.
    config.model.update(quantize="int8", lora=dict(rank=2))
    config.pretrained = str(tmp_path / "work")
    around = Run.from_config(config.to_dict())
    base = around.with_weights(around.train_step()).base
    expected = quantization.quantize(tuned.model, tuned.params)[1]["blocks"]
    for name in ("kernel", "kernel_scale"):
      assert np.array_equal(base["blocks"]["q"][name], expected["q"][name])
  merged = fm.merge_lora(tuned.model, tuned.params)
  fm.convert.dream_flexmdm_to_hf(*merged, tmp_path / "tuned")
  again, _ = fm.convert.dream_flexmdm_from_hf(tmp_path / "tuned")
  assert again.clone(remat="full", mask_padding=True) == merged[0]
