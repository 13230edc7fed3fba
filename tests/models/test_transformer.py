"""The pretrained Transformer: golden parity, its retrofit, independence."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

import flexmdm_jax as fm
from flexmdm_jax.models.lora import LoRA
from flexmdm_jax.models.transformer import Transformer, merge_lora
from flexmdm_jax.pretrained import model_from_config
from flexmdm_jax.pretrained.weights import flat_params

VOCAB = fm.Vocab(size=11, mask=9, pad=10)
L = 6
RETROFIT = {
  "gap_head": "log_rate",
  "time_group": 2,
  "lora": LoRA(rank=2, alpha=3.0, dropout=0.5),
}


def make(**options):
  small = dict(
    vocab=VOCAB,
    max_length=L,
    hidden_size=16,
    num_layers=3,
    num_heads=4,
    num_kv_heads=2,
    mlp_size=12,
  )
  return Transformer(**{**small, **options})


def inputs():
  tokens = jnp.array([[0, 1, 9, 9, 2, 3], [4, 9, 0, 0, 0, 0]])
  return tokens, jnp.array([6, 2]), jnp.array([0.25, 0.75])


def noisy_params(model):
  """Parameters none of which is zero, so that every path carries a signal."""
  rng = np.random.default_rng(0)
  flat = {
    path: jnp.asarray(rng.normal(0, 0.3, x.shape), x.dtype)
    for path, x in flat_params(model).items()
  }
  return traverse_util.unflatten_dict(flat, sep="/")


def apply(model, params, *args, **options):
  run = jax.jit(
    lambda params: model.apply({"params": params}, *args, **options)
  )
  return run(params)


# --- Parity with the public PyTorch code. ---


@pytest.fixture(scope="module")
def folder(request):
  return request.config.rootpath / "tests/golden/llada_tiny"


@pytest.fixture(scope="module")
def public(folder):
  """The public retrofit, as the public code computes it."""
  return fm.convert.llada_from_hf(
    folder, retrofit=folder / "retrofit.safetensors", mask_padding=False
  )


def test_golden_backbone(folder, golden):
  arrays = golden("llada_tiny/backbone_io.safetensors")
  model, params = fm.convert.llada_from_hf(folder, mask_padding=False)
  tokens = jnp.asarray(arrays["input_ids"], jnp.int32)
  full = jnp.full(2, tokens.shape[1])
  features = apply(model, params, tokens, full, jnp.zeros(2), features=True)
  close = dict(rtol=1e-4, atol=1e-5)
  np.testing.assert_allclose(
    features.hidden, arrays["last_hidden_state"], **close
  )
  prediction = features.prediction()
  np.testing.assert_allclose(prediction.token_logits, arrays["logits"], **close)
  assert prediction.log_gaps.shape == (2, 25)
  assert (prediction.log_gaps == -np.inf).all()


def golden_retrofit(public, golden, model=None):
  arrays = golden("llada_tiny/retrofit_io.safetensors")
  tokens = jnp.asarray(arrays["input_ids"], jnp.int32)
  full = jnp.full(2, tokens.shape[1])
  args = tokens, full, jnp.asarray(arrays["t"])
  own, params = public
  return apply(model or own, params, *args), arrays


def test_golden_retrofit(public, golden):
  prediction, arrays = golden_retrofit(public, golden)
  np.testing.assert_allclose(
    prediction.token_logits, arrays["logits"], rtol=1e-4, atol=1e-5
  )
  np.testing.assert_allclose(
    np.exp(prediction.log_gaps), arrays["length"], rtol=5e-6
  )


def test_golden_retrofit_with_its_updates_merged(public, golden):
  arrays = golden_retrofit(public, golden)[1]
  merged = merge_lora(*public)
  assert merged[0].lora is None
  assert not any("lora" in str(p) for p in jax.tree.leaves_with_path(merged[1]))
  prediction, _ = golden_retrofit(merged, golden)
  np.testing.assert_allclose(
    prediction.token_logits, arrays["logits"], rtol=1e-4, atol=1e-5
  )


@pytest.mark.slow
def test_remat_changes_nothing():
  def gradient(remat):
    model = make(remat=remat, **RETROFIT)

    def loss(params):
      prediction = model.apply({"params": params}, *inputs())
      return jnp.mean(prediction.token_logits**2) - jnp.mean(
        prediction.log_gaps
      )

    return jax.jit(jax.grad(loss))(noisy_params(model))

  plain = gradient("none")
  for remat in ("dots", "full"):
    jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
      plain,
      gradient(remat),
    )
  for leaf in jax.tree.leaves(plain):
    assert np.isfinite(leaf).all() and np.abs(leaf).max() > 0


# --- The second family: grouped heads, biases, outputs of the next token. ---


def qwen2(params, tokens, base, epsilon):
  """Logits of one row of tokens, written from the family's description."""
  params = jax.tree.map(lambda x: np.asarray(x, np.float64), params)

  def norm(x, scale):
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + epsilon) * scale

  def turn(x):  # [T, H, D]
    half = x.shape[-1] // 2
    angle = np.arange(len(x))[:, None] / base ** (np.arange(half) / half)
    pairs = x[..., :half] + 1j * x[..., half:]
    pairs = pairs * np.exp(1j * angle)[:, None]
    return np.concatenate([pairs.real, pairs.imag], -1)

  x = params["embed"][tokens]
  for i in range(3):
    block = jax.tree.map(lambda w, i=i: w[i], params["blocks"])
    y = norm(x, block["attention_norm"]["scale"])
    q, k, v = (
      np.einsum("td,dhe->the", y, block[name]["kernel"]) + block[name]["bias"]
      for name in "qkv"
    )
    q, k = turn(q), np.repeat(turn(k), 2, axis=1)
    scores = np.einsum("the,she->hts", q, k) / 2.0
    weights = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
    y = np.einsum("hts,she->the", weights, np.repeat(v, 2, axis=1))
    x = x + np.einsum("the,hed->td", y, block["attention_out"]["kernel"])
    y = norm(x, block["mlp_norm"]["scale"])
    gate = y @ block["gate"]["kernel"]
    y = gate / (1 + np.exp(-gate)) * (y @ block["up"]["kernel"])
    x = x + y @ block["down"]["kernel"]
  return norm(x, params["norm"]["scale"]) @ params["head"]["kernel"]


