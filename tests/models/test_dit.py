"""The DiT: golden parity, what a row may not depend on, heads, and sizes."""

import dataclasses
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flexmdm_jax as fm
from flexmdm_jax.models import attention, dit, gaps, layers

VOCAB = fm.Vocab(size=7, mask=5, pad=6)
L = 6


def make(**options):
  small = {"hidden_size": 16, "num_layers": 2, "num_heads": 2, "cond_size": 8}
  return dit.DiT(vocab=VOCAB, max_length=L, **{**small, **options})


def inputs():
  tokens = jnp.array([[0, 1, 5, 5, 2, 3], [4, 5, 6, 6, 6, 6]])
  return tokens, jnp.array([6, 2]), jnp.array([0.25, 0.75])


def abstract_params(model):
  variables = jax.eval_shape(model.init, jax.random.key(0), *inputs())
  return nn.unbox(variables)["params"]


def noisy_params(model):
  """Parameters none of which is zero, so that every path carries a signal."""
  rng = np.random.default_rng(0)
  return jax.tree.map(
    lambda x: jnp.asarray(rng.normal(0, 0.3, x.shape), jnp.float32),
    abstract_params(model),
  )


def apply(model, params):
  return jax.jit(model.apply)({"params": params}, *inputs())


def count(params):
  return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))


# --- Parity with the public PyTorch code. ---


@pytest.fixture(scope="module")
def public(golden):
  """The public model, its inputs, what it gave, and our jitted model."""
  config = golden("core_tiny/config.json")
  arrays = golden("core_tiny/interpolant_and_loss.safetensors")
  model, params = fm.convert.dit_from_torch(
    config, golden("core_tiny/ddit.safetensors")
  )
  tokens = jnp.asarray(arrays["xt"], jnp.int32)
  length = jnp.asarray(arrays["xt_length"], jnp.int32)
  t = jnp.asarray(arrays["t"])
  apply = jax.jit(model.apply)

  def run(tokens=tokens, length=length, t=t):
    return apply({"params": params}, tokens, length, t)

  return model, params, arrays, run


def rows(prediction, lengths):
  """Each row's defined outputs: logits of its tokens, and its gaps."""
  return [
    (prediction.token_logits[b, :n], prediction.log_gaps[b, : n + 1])
    for b, n in enumerate(np.asarray(lengths))
  ]


def test_golden_forward(public):
  _, _, arrays, run = public
  actual = rows(run(), arrays["xt_length"])
  for b, (token_logits, log_gaps) in enumerate(actual):
    n = arrays["xt_length"][b]
    expected = arrays["token_logits"][b, :n]
    np.testing.assert_allclose(token_logits, expected, rtol=1e-4, atol=1e-5)
    # Tight enough to tell this head's exact GELU from the tanh form.
    expected = arrays["expected_gaps"][b, : n + 1]
    np.testing.assert_allclose(np.exp(log_gaps), expected, rtol=5e-6)


def test_golden_parameter_count(public, golden):
  _, params, _, _ = public
  assert count(params) == golden("core_tiny/config.json")["n_params"]


def test_padding_and_batch_mates_never_change_a_row(public):
  _, _, arrays, run = public
  tokens = np.asarray(arrays["xt"], np.int32)
  length = np.asarray(arrays["xt_length"], np.int32)
  t = arrays["t"]
  expected = rows(run(), length)

  # Other ids, the mask's among them, beyond each row's end.
  beyond = np.arange(tokens.shape[1]) >= length[:, None]
  for poison in (38, 0, -1, 10_000):
    poisoned = jnp.asarray(np.where(beyond, poison, tokens))
    actual = rows(run(tokens=poisoned), length)
    jax.tree.map(np.testing.assert_array_equal, actual, expected)

  # Mates in another order, one of them at no time at all.
  order = np.array([3, 0, 5, 1, 4, 2])
  t = t[order].copy()
  t[0] = np.nan
  actual = rows(
    run(jnp.asarray(tokens[order]), jnp.asarray(length[order]), jnp.asarray(t)),
    length[order],
  )
  assert np.isnan(actual[0][0]).all()
  for b in range(1, 6):
    for ours, theirs in zip(actual[b], expected[order[b]], strict=True):
      np.testing.assert_allclose(ours, theirs, atol=1e-6)


