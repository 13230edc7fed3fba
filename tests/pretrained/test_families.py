"""From `config.json` to a network, and from a network to `config.json`."""

import json

import pytest

import flexmdm_jax as fm
from flexmdm_jax.pretrained import FAMILIES, model_from_config
from flexmdm_jax.pretrained.families import places_of
from tests import fuzz

DREAM = dict(
  architectures=["DreamModel"],
  model_type="Dream",
  hidden_act="silu",
  vocab_size=152064,
  mask_token_id=151666,
  pad_token_id=151643,
  bos_token_id=151643,
  hidden_size=3584,
  intermediate_size=18944,
  max_position_embeddings=131072,
  num_attention_heads=28,
  num_hidden_layers=28,
  num_key_value_heads=4,
  rms_norm_eps=1e-6,
  rope_theta=1e6,
  rope_scaling=None,
  tie_word_embeddings=False,
)


def test_llada(golden):
  config = golden("llada_tiny/config.json")
  assert model_from_config(config) == fm.Transformer(
    vocab=fm.Vocab(200, mask=199, pad=197),
    max_length=128,
    hidden_size=64,
    num_layers=10,
    num_heads=4,
    num_kv_heads=4,
    mlp_size=96,
  )


def test_embedding_rows_beyond_the_vocabulary(golden):
  config = golden("llada_tiny/config.json")
  model = model_from_config({**config, "embedding_size": 256})
  assert model.vocab.size == 256


def test_dream():
  model = model_from_config(DREAM, max_length=1024)
  assert model == fm.Transformer(
    vocab=fm.Vocab(152064, mask=151666, pad=151643),
    max_length=1024,
    hidden_size=3584,
    num_layers=28,
    num_heads=28,
    num_kv_heads=4,
    mlp_size=18944,
    rotary_base=1e6,
    norm_epsilon=1e-6,
    qkv_bias=True,
    begin=151643,
  )
  places = places_of(model, FAMILIES["DreamModel"].table)
  # As the published index lists them: 12 a block, and three.
  assert len(places) == 12 * 28 + 3
  shapes = {key: place.their_shape for key, place in places.items()}
  assert shapes["model.layers.27.self_attn.k_proj.weight"] == (512, 3584)
  assert shapes["model.layers.0.self_attn.k_proj.bias"] == (512,)
  assert shapes["model.layers.5.self_attn.o_proj.weight"] == (3584, 3584)
  assert shapes["lm_head.weight"] == (152064, 3584)


@pytest.mark.parametrize("name", FAMILIES)
def test_config_is_the_inverse_of_settings(name, golden):
  config = {
    "LLaDAModelLM": golden("llada_tiny/config.json"),
    "DreamModel": DREAM,
  }[name]
  model = model_from_config(config)
  written = json.loads(json.dumps(FAMILIES[name].config(model)))
  assert model_from_config(written) == model


@pytest.mark.parametrize(
  ("changes", "named"),
  [
    ({"head_dim": 64}, "head_dim=64"),
    ({"rope_scaling": {"type": "yarn"}}, "rope_scaling"),
    ({"bos_token_id": None}, "bos_token_id"),
    ({"num_key_value_heads": 5}, "num_kv_heads=5"),
  ],
)
def test_errors(changes, named):
  with pytest.raises(fm.InputError, match=named):
    model_from_config({**DREAM, **changes})


@pytest.mark.parametrize(
  ("changes", "named"),
  [
    ({"rope_theta": -1}, "rope_theta=-1"),
    ({"rope_theta": float("nan")}, "rope_theta=nan"),
    ({"rms_norm_eps": 0}, "rms_norm_eps=0"),
    ({"rms_norm_eps": "1e-6"}, "rms_norm_eps='1e-6'"),
    ({"hidden_size": "3584"}, "hidden_size='3584'"),
    ({"intermediate_size": 18944.0}, "intermediate_size=18944.0"),
    ({"num_hidden_layers": 10**9}, "num_hidden_layers=1000000000"),
    ({"num_attention_heads": 0}, "num_attention_heads=0"),
    ({"num_key_value_heads": [4]}, r"num_key_value_heads=\[4\]"),
    ({"bos_token_id": True}, "bos_token_id=True"),
    ({"architectures": 5}, "architectures=5"),
    ({"architectures": [["DreamModel"]]}, "none is of"),
  ],
)
def test_values_that_no_network_has(changes, named):
  with pytest.raises(fm.InputError, match=named):
    model_from_config({**DREAM, **changes})


@pytest.mark.parametrize("examples", fuzz.EXAMPLES)
@pytest.mark.parametrize("name", FAMILIES)
def test_any_config(name, golden, examples):
  config = DREAM if name == "DreamModel" else golden("llada_tiny/config.json")

  def act(changed):
    if isinstance(changed, dict):  # reading sees to that
      model_from_config(changed)

  fuzz.each(examples, fuzz.changed(config), act)