def test_outputs_of_the_next_token():
  model = make(qkv_bias=True, begin=7, rotary_base=1e6, norm_epsilon=1e-6)
  params = noisy_params(model)
  prediction = apply(model, params, *inputs())
  assert prediction.log_gaps.shape == (2, L + 1)
  for b, row in enumerate([[0, 1, 9, 9, 2, 3], [4, 9]]):
    # The output at one position is of the token at the next.
    expected = qwen2(params, [7, *row], 1e6, 1e-6)[: len(row)]
    actual = prediction.token_logits[b, : len(row)]
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-4)


def test_a_tied_head_is_the_embedding():
  params = noisy_params(make(tied=True))
  assert "head" not in params
  tied = apply(make(tied=True), params, *inputs())
  untied = {**params, "head": {"kernel": params["embed"].T}}
  expected = apply(make(), untied, *inputs())
  np.testing.assert_array_equal(tied.token_logits, expected.token_logits)


# --- What a row may not depend on. ---


@pytest.mark.parametrize("begin", [None, 7])
def test_padding_never_changes_a_row(begin):
  model = make(begin=begin, **RETROFIT)
  params = noisy_params(model)
  tokens, length, t = inputs()
  expected = apply(model, params, tokens, length, t)
  poisoned = tokens.at[1, 2:].set(jnp.array([9, 3, 1, 2]))
  actual = apply(model, params, poisoned, length, t)
  jax.tree.map(np.testing.assert_array_equal, actual, expected)
  # In less room.
  short = apply(model, params, tokens[1:, :3], length[1:], t[1:])
  for ours, theirs in zip(
    (short.token_logits[0, :2], short.log_gaps[0, :3]),
    (expected.token_logits[1, :2], expected.log_gaps[1, :3]),
    strict=True,
  ):
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_padding_takes_part_where_asked():
  model = make(mask_padding=False)
  params = noisy_params(model)
  tokens, length, t = inputs()
  padded = tokens.at[1, 2:].set(VOCAB.pad)
  actual = apply(model, params, tokens, length, t).token_logits[1]
  expected = apply(model, params, padded, jnp.full(2, L), t).token_logits[1]
  np.testing.assert_array_equal(actual, expected)
  alone = apply(make(), params, tokens, length, t).token_logits[1]
  assert np.abs(alone[:2] - actual[:2]).max() > 1e-3