def test_room_never_changes_a_row(public):
  """The same row in half the positions."""
  _, _, arrays, run = public
  short = [b for b, n in enumerate(arrays["xt_length"]) if n <= 12]
  expected = rows(run(), arrays["xt_length"])
  half = run(tokens=jnp.asarray(arrays["xt"][:, :12], jnp.int32))
  for b in short:
    n = arrays["xt_length"][b]
    np.testing.assert_allclose(
      half.token_logits[b, :n], expected[b][0], atol=1e-5
    )
    np.testing.assert_allclose(
      half.log_gaps[b, : n + 1], expected[b][1], atol=1e-5
    )


def test_bfloat16_is_close_and_float32_comes_out(public):
  model, params, arrays, run = public
  half = dataclasses.replace(model, dtype=jnp.bfloat16, parent=None)
  outputs = jax.jit(half.apply)(
    {"params": params},
    jnp.asarray(arrays["xt"], jnp.int32),
    jnp.asarray(arrays["xt_length"], jnp.int32),
    jnp.asarray(arrays["t"]),
  )
  assert outputs.token_logits.dtype == outputs.log_gaps.dtype == jnp.float32
  # bfloat16 keeps 8 bits: a few units in its last place after three blocks.
  error = 8 * 2.0**-8
  for actual, expected in zip(
    rows(outputs, arrays["xt_length"]),
    rows(run(), arrays["xt_length"]),
    strict=True,
  ):
    scale = max(1.0, np.abs(expected[0]).max(initial=0.0))
    np.testing.assert_allclose(actual[0], expected[0], atol=error * scale)
    np.testing.assert_allclose(actual[1], expected[1], atol=error)


# --- A fresh model. ---


@pytest.fixture(scope="module")
def fresh():
  return nn.unbox(jax.jit(make().init)(jax.random.key(0), *inputs()))["params"]


def test_a_new_block_is_the_identity(fresh):
  params = jax.tree.map(lambda x: x[0], fresh["blocks"])
  x = jax.random.normal(jax.random.key(0), (2, 4, 16))
  cond = jax.random.normal(jax.random.key(1), (2, 8))
  block = dit.Block(2, 64, jnp.float32, "xla", causal=False, neighbours=False)
  y, _ = jax.jit(block.apply)(
    {"params": params},
    x,
    cond,
    jnp.array([4, 2]),
    attention.rotary_phases(4, 8),
  )
  np.testing.assert_array_equal(y, x)


def test_a_new_model_knows_no_token_and_expects_few(fresh):
  prediction = apply(make(), fresh)
  assert (prediction.token_logits == 0).all()
  # exp(-1) tokens a gap, give or take the small random last layer.
  assert fresh["gap_head"]["out"]["bias"].tolist() == [-1.0]
  assert (np.exp(prediction.log_gaps) < 0.7).all()
  assert (np.exp(prediction.log_gaps) > 0.2).all()


def test_the_softplus_head_counts_from_max_length():
  model = make(gap_head="softplus")
  params = noisy_params(model)
  params["gap_head"]["out"] = {
    "kernel": jnp.zeros((16, 1)),
    "bias": jnp.ones(1),
  }
  expected = math.log(L * math.log(1 + math.e))
  np.testing.assert_allclose(apply(model, params).log_gaps, expected, rtol=1e-6)


# --- Heads. ---


def test_distribution_head_reports_the_mean_of_its_law():
  model = make(gap_head="distribution")
  prediction = apply(model, noisy_params(model))
  assert prediction.gap_logits.shape == (2, L + 1, L + 1)
  weights = np.exp(np.asarray(prediction.gap_logits, np.float64))
  law = weights / weights.sum(axis=-1, keepdims=True)
  np.testing.assert_allclose(
    np.exp(prediction.log_gaps), law @ np.arange(L + 1), rtol=1e-5
  )


