"""Dream-7B (Base, Instruct, Coder): Qwen2 made bidirectional.

It was made from an autoregressive network, so an output predicts the next
token, and the beginning of text precedes each sequence.

Source: Ye et al., "Dream 7B" (arXiv 2508.15487), and the models' `config.json`.
"""

from collections.abc import Mapping
from typing import Any

from flexmdm_jax.errors import InputError
from flexmdm_jax.models.transformer import Transformer
from flexmdm_jax.pretrained import family
from flexmdm_jax.pretrained.weights import BlockNames, Weight
from flexmdm_jax.vocab import Vocab

_BLOCK = BlockNames("model.layers.{}")
_NAMES = {
  "size": "vocab_size",
  "mask": "mask_token_id",
  "pad": "pad_token_id",
  "begin": "bos_token_id",
  "max_length": "max_position_embeddings",
  "hidden_size": "hidden_size",
  "num_layers": "num_hidden_layers",
  "num_heads": "num_attention_heads",
  "mlp_size": "intermediate_size",
  "rotary_base": "rope_theta",
  "norm_epsilon": "rms_norm_eps",
}


def _settings(config: Mapping[str, Any]) -> dict[str, Any]:
  family.require(
    config,
    hidden_act=("silu",),
    rope_scaling=(None,),
    use_sliding_window=(None, False),
  )
  settings = family.pick(config, _NAMES)
  head_dim = settings["hidden_size"] // settings["num_heads"]
  if config.get("head_dim") not in (None, head_dim):
    raise InputError(
      f"config.json has head_dim={config['head_dim']}, which must be"
      f" hidden_size / num_attention_heads = {head_dim}."
    )
  num_kv_heads = config.get("num_key_value_heads") or settings["num_heads"]
  ids = [settings.pop(name) for name in ("size", "mask", "pad")]
  return dict(
    settings,
    vocab=Vocab(*ids),
    num_kv_heads=family.whole("num_key_value_heads", num_kv_heads),
    qkv_bias=True,
    tied=bool(config.get("tie_word_embeddings")),
  )


def _config(model: Transformer) -> dict[str, Any]:
  config = family.config_of(
    model,
    _NAMES,
    architectures=["DreamModel"],
    model_type="Dream",
    hidden_act="silu",
    num_key_value_heads=model.num_kv_heads,
    tie_word_embeddings=model.tied,
    eos_token_id=model.vocab.pad,
  )
  if model.begin is None:  # its sequences have a beginning of their own
    config["bos_token_id"] = model.vocab.pad
  return config


FAMILY = family.Family(
  _settings,
  _config,
  (
    Weight("model.embed_tokens.weight", "embed"),
    _BLOCK.norm("input_layernorm", "attention_norm"),
    _BLOCK.linear("self_attn.q_proj", "q"),
    _BLOCK.linear("self_attn.k_proj", "k"),
    _BLOCK.linear("self_attn.v_proj", "v"),
    _BLOCK.bias("self_attn.q_proj", "q"),
    _BLOCK.bias("self_attn.k_proj", "k"),
    _BLOCK.bias("self_attn.v_proj", "v"),
    _BLOCK.linear("self_attn.o_proj", "attention_out", 2),
    _BLOCK.norm("post_attention_layernorm", "mlp_norm"),
    _BLOCK.linear("mlp.gate_proj", "gate"),
    _BLOCK.linear("mlp.up_proj", "up"),
    _BLOCK.linear("mlp.down_proj", "down"),
    Weight("model.norm.weight", "norm/scale"),
    Weight("lm_head.weight", "head/kernel", 1),
  ),
)