def test_bfloat16_gives_float32():
  model = make(dtype=jnp.bfloat16, param_dtype=jnp.bfloat16, **RETROFIT)
  params = noisy_params(model)
  assert params["blocks"]["q"]["kernel"].dtype == jnp.bfloat16
  assert params["blocks"]["q"]["lora_a"].dtype == jnp.float32
  prediction = apply(model, params, *inputs())
  assert prediction.token_logits.dtype == prediction.log_gaps.dtype
  assert prediction.token_logits.dtype == jnp.float32
  exact = apply(make(**RETROFIT), params, *inputs())
  scale = np.abs(exact.token_logits).max()
  # bfloat16 keeps 8 bits: a few units in its last place after three blocks.
  np.testing.assert_allclose(
    prediction.token_logits, exact.token_logits, atol=8 * 2.0**-8 * scale
  )


def test_a_mesh_changes_no_output():
  model = make(attention="xla", **RETROFIT)
  params = noisy_params(model)
  args = jax.tree.map(lambda x: jnp.repeat(x, 2, axis=0), inputs())
  expected = apply(model, params, *args)
  mesh = jax.make_mesh(
    (2, 2, 2), ("data", "fsdp", "tensor"), axis_types=(AxisType.Auto,) * 3
  )
  with jax.set_mesh(mesh):
    actual = apply(model, params, *args)
  assert len(actual.token_logits.sharding.device_set) == 8
  np.testing.assert_allclose(
    actual.token_logits, expected.token_logits, atol=1e-5
  )
  np.testing.assert_allclose(actual.log_gaps, expected.log_gaps, atol=1e-5)


def test_it_compiles_for_a_tpu(tpu_devices):
  """Splash attention under scan, rematerialisation and a mesh."""
  mesh = Mesh(
    tpu_devices("v5e:2x2", (2, 1, 2)),
    ("data", "fsdp", "tensor"),
    axis_types=(AxisType.Auto,) * 3,
  )
  model = make(
    hidden_size=256, dtype=jnp.bfloat16, remat="full", begin=7, **RETROFIT
  )
  whole = NamedSharding(mesh, PartitionSpec())
  abstract = traverse_util.unflatten_dict(
    {
      path: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=whole)
      for path, x in flat_params(model).items()
    },
    sep="/",
  )
  rows = NamedSharding(mesh, PartitionSpec("data"))
  args = [
    jax.ShapeDtypeStruct(shape, dtype, sharding=rows)
    for shape, dtype in [
      ((4, 200), jnp.int32),
      ((4,), jnp.int32),
      ((4,), jnp.float32),
    ]
  ]

  def loss(params, *args):
    prediction = model.apply({"params": params}, *args)
    return jnp.mean(prediction.token_logits) + jnp.mean(prediction.log_gaps)

  with jax.set_mesh(mesh):
    compiled = jax.jit(jax.grad(loss)).lower(abstract, *args).compile()
  # Forward, forward again, gradients of queries and of keys and values.
  text = compiled.as_text()
  assert text.count('custom_call_target="tpu_custom_call"') == 4


# --- The retrofit. ---


def test_a_new_retrofit_changes_no_logit():
  model = make(**RETROFIT)
  params = nn.unbox(jax.jit(model.init)(jax.random.key(0), *inputs()))["params"]
  plain = make(gap_head="log_rate")
  kept = {k: x for k, x in params.items() if k not in ("time", "modulation")}
  expected = apply(plain, kept, *inputs())
  actual = apply(model, params, *inputs())
  np.testing.assert_array_equal(actual.token_logits, expected.token_logits)
  assert (np.abs(actual.log_gaps + 1) < 0.8).all()


def test_groups_of_blocks_share_a_modulation():
  params = noisy_params(make(**RETROFIT))
  assert params["modulation"]["kernel"].shape == (2, 16, 2, 16)

  def logits(group):
    changed = jax.tree.map(lambda x: x.at[group].add(1.0), params["modulation"])
    changed = {**params, "modulation": changed}
    return apply(make(**RETROFIT), changed, *inputs()).token_logits

  assert np.abs(logits(0) - logits(1)).max() > 1e-2


def test_features_are_the_prediction():
  model = make(**RETROFIT)
  params = noisy_params(model)
  features = apply(model, params, *inputs(), features=True)
  inner, matrix = features.adapter
  assert inner.shape == (2, L, 2) and matrix.shape == (2, VOCAB.size)
  expected = features.hidden @ features.unembed + inner @ matrix
  actual = apply(model, params, *inputs()).token_logits
  np.testing.assert_allclose(actual, expected, atol=1e-5)


