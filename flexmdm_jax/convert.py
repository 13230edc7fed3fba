"""Weights of other libraries' models, as models and parameters of ours."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from flexmdm_jax.errors import InputError
from flexmdm_jax.models.dit import DiT
from flexmdm_jax.vocab import Vocab


class _Weight(NamedTuple):
  """One row of a table of weight names.

  Attributes:
    theirs: their key; `{}` stands for the number of the block.
    ours: path in our parameters, where blocks are stacked along axis 0.
    inputs: how many leading axes of one block's parameter are inputs of a
      linear layer, whose torch weight is [outputs, inputs] with the axes of
      each side flattened; 0 for a tensor of the same layout.
  """

  theirs: str
  ours: str
  inputs: int = 0

  def their_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Shape of their tensor, from that of one block's parameter of ours."""
    if not self.inputs:
      return shape
    return math.prod(shape[self.inputs :]), math.prod(shape[: self.inputs])

  def convert(self, tensor: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """One block's parameter of ours, from their tensor."""
    return (tensor.T if self.inputs else tensor).reshape(shape)


_DIT = (
  _Weight("vocab_embed.embedding", "embed/embedding"),
  _Weight("sigma_map.mlp.0.weight", "time/in/kernel", 1),
  _Weight("sigma_map.mlp.0.bias", "time/in/bias"),
  _Weight("sigma_map.mlp.2.weight", "time/out/kernel", 1),
  _Weight("sigma_map.mlp.2.bias", "time/out/bias"),
  _Weight("blocks.{}.adaLN_modulation.weight", "blocks/modulation/kernel", 1),
  _Weight("blocks.{}.adaLN_modulation.bias", "blocks/modulation/bias"),
  _Weight("blocks.{}.norm1.weight", "blocks/norm_1/scale"),
  _Weight("blocks.{}.attn_qkv.weight", "blocks/qkv/kernel", 1),
  _Weight("blocks.{}.attn_out.weight", "blocks/attention_out/kernel", 2),
  _Weight("blocks.{}.norm2.weight", "blocks/norm_2/scale"),
  _Weight("blocks.{}.mlp.0.weight", "blocks/mlp_in/kernel", 1),
  _Weight("blocks.{}.mlp.0.bias", "blocks/mlp_in/bias"),
  _Weight("blocks.{}.mlp.2.weight", "blocks/mlp_out/kernel", 1),
  _Weight("blocks.{}.mlp.2.bias", "blocks/mlp_out/bias"),
  _Weight(
    "output_layer.adaLN_modulation.weight", "vocab_head/modulation/kernel", 1
  ),
  _Weight("output_layer.adaLN_modulation.bias", "vocab_head/modulation/bias"),
  _Weight("output_layer.norm_final.weight", "vocab_head/norm/scale"),
  _Weight("output_layer.linear.weight", "vocab_head/out/kernel", 1),
  _Weight("output_layer.linear.bias", "vocab_head/out/bias"),
)
_DIT_GAP_HEAD = (
  _Weight("len_pred.adaLN.weight", "gap_head/modulation/kernel", 1),
  _Weight("len_pred.adaLN.bias", "gap_head/modulation/bias"),
  _Weight("len_pred.norm.weight", "gap_head/norm/scale"),
  _Weight("len_pred.proj1.weight", "gap_head/in/kernel", 1),
  _Weight("len_pred.proj1.bias", "gap_head/in/bias"),
  _Weight("len_pred.proj2.weight", "gap_head/out/kernel", 1),
  _Weight("len_pred.proj2.bias", "gap_head/out/bias"),
)
# A buffer: we compute the rotary frequencies.
_DIT_IGNORED = frozenset({"rotary_emb.inv_freq"})
_DIT_GAP_HEADS = {"expectation": "softplus", None: None}


def dit_from_torch(
  config: Mapping[str, Any], state: Mapping[str, np.ndarray]
) -> tuple[DiT, dict]:
  """The authors' public PyTorch DiT as our `DiT`.

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
    raise InputError(f"config lacks {_names(missing)}.")
  if config["length_head"] not in _DIT_GAP_HEADS:
    raise InputError(
      f"length_head={config['length_head']!r} cannot be converted: choose one"
      f" of {tuple(_DIT_GAP_HEADS)}."
    )
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
  abstract = jax.eval_shape(
    model.init,
    jax.random.key(0),
    jnp.zeros((1, model.max_length), jnp.int32),
    jnp.zeros(1, jnp.int32),
    jnp.zeros(1),
  )
  shapes = traverse_util.flatten_dict(
    jax.tree.map(lambda x: x.shape, nn.unbox(abstract)["params"]), sep="/"
  )
  params = _convert(table, state, shapes, model.num_layers, _DIT_IGNORED)
  return model, params


def _convert(table, state, shapes, num_blocks, ignored) -> dict:
  """Our parameters of the given shapes, from their `state`."""
  # A parameter of ours outside the table is a defect of the table.
  assert sorted(row.ours for row in table) == sorted(shapes)
  blocks = {
    row: range(num_blocks) if "{}" in row.theirs else (None,) for row in table
  }
  keys = {row: [row.theirs.format(i) for i in blocks[row]] for row in table}
  known = {key for row in table for key in keys[row]}
  if missing := known - set(state):
    raise InputError(f"the weights lack {_names(missing)}.")
  if unknown := set(state) - known - ignored:
    raise InputError(f"the weights have unknown tensors: {_names(unknown)}.")

  params = {}
  for row in table:
    stacked = blocks[row] != (None,)
    shape = shapes[row.ours][stacked:]
    parts = []
    for key in keys[row]:
      if np.shape(state[key]) != row.their_shape(shape):
        raise InputError(
          f"{key} has the shape {list(np.shape(state[key]))}, but config"
          f" implies {list(row.their_shape(shape))}."
        )
      tensor = np.asarray(state[key], np.float32)
      parts.append(row.convert(tensor, shape))
    value = jnp.asarray(np.stack(parts) if stacked else parts[0])
    assert value.shape == shapes[row.ours]
    params[row.ours] = value
  return traverse_util.unflatten_dict(params, sep="/")


def _names(keys, limit=5) -> str:
  """The first few of `keys`, on one line."""
  keys = sorted(keys)
  more = f" and {len(keys) - limit} more" if len(keys) > limit else ""
  return ", ".join(keys[:limit]) + more
