"""Conversion errors; tests/models/test_dit.py has the parity of the outputs."""

import jax
import numpy as np
import pytest

import flexmdm_jax as fm
from flexmdm_jax.convert import dit_from_torch


@pytest.fixture
def config(golden):
  return golden("core_tiny/config.json")


@pytest.fixture
def state(golden):
  return golden("core_tiny/ddit.safetensors")


def error_line(config, state):
  with pytest.raises(fm.InputError) as error:
    dit_from_torch(config, state)
  assert "\n" not in str(error.value)
  return str(error.value)


def test_reads_the_sizes_from_config(config, state):
  model, _ = dit_from_torch(config, state)
  assert model == fm.DiT(
    vocab=fm.Vocab(40, mask=38, pad=39),
    max_length=24,
    hidden_size=64,
    num_layers=3,
    num_heads=4,
    cond_size=32,
    gap_head="softplus",
    time_scale=1.0,
  )


def test_stacks_blocks_and_transposes_matrices(config, state):
  _, params = dit_from_torch(config, state)
  kernel = params["blocks"]["mlp_in"]["kernel"]
  theirs = state["blocks.1.mlp.0.weight"]
  np.testing.assert_array_equal(kernel[1], theirs.T)
  # Their rows are (q, k, v) x heads x coordinates of a head.
  kernel = params["blocks"]["qkv"]["kernel"]
  theirs = state["blocks.2.attn_qkv.weight"]
  np.testing.assert_array_equal(kernel[2, :, 1, 3, 5], theirs[64 + 3 * 16 + 5])


def test_the_rotary_buffer_is_ignored(config, state):
  _, expected = dit_from_torch(config, state)
  del state["rotary_emb.inv_freq"]
  _, actual = dit_from_torch(config, state)
  jax.tree.map(np.testing.assert_array_equal, actual, expected)


def test_fixed_length_model_has_no_length_head(config, state):
  config["length_head"] = None
  assert "len_pred." in error_line(config, state)
  state = {k: v for k, v in state.items() if not k.startswith("len_pred.")}
  model, params = dit_from_torch(config, state)
  assert model.gap_head is None and "gap_head" not in params


@pytest.mark.parametrize(
  "key",
  ["vocab_embed.embedding", "blocks.2.norm1.weight", "len_pred.norm.weight"],
)
def test_missing(config, state, key):
  del state[key]
  assert error_line(config, state) == f"the weights lack {key}."


def test_many_missing_make_one_line(config):
  line = error_line(config, {})
  assert "blocks.0.adaLN_modulation.bias" in line and "more" in line


@pytest.mark.parametrize(
  "key", ["blocks.3.norm1.weight", "blocks.0.norm1.bias"]
)
def test_unknown(config, state, key):
  state[key] = state["blocks.0.norm1.weight"]
  assert error_line(config, state) == (
    f"the weights have unknown tensors: {key}."
  )


@pytest.mark.parametrize(
  ("key", "expected"),
  [
    ("blocks.1.mlp.0.weight", "[256, 64]"),
    ("vocab_embed.embedding", "[40, 64]"),
    ("len_pred.proj2.weight", "[1, 64]"),
  ],
)
def test_mis_shaped(config, state, key, expected):
  # Transposed, it has as many numbers.
  state[key] = state[key].T
  line = error_line(config, state)
  assert key in line and expected in line
  assert str(list(state[key].shape)) in line


def test_another_block_count_is_noticed(config, state):
  config["n_blocks"] = 2
  assert "blocks.2." in error_line(config, state)
  config["n_blocks"] = 4
  assert "blocks.3." in error_line(config, state)


def test_config_errors(config, state):
  assert "length_head='normal'" in error_line(
    {**config, "length_head": "normal"}, state
  )
  assert "Vocab.mask=40" in error_line({**config, "mask_id": 40}, state)
  assert "num_heads=10" in error_line({**config, "n_heads": 5}, state)
  del config["hidden_size"], config["cond_dim"]
  assert error_line(config, state) == "config lacks cond_dim, hidden_size."