@pytest.mark.parametrize("tied", [False, True])
def test_merging_changes_no_output(tied):
  targets = ("q", "v", "attention_out", "gate", "down", "head")
  lora = LoRA(rank=2, alpha=3.0, dropout=0.5, targets=targets)
  model = make(**{**RETROFIT, "lora": lora}, tied=tied)
  params = noisy_params(model)
  merged, merged_params = merge_lora(model, params)
  assert set(flat_params(merged)) == set(
    traverse_util.flatten_dict(merged_params, sep="/")
  )
  actual = apply(merged, merged_params, *inputs())
  expected = apply(model, params, *inputs())
  np.testing.assert_allclose(
    actual.token_logits, expected.token_logits, rtol=1e-4, atol=1e-4
  )
  assert merge_lora(merged, merged_params) == (merged, merged_params)


def test_dropout_is_for_training_only():
  model = make(**RETROFIT)
  params = noisy_params(model)

  # One function, compiled with and without keys.
  apply = jax.jit(lambda denoiser: denoiser(*inputs()).token_logits)

  def run(rngs=None):
    return apply(fm.denoiser(model, params, rngs=rngs))

  plain = run()
  first = run({"dropout": jax.random.key(0)})
  second = run({"dropout": jax.random.key(1)})
  np.testing.assert_array_equal(plain, run())
  assert np.abs(first - plain).max() > 1e-3
  assert np.abs(first - second).max() > 1e-3
  assert np.isfinite(first).all()


# --- The 8B network's sizes, on abstract shapes. ---


@pytest.fixture(scope="module")
def llada_8b():
  config = dict(
    architectures=["LLaDAModelLM"],
    block_type="llama",
    layer_norm_type="rms",
    activation_type="silu",
    rope=True,
    vocab_size=126464,
    mask_token_id=126336,
    pad_token_id=126081,
    max_sequence_length=4096,
    d_model=4096,
    n_layers=32,
    n_heads=32,
    mlp_hidden_size=12288,
    rope_theta=500000.0,
    rms_norm_eps=1e-5,
  )
  return model_from_config(
    config, gap_head="softplus", time_group=8, lora=LoRA()
  )


def test_parameter_count_of_the_paper_s_retrofit(llada_8b):
  sizes = {path: x.size for path, x in flat_params(llada_8b).items()}
  trainable = {
    path for path in sizes if llada_8b.trainable(tuple(path.split("/")))
  }
  d, v, r = 4096, 126464, 128
  adapters = 32 * 3 * 2 * d * r + (d + v) * r
  time = (d + 1) * 4 * d + (4 * d + 1) * d
  modulation = 4 * (d + 1) * 2 * d
  gap_head = 2 * d + (d + 1) * d + d + 1
  by_hand = adapters + time + modulation + gap_head
  assert sum(sizes[path] for path in trainable) == by_hand == 402_657_281
  base = sum(size for path, size in sizes.items() if path not in trainable)
  block = 4 * d * d + 3 * d * 12288 + 2 * d
  assert base == 32 * block + 2 * v * d + d == 8_015_581_184


def test_full_fine_tuning_trains_everything(llada_8b):
  model = llada_8b.clone(lora=None)
  assert all(
    model.trainable(tuple(path.split("/"))) for path in flat_params(model)
  )


# --- Errors. ---


@pytest.mark.parametrize(
  ("options", "named"),
  [
    ({"gap_head": "poisson"}, "gap_head='poisson'"),
    ({"remat": "some"}, "remat='some'"),
    ({"attention": "flash"}, "attention='flash'"),
    ({"hidden_size": 18}, "hidden_size=18"),
    ({"num_kv_heads": 3}, "num_kv_heads=3"),
    ({"time_group": 0}, "time_group=0"),
    ({"begin": 11}, "begin=11"),
  ],
)
def test_errors(options, named):
  with pytest.raises(fm.InputError, match=named):
    make(**options)


@pytest.mark.parametrize(
  ("options", "named"),
  [
    ({"rank": 0}, "lora.rank=0"),
    ({"dropout": 1.0}, "lora.dropout=1.0"),
    ({"targets": ("q", "query")}, "query"),
    ({"targets": ()}, "lora.targets is empty"),
  ],
)
def test_lora_errors(options, named):
  with pytest.raises(fm.InputError, match=named):
    dataclasses.replace(LoRA(), **options)
