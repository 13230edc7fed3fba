"""A model's parameters in the abstract: nothing is allocated."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from flexmdm_jax.models.dit import DiT
from flexmdm_jax.models.transformer import Transformer


def num_parameters(model: DiT | Transformer) -> int:
  """Number of parameters of a model; none is allocated."""
  return sum(x.size for x in jax.tree.leaves(abstract_params(model)))


def abstract_params(model: DiT | Transformer) -> Any:
  """Shapes and types of a model's parameters."""
  return nn.unbox(boxed_params(model))


def boxed_params(model: DiT | Transformer) -> Any:
  """Shapes and types of a model's parameters, boxed with their logical axes."""
  tokens = jax.ShapeDtypeStruct((1, model.max_length), jnp.int32)
  length = jax.ShapeDtypeStruct((1,), jnp.int32)
  t = jax.ShapeDtypeStruct((1,), jnp.float32)
  variables = jax.eval_shape(model.init, jax.random.key(0), tokens, length, t)
  return variables["params"]
