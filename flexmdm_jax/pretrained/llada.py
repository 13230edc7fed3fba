"""The LLaDA family: LLaDA-8B-Base, LLaDA-8B-Instruct and LLaDA 1.5.

Source: Nie et al. (arXiv 2502.09992) and the models' `config.json`.
"""

from collections.abc import Mapping
from typing import Any

from flexmdm_jax.models.transformer import Transformer
from flexmdm_jax.pretrained import family
from flexmdm_jax.pretrained.weights import BlockNames, Weight
from flexmdm_jax.vocab import Vocab

_BLOCK = BlockNames("model.transformer.blocks.{}")
_NAMES = {
  "size": "vocab_size",
  "mask": "mask_token_id",
  "pad": "pad_token_id",
  "max_length": "max_sequence_length",
  "hidden_size": "d_model",
  "num_layers": "n_layers",
  "num_heads": "n_heads",
  "mlp_size": "mlp_hidden_size",
  "rotary_base": "rope_theta",
  "norm_epsilon": "rms_norm_eps",
}


def _settings(config: Mapping[str, Any]) -> dict[str, Any]:
  off = (None, False)
  family.require(
    config,
    block_type=("llama",),
    layer_norm_type=("rms",),
    activation_type=("silu",),
    rope=(True,),
    layer_norm_with_affine=(None, True),
    alibi=off,
    attention_layer_norm=off,
    bias_for_layer_norm=off,
    include_bias=off,
    input_emb_norm=off,
    multi_query_attention=off,
    scale_logits=off,
  )
  settings = family.pick(config, _NAMES)
  # The embedding may be padded beyond the vocabulary; its rows have logits.
  padded = config.get("embedding_size") or settings["size"]
  size = max(family.whole("embedding_size", padded), settings.pop("size"))
  num_kv_heads = config.get("n_kv_heads") or settings["num_heads"]
  return dict(
    settings,
    vocab=Vocab(size, settings.pop("mask"), settings.pop("pad")),
    num_kv_heads=family.whole("n_kv_heads", num_kv_heads),
    qkv_bias=bool(config.get("include_qkv_bias")),
    tied=bool(config.get("weight_tying")),
  )


def _config(model: Transformer) -> dict[str, Any]:
  return family.config_of(
    model,
    _NAMES,
    architectures=["LLaDAModelLM"],
    model_type="llada",
    block_type="llama",
    layer_norm_type="rms",
    activation_type="silu",
    rope=True,
    rope_full_precision=True,
    include_bias=False,
    include_qkv_bias=model.qkv_bias,
    n_kv_heads=model.num_kv_heads,
    weight_tying=model.tied,
    embedding_size=model.vocab.size,
    eos_token_id=model.vocab.pad,
    use_cache=False,
  )


FAMILY = family.Family(
  _settings,
  _config,
  (
    Weight("model.transformer.wte.weight", "embed"),
    _BLOCK.norm("attn_norm", "attention_norm"),
    _BLOCK.linear("q_proj", "q"),
    _BLOCK.linear("k_proj", "k"),
    _BLOCK.linear("v_proj", "v"),
    _BLOCK.bias("q_proj", "q"),
    _BLOCK.bias("k_proj", "k"),
    _BLOCK.bias("v_proj", "v"),
    _BLOCK.linear("attn_out", "attention_out", 2),
    _BLOCK.norm("ff_norm", "mlp_norm"),
    _BLOCK.linear("ff_proj", "gate"),
    _BLOCK.linear("up_proj", "up"),
    _BLOCK.linear("ff_out", "down"),
    Weight("model.transformer.ln_f.weight", "norm/scale"),
    Weight("model.transformer.ff_out.weight", "head/kernel", 1),
  ),
)