@pytest.mark.parametrize(
  ("gap_head", "numbers"), [("binned", L + 1), ("negative_binomial", 2)]
)
def test_law_heads_report_the_mean_of_their_law(gap_head, numbers):
  model = make(gap_head=gap_head)
  params = noisy_params(model)
  assert params["gap_head"]["out"]["bias"].shape == (numbers,)
  prediction = apply(model, params)
  assert prediction.gap_logits is None
  assert all(x.shape[:2] == (2, L + 1) for x in jax.tree.leaves(prediction.law))
  np.testing.assert_array_equal(prediction.log_gaps, prediction.law.log_mean())
  assert len(np.unique(prediction.log_gaps)) > 5
  # Whatever the last layer gives, mean and shape are numbers to compute with.
  params["gap_head"]["out"]["bias"] = jnp.full(numbers, 1e4)
  law = apply(model, params).law
  assert np.isfinite(law.log_prob(jnp.full((2, L + 1), 3))).all()


@pytest.mark.parametrize("gap_head", ["binned", "negative_binomial"])
def test_new_law_heads_expect_few_tokens_at_any_length(gap_head):
  out = jnp.array(gaps.first_bias(gap_head, 1024))
  assert out.shape == (gaps.out_size(gap_head, 1024),)
  log_gaps, _, law = gaps.predict(gap_head, out, 1.0, 1024)
  np.testing.assert_allclose(log_gaps, -1.0, atol=2e-3)
  assert np.isfinite(law.log_prob(jnp.int32(1024)))


def test_log_mean_by_hand():
  # Counts 0, 1, 2 with probabilities 1/2, 1/4, 1/4; a law that is all on 0.
  logits = jnp.log(jnp.array([[2.0, 1.0, 1.0], [1.0, 0.0, 0.0]]))
  log_gaps, gap_logits, law = gaps.predict("distribution", logits, 1.0, 2)
  assert log_gaps.tolist() == [pytest.approx(math.log(0.75)), -math.inf]
  assert gap_logits is logits and law is None


def test_log_rates_are_clamped():
  model, params = make(), noisy_params(make())
  params["gap_head"]["out"]["bias"] = jnp.array([1e4])
  assert (apply(model, params).log_gaps == 15.0).all()


def test_without_a_gap_head_nothing_is_missing():
  model = make(gap_head=None)
  params = noisy_params(model)
  log_gaps = apply(model, params).log_gaps
  assert log_gaps.shape == (2, L + 1) and (log_gaps == -jnp.inf).all()
  assert count(params) < count(abstract_params(make()))
  assert "gap_head" not in params


# --- Parts. ---


def test_rotary_attention_sees_differences_of_position_only():
  q, k = jax.random.normal(jax.random.key(0), (2, 1, 1, 1, 8))
  phases = attention.rotary_phases(10, 8)

  def score(i, j):
    return jnp.vdot(
      attention.rotate(q, phases[:, i : i + 1]),
      attention.rotate(k, phases[:, j : j + 1]),
    )

  assert float(score(5, 2)) == pytest.approx(float(score(9, 6)), abs=1e-5)
  assert float(score(0, 0)) == pytest.approx(float(jnp.vdot(q, k)), abs=1e-5)
  assert abs(score(5, 2) - score(2, 5)) > 1e-3


def test_elementwise_remat_repeats_no_attention_kernel():
  tokens, length, t = inputs()

  def num_kernels(remat):
    model = make(remat=remat, attention="splash")

    def loss(params):
      prediction = model.apply({"params": params}, tokens, length, t)
      return jnp.mean(prediction.log_gaps)

    return str(jax.make_jaxpr(jax.grad(loss))(noisy_params(model))).count(
      "pallas_call["
    )

  once = num_kernels("none")
  assert num_kernels("elementwise") == once > 0
  assert num_kernels("dots") == num_kernels("full") == once + 1


def test_unknown_remat_is_refused():
  with pytest.raises(fm.InputError, match="remat='some'"):
    make(remat="some")


@pytest.mark.slow
def test_remat_changes_no_gradient():
  tokens, length, t = inputs()

  def gradient(model):
    def loss(params):
      prediction = model.apply({"params": params}, tokens, length, t)
      return jnp.mean(prediction.token_logits**2) - jnp.mean(
        prediction.log_gaps
      )

    return jax.jit(jax.grad(loss))(noisy_params(model))

  plain = gradient(make(remat="none"))
  for remat in ("elementwise", "dots", "full"):
    jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
      plain,
      gradient(make(remat=remat)),
    )
  for leaf in jax.tree.leaves(plain):
    assert np.isfinite(leaf).all() and np.abs(leaf).max() > 0


