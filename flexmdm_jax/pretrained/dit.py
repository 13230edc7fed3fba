"""Conversion of the authors' public PyTorch DiT."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from flexmdm_jax.errors import InputError
from flexmdm_jax.models.dit import DiT
from flexmdm_jax.pretrained import weights
from flexmdm_jax.pretrained.family import whole
from flexmdm_jax.pretrained.weights import Weight
from flexmdm_jax.vocab import Vocab

_DIT = (
  Weight("vocab_embed.embedding", "embed/embedding"),
  Weight("sigma_map.mlp.0.weight", "time/in/kernel", 1),
  Weight("sigma_map.mlp.0.bias", "time/in/bias"),
  Weight("sigma_map.mlp.2.weight", "time/out/kernel", 1),
  Weight("sigma_map.mlp.2.bias", "time/out/bias"),
  Weight("blocks.{}.adaLN_modulation.weight", "blocks/modulation/kernel", 1),
  Weight("blocks.{}.adaLN_modulation.bias", "blocks/modulation/bias"),
  Weight("blocks.{}.norm1.weight", "blocks/norm_1/scale"),
  Weight("blocks.{}.attn_qkv.weight", "blocks/qkv/kernel", 1),
  Weight("blocks.{}.attn_out.weight", "blocks/attention_out/kernel", 2),
  Weight("blocks.{}.norm2.weight", "blocks/norm_2/scale"),
  Weight("blocks.{}.mlp.0.weight", "blocks/mlp_in/kernel", 1),
  Weight("blocks.{}.mlp.0.bias", "blocks/mlp_in/bias"),
  Weight("blocks.{}.mlp.2.weight", "blocks/mlp_out/kernel", 1),
  Weight("blocks.{}.mlp.2.bias", "blocks/mlp_out/bias"),
  Weight(
    "output_layer.adaLN_modulation.weight", "vocab_head/modulation/kernel", 1
  ),
  Weight("output_layer.adaLN_modulation.bias", "vocab_head/modulation/bias"),
  Weight("output_layer.norm_final.weight", "vocab_head/norm/scale"),
  Weight("output_layer.linear.weight", "vocab_head/out/kernel", 1),
  Weight("output_layer.linear.bias", "vocab_head/out/bias"),
)
_DIT_GAP_HEAD = (
  Weight("len_pred.adaLN.weight", "gap_head/modulation/kernel", 1),
  Weight("len_pred.adaLN.bias", "gap_head/modulation/bias"),
  Weight("len_pred.norm.weight", "gap_head/norm/scale"),
  Weight("len_pred.proj1.weight", "gap_head/in/kernel", 1),
  Weight("len_pred.proj1.bias", "gap_head/in/bias"),
  Weight("len_pred.proj2.weight", "gap_head/out/kernel", 1),
  Weight("len_pred.proj2.bias", "gap_head/out/bias"),
)
# A buffer: we compute the rotary frequencies.
_DIT_IGNORED = frozenset({"rotary_emb.inv_freq"})
_DIT_GAP_HEADS = {"expectation": "softplus", None: None}


def dit_from_torch(
  config: Mapping[str, Any], state: Mapping[str, np.ndarray]
) -> tuple[DiT, dict]:
  """Converts the authors' public PyTorch DiT to our `DiT`.

  Args:
    config: sizes and ids under the keys `vocab_size`, `mask_id`, `pad_id`,
      `max_length`, `hidden_size`, `n_heads`, `cond_dim`, `n_blocks` and
      `length_head` ("expectation", or None for a fixed-length MDM).
    state: the model's tensors by name, each [outputs, inputs] as in torch.

  Returns:
    (model, params): `params` are float32 and go to `model.apply` or
    `flexmdm_jax.denoiser`.

  Raises:
    InputError: a key of `config` is missing or unusable; a tensor is missing,
      unknown or of another shape than `config` implies.
  """
  wanted = ("vocab_size", "mask_id", "pad_id", "max_length", "hidden_size")
  wanted += ("n_heads", "cond_dim", "n_blocks", "length_head")
  if missing := [key for key in wanted if key not in config]:
    raise InputError(f"config lacks {weights.names(missing)}.")
  if config["length_head"] not in _DIT_GAP_HEADS:
    raise InputError(
      f"length_head={config['length_head']!r} cannot be converted: choose one"
      f" of {tuple(_DIT_GAP_HEADS)}."
    )
  for key in wanted[:-1]:
    whole(key, config[key], 0 if key.endswith("_id") else 1)
  model = DiT(
    vocab=Vocab(config["vocab_size"], config["mask_id"], config["pad_id"]),
    max_length=config["max_length"],
    hidden_size=config["hidden_size"],
    num_layers=config["n_blocks"],
    num_heads=config["n_heads"],
    cond_size=config["cond_dim"],
    gap_head=_DIT_GAP_HEADS[config["length_head"]],
    time_scale=1.0,
  )
  table = _DIT + (_DIT_GAP_HEAD if model.gap_head else ())
  shapes = {path: x.shape for path, x in weights.flat_params(model).items()}
  places = weights.places(table, shapes, model.num_layers)
  return model, weights.convert(places, state, _DIT_IGNORED, np.float32)
