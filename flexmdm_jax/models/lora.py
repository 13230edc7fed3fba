"""Linear layers, and low-rank updates that train them while they are frozen.

Source: Hu et al., "LoRA" (arXiv 2106.09685).
"""

import dataclasses
import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from flexmdm_jax.errors import InputError
from flexmdm_jax.schema import count, require, setting

SCHEMES = ("int8",)
TARGETS = ("q", "k", "v", "attention_out", "gate", "up", "down", "head")
# Standard deviation of the integers from -127 to 127, all alike often.
_SPREAD = 73.6


@dataclasses.dataclass(frozen=True)
class LoRA:
  """Low-rank updates: `x @ W` becomes `x @ W + dropout(x) @ A @ B * scale`.

  Attributes:
    rank: columns of A.
    alpha: `scale * rank`.
    dropout: share of the inputs of A that are dropped in training, that is
      where the caller passes `rngs={"dropout": key}`.
    targets: names of the updated layers, out of `TARGETS`.
    added: train what a retrofit adds as well: the time's modulation and the
      gap head. False keeps those of a network that has learned them already.
  """

  rank: int = count(128)
  alpha: float = setting(128.0, above=0)
  dropout: float = setting(0.1, least=0, below=1)
  targets: tuple[str, ...] = setting(("q", "k", "v", "head"), among=TARGETS)
  added: bool = setting(True)

  def __post_init__(self):
    require(self, "model.lora")
    if not self.targets:
      raise InputError(
        f"model.lora.targets is empty: name some of {', '.join(TARGETS)}."
      )

  @property
  def scale(self) -> float:
    return self.alpha / self.rank


class Linear(nn.Module):
  """Linear map of the last axes, with a low-rank update if `lora` is given.

  Attributes:
    features: sizes of the output's axes.
    axes: logical axes of the kernel, the inputs' first.
    bias: whether to add a bias.
    lora: the update, or None. A and B are float32, whatever the kernel is.
    dtype: type of the computation.
    param_dtype: type of the kernel and the bias.
    quantize: "int8" for a kernel of integers, whose outputs are multiplied by
      `kernel_scale`, float32; None for a kernel of `param_dtype`.
  """

  features: tuple[int, ...]
  axes: tuple[str | None, ...]
  bias: bool = False
  lora: LoRA | None = None
  dtype: Any = jnp.float32
  param_dtype: Any = jnp.float32
  quantize: str | None = None

  @nn.compact
  def __call__(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
    num_inputs = len(self.axes) - len(self.features)
    x = x.astype(self.dtype)
    inputs = tuple(range(num_inputs))
    outputs = tuple(range(num_inputs, len(self.axes)))
    lecun = nn.initializers.lecun_normal(inputs, outputs)
    kernel = self.param(
      "kernel",
      nn.with_logical_partitioning(
        _integers if self.quantize else lecun, self.axes
      ),
      (*x.shape[-num_inputs:], *self.features),
      jnp.int8 if self.quantize else self.param_dtype,
    )
    y = jnp.tensordot(x, kernel.astype(self.dtype), num_inputs)
    if self.quantize:
      scale = self.param(
        "kernel_scale",
        nn.with_logical_partitioning(
          nn.initializers.constant(0.02 / _SPREAD), self.axes[num_inputs:]
        ),
        self.features,
        jnp.float32,
      )
      y = (y.astype(jnp.float32) * scale).astype(self.dtype)
    if self.bias:
      bias = self.param(
        "bias",
        nn.with_logical_partitioning(
          nn.initializers.zeros_init(), self.axes[num_inputs:]
        ),
        self.features,
        self.param_dtype,
      )
      y = y + bias.astype(self.dtype)
    if self.lora:
      inner, matrix = update(self, x, num_inputs)
      y = y + jnp.tensordot(inner, matrix, 1)
    return y


def _integers(key, shape, dtype):
  """Draws integers, all alike often, whose spread is `_SPREAD`."""
  return jax.random.randint(key, shape, -127, 128, dtype)


def update(
  layer: nn.Module, x: Float[Array, "..."], num_inputs: int
) -> tuple[Float[Array, "*b r"], Float[Array, "r ..."]]:
  """Declares A and B in a compact `layer`, which has the fields of `Linear`.

  Returns:
    (dropout(x) @ A * scale, B), in the computation's type.
  """
  lora = layer.lora
  inputs = x.shape[-num_inputs:]
  a = layer.param(
    "lora_a",
    nn.with_logical_partitioning(
      nn.initializers.variance_scaling(
        1 / 3, "fan_in", "uniform", in_axis=tuple(range(num_inputs))
      ),
      (*layer.axes[:num_inputs], "lora_rank"),
    ),
    (*inputs, lora.rank),
  )
  b = layer.param(
    "lora_b",
    nn.with_logical_partitioning(
      nn.initializers.zeros_init(), ("lora_rank", *layer.axes[num_inputs:])
    ),
    (lora.rank, *layer.features),
  )
  dropped = nn.Dropout(
    lora.dropout, deterministic=not layer.has_rng("dropout")
  )(x)
  inner = jnp.tensordot(dropped, a.astype(layer.dtype), num_inputs)
  return inner * lora.scale, b.astype(layer.dtype)


def merge(params: dict, lora: LoRA) -> dict:
  """Adds the low-rank updates to the kernels, and leaves A and B out.

  Args:
    params: parameters of a tree of `Linear`s; leading axes that A and B have
      more than the kernel needs belong to stacked layers.
    lora: the updates' settings, which have the scale.

  Raises:
    InputError: a kernel is quantised.
  """
  merged = {
    name: merge(x, lora) if isinstance(x, dict) else x
    for name, x in params.items()
    if name not in ("lora_a", "lora_b")
  }
  if "kernel_scale" in params:
    raise InputError(
      "a quantised kernel cannot take up its low-rank update: merge those of"
      " the model as it was before, or leave them apart."
    )
  if "lora_a" in params:
    kernel = params["kernel"]
    a, b = params["lora_a"], params["lora_b"]
    product = functools.partial(jnp.tensordot, axes=1)
    for _ in range(a.ndim + b.ndim - 2 - kernel.ndim):  # stacked layers
      product = jax.vmap(product)
    added = kernel.astype(jnp.float32) + lora.scale * product(a, b)
    merged["kernel"] = added.astype(kernel.dtype)
  return merged
