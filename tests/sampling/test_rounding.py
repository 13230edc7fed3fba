"""Parameters rounded once: which of them, and that no prediction changes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util
from jax.extend import core

import flexmdm_jax as fm
from flexmdm_jax.models.lora import LoRA
from flexmdm_jax.models.parameters import abstract_params
from flexmdm_jax.sampling.rounding import round_parameters
from flexmdm_jax.schedules import Linear

VOCAB = fm.Vocab(size=12, mask=9, pad=10)
INTERPOLANT = fm.JointInterpolant(Linear(), Linear())
B, L = 2, 8
# What the networks compute in float32 whatever their type.
WHOLE = {
  "dit": "time/ norm_1/ norm_2/ gap_head/norm/ gap_head/out/ vocab_head/norm/"
  " vocab_head/out/bias",
  "transformer": "time/ modulation/ gap_head/norm/ gap_head/out/",
}


@functools.cache
def make(kind, dtype):
  """A denoiser of random float32 parameters that computes in `dtype`."""
  sizes = dict(hidden_size=16, num_layers=2, num_heads=2, dtype=dtype)
  if kind == "dit":
    model = fm.DiT(
      VOCAB, L, cond_size=8, gap_head="binned", neighbours="input", **sizes
    )
  else:
    model = fm.Transformer(
      VOCAB, L, mlp_size=24, num_kv_heads=1, time_group=1, lora=LoRA(2), **sizes
    )
  leaves, tree = jax.tree.flatten(abstract_params(model))
  keys = jax.random.split(jax.random.key(1), len(leaves))
  params = [
    0.3 * jax.random.normal(key, x.shape)
    for key, x in zip(keys, leaves, strict=True)
  ]
  return fm.denoiser(model, tree.unflatten(params))


def inputs():
  tokens = np.array([[9, 1, 9, 3, 10, 10, 10, 10], [9, 9, 2, 3, 4, 9, 0, 8]])
  return tokens.astype(np.int32), np.int32([4, 8]), np.float32([0.2, 0.7])


@pytest.mark.parametrize("kind", ["dit", "transformer"])
def test_what_is_rounded_at_once_is_rounded_before(kind):
  denoiser = make(kind, jnp.bfloat16)
  rounded = round_parameters(denoiser, B, L)
  flat = traverse_util.flatten_dict(rounded.params, sep="/")
  whole = {name for name, x in flat.items() if x.dtype == jnp.float32}
  expected = WHOLE[kind].split()
  assert whole == {
    name for name in flat if any(part in name for part in expected)
  }
  assert len(whole) < len(flat) / 2

  predict = jax.jit(lambda denoiser, *args: denoiser(*args))
  jax.tree.map(
    np.testing.assert_array_equal,
    predict(rounded, *inputs()),
    predict(denoiser, *inputs()),
  )


def test_a_float32_network_keeps_its_parameters():
  denoiser = make("dit", jnp.float32)
  jax.tree.map(
    lambda x, y: np.testing.assert_(x is y),
    round_parameters(denoiser, B, L),
    denoiser,
  )


def half(x):
  return x.astype(jnp.bfloat16)


READERS = {
  "moved": (True, lambda w: half(w.T[0])),
  "in a function": (True, jax.jit(half)),
  "by a loop's turns": (
    True,
    lambda w: jax.lax.scan(lambda c, x: (c + half(x), None), half(w[0]), w),
  ),
  "whole": (False, lambda w: w),
  "both ways": (False, lambda w: (half(w.T[0]), jnp.max(w))),
  "as two types": (False, lambda w: (half(w), w.astype(jnp.float16))),
  "as integers": (False, lambda w: w.astype(jnp.int32)),
  "handed on by a loop": (
    False,
    lambda w: jax.lax.scan(lambda c, _: (c, half(c)), w, length=2)[1],
  ),
  "by a loop's condition": (
    False,
    lambda w: jax.lax.while_loop(lambda x: x.sum() < 0, lambda x: x + 1, w),
  ),
}


@pytest.mark.parametrize(("rounds", "read"), READERS.values(), ids=READERS)
def test_only_what_is_read_in_one_type_of_16_bits_is_rounded(rounds, read):
  def predict(w, tokens, length, t):
    total = sum(x.astype(jnp.float32).sum() for x in jax.tree.leaves(read(w)))
    logits = jnp.zeros((*tokens.shape, VOCAB.size)) + total
    return fm.Prediction(logits, jnp.zeros((B, L + 1)))

  w = jnp.full((2, 3), 1 / 3)
  denoiser = round_parameters(jax.tree_util.Partial(predict, w), B, L)
  assert denoiser.args[0].dtype == (jnp.bfloat16 if rounds else jnp.float32)
  jax.tree.map(
    np.testing.assert_array_equal,
    denoiser(*inputs()),
    predict(w, *inputs()),
  )


def test_a_sampler_rounds_no_parameter_in_its_loop():
  denoiser = make("dit", jnp.bfloat16)

  def rounded(program, in_loop=False):
    """Yields the shapes that are rounded within the sampler's loop."""
    for equation in program.eqns:
      options = equation.params
      if in_loop and options.get("new_dtype") == jnp.bfloat16:
        yield equation.invars[0].aval.shape
      for part in map(
        lambda x: getattr(x, "jaxpr", x),
        jax.tree.leaves(
          list(options.values()), is_leaf=lambda x: hasattr(x, "jaxpr")
        ),
      ):
        if isinstance(part, core.Jaxpr):
          yield from rounded(
            part, in_loop or "while" in str(equation.primitive)
          )

  def program(denoiser):
    config = fm.SamplerConfig(4, buckets=())
    start = fm.empty_start(B, L, VOCAB)
    return fm.sample(
      jax.random.key(0), denoiser, start, INTERPOLANT, VOCAB, config
    ).tokens

  shapes = set(rounded(jax.make_jaxpr(program)(denoiser).jaxpr))
  kernel = denoiser.params["blocks"]["mlp_in"]["kernel"].shape[1:]
  assert shapes and kernel not in shapes
