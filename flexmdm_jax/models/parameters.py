"""A model's parameters: their first values, or their shapes and types alone."""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Key

from flexmdm_jax.models.dit import DiT
from flexmdm_jax.models.transformer import Transformer


def init_params(model: nn.Module, key: Key[Array, ""]) -> Any:
  """Initialises a model's parameters, boxed with their logical axes.

  Args:
    model: a Flax module `(tokens, length, t)` with `max_length`.
    key: a PRNG key.
  """
  tokens = jnp.zeros((1, model.max_length), jnp.int32)
  variables = model.init(key, tokens, tokens[:, 0], jnp.zeros(1))
  return variables["params"]


def num_parameters(model: DiT | Transformer) -> int:
  """Number of parameters of a model; none is allocated."""
  return sum(x.size for x in jax.tree.leaves(abstract_params(model)))


def abstract_params(model: DiT | Transformer) -> Any:
  """Shapes and types of a model's parameters."""
  return nn.unbox(boxed_params(model))


@functools.lru_cache(maxsize=8)  # several ask, and tracing takes a while
def boxed_params(model: DiT | Transformer) -> Any:
  """Shapes and types of a model's parameters, boxed with their logical axes."""
  return jax.eval_shape(
    functools.partial(init_params, model), jax.random.key(0)
  )
