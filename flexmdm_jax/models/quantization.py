"""Trained kernels as int8, with a scale for each output.

A network with `quantize="int8"` has the kernels of its blocks so: a product
reads the integers as numbers of the computation's type, and its outputs are
multiplied by the scales. Integers have no gradient; low-rank updates train it.
"""

import functools
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import traverse_util
from jaxtyping import Array, Float, Int8

from flexmdm_jax.errors import InputError
from flexmdm_jax.models.lora import SCHEMES
from flexmdm_jax.models.parameters import abstract_params
from flexmdm_jax.models.transformer import Transformer
from flexmdm_jax.schema import Range, require_value

_LARGEST = 127


def quantize(
  model: nn.Module, params: Mapping[str, Any], scheme: str = "int8"
) -> tuple[nn.Module, dict]:
  """Quantises the kernels of a network's blocks.

  Args:
    model: the network.
    params: its parameters; those that are not quantised are not copied.
    scheme: "int8".

  Returns:
    (model, its parameters); see `Transformer.quantize`.

  Raises:
    InputError: the scheme is unknown, or the network has none.
  """
  model = quantized_model(model, scheme)
  known = abstract_params(model)
  flat = traverse_util.flatten_dict(dict(params), sep="/")
  for path in int8_paths(known):
    if flat[path].dtype != jnp.int8:
      flat |= quantized(path, flat[path], known)
  return model, traverse_util.unflatten_dict(flat, sep="/")


def quantized_model(model: nn.Module, scheme: str | None) -> nn.Module:
  """Makes the network that has quantised kernels; None leaves it as it is.

  Raises:
    InputError: the scheme is unknown, or the network has none.
  """
  require_value("quantize", scheme, str | None, Range(among=SCHEMES))
  if scheme is None:
    return model
  if not isinstance(model, Transformer):
    raise InputError(
      f"quantize={scheme!r} is for a Transformer, but the model is a"
      f" {type(model).__name__}: leave it out."
    )
  return model.clone(quantize=scheme)


def int8_paths(known: Mapping[str, Any]) -> list[str]:
  """Lists the paths of the int8 kernels among abstract parameters."""
  flat = traverse_util.flatten_dict(dict(known), sep="/")
  return [path for path, x in flat.items() if x.dtype == jnp.int8]


def quantized(
  path: str, kernel: Float[Array, "..."], known: Mapping[str, Any]
) -> dict[str, Array]:
  """Quantises the stacked kernels at `path`, where they are to lie.

  It returns when that is done: a caller that drops one stack before the next
  has one in floating point at a time.

  Args:
    path: names joined by slashes.
    kernel: the kernels of all blocks, along axis 0.
    known: the network's abstract parameters, with shardings if it has any.

  Returns:
    The two parameters that stand for them, by path.
  """
  flat = traverse_util.flatten_dict(dict(known), sep="/")
  both = flat[path], flat[scale_path(path)]
  make = jax.jit(
    functools.partial(
      quantize_kernel, num_inputs=both[0].ndim - both[1].ndim, stacked=True
    ),
    out_shardings=tuple(x.sharding for x in both),
  )
  made = jax.block_until_ready(make(kernel))
  return dict(zip((path, scale_path(path)), made, strict=True))


def scale_path(path: str) -> str:
  """Returns the path of the scales of the kernel at `path`."""
  return f"{path}_scale"


@functools.partial(jax.jit, static_argnames=("num_inputs", "stacked"))
def quantize_kernel(
  kernel: Float[Array, "..."], num_inputs: int, stacked: bool = False
) -> tuple[Int8[Array, "..."], Float[Array, "..."]]:
  """Rounds a kernel to int8, with a scale for each output.

  Args:
    kernel: kernel of a linear layer.
    num_inputs: number of the inputs' axes, which precede the outputs'.
    stacked: kernels of several layers are stacked along axis 0.

  Returns:
    (int8 of the kernel's shape, float32 of the outputs' shape): an output's
    largest weight is 127 or -127 times its scale.
  """
  if stacked:  # one layer at a time is in float32
    return jax.lax.map(lambda x: quantize_kernel(x, num_inputs), kernel)
  kernel = kernel.astype(jnp.float32)
  scale = jnp.max(jnp.abs(kernel), axis=range(num_inputs)) / _LARGEST
  scale = jnp.where(scale > 0, scale, 1)
  return jnp.round(kernel / scale).astype(jnp.int8), scale