@pytest.mark.parametrize("neighbours", ["input", "blocks"])
@pytest.mark.parametrize("causal", [False, True])
def test_neighbours_see_what_they_may_and_no_padding(neighbours, causal):
  model = make(
    neighbours=neighbours,
    causal=causal,
    gap_head=None if causal else "log_rate",
  )
  params, (tokens, length, t) = noisy_params(model), inputs()
  run = jax.jit(lambda *x: model.apply({"params": params}, *x).token_logits)
  logits = run(tokens, length, t)
  # What lies beyond a row is not read, nor how much of it there is.
  beyond = run(jnp.where(tokens == VOCAB.pad, 3, tokens), length, t)
  np.testing.assert_array_equal(beyond[1, :2], logits[1, :2])
  longer = jnp.pad(tokens, ((0, 0), (0, 3)), constant_values=2)
  np.testing.assert_allclose(
    run(longer, length, t)[:, :2], logits[:, :2], rtol=1e-4, atol=1e-5
  )
  # A causal model sees nothing of what comes after.
  changed = run(tokens.at[0, 3].set(1), length, t)
  same = np.isclose(changed[0, :3], logits[0, :3]).all()
  assert same == causal


def test_neighbours_reach_one_place_on_each_side():
  mix = layers.Neighbours(causal=False, channelwise=False, dtype=jnp.float32)
  x = jnp.eye(5)[None]
  params = {"mix": {"kernel": jnp.concatenate([jnp.eye(5), 10 * jnp.eye(5)])}}
  out = mix.apply({"params": params}, x, jnp.array([4]))[0]
  # Row i is itself, its left neighbour, and ten times its right one.
  expected = jnp.eye(5) + jnp.eye(5, k=-1) + 10 * jnp.eye(5, k=1)
  # The fifth lies beyond the row: it is nobody's neighbour.
  np.testing.assert_array_equal(out[:4, :4], expected[:4, :4])
  assert (out[:4, 4] == 0).all()


def test_unrolling_changes_nothing():
  model = make()
  params = noisy_params(model)
  once, all_ = (apply(model.clone(unroll=unroll), params) for unroll in (1, 2))
  np.testing.assert_allclose(
    once.token_logits, all_.token_logits, rtol=1e-4, atol=1e-5
  )


def test_denoiser_is_the_model_with_its_parameters():
  model = make()
  params = noisy_params(model)
  expected = apply(model, params)
  denoiser = fm.denoiser(model, params)
  # A pytree: its parameters are arguments of the jitted function.
  assert jax.tree.structure(denoiser).num_leaves == len(jax.tree.leaves(params))
  actual = jax.jit(lambda denoiser: denoiser(*inputs()))(denoiser)
  jax.tree.map(np.testing.assert_array_equal, actual, expected)


# --- Sizes and errors. ---


def test_parameter_count_of_the_paper_s_model():
  model = dit.DiT(
    vocab=fm.Vocab(50259, 50258, 50257), max_length=1024, gap_head="softplus"
  )
  abstract = jax.eval_shape(
    model.init,
    jax.random.key(0),
    jnp.zeros((1, 8), jnp.int32),
    jnp.zeros(1, jnp.int32),
    jnp.zeros(1),
  )
  d, c, v = 768, 128, 50259
  block = 4 * d * d + 2 * (4 * d * d) + 5 * d + 2 * d + (c + 1) * 6 * d
  time = (256 + 1) * c + (c + 1) * c
  vocab_head = (c + 1) * 2 * d + d + (d + 1) * v
  gap_head = (c + 1) * 2 * d + d + (d + 1) * d + (d + 1)
  by_hand = v * d + time + 12 * block + vocab_head + gap_head
  assert count(abstract["params"]) == by_hand == 170_419_028
  assert abs(by_hand - 170.4e6) < 0.1e6


@pytest.mark.parametrize(
  ("options", "named"),
  [
    ({"gap_head": "poisson"}, "gap_head='poisson'"),
    ({"hidden_size": 18, "num_heads": 4}, "hidden_size=18"),
    ({"hidden_size": 12, "num_heads": 4}, "hidden_size=12"),
    ({"causal": True}, "causal=False"),
    ({"neighbours": "both"}, "neighbours='both'"),
  ],
)
def test_errors(options, named):
  with pytest.raises(fm.InputError, match=named):
    make(**options)
