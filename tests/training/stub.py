"""A model whose base is frozen: an adapter, a gap head, and dropout."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

import flexmdm_jax as fm
from flexmdm_jax.prediction import Features

SIZE, RANK = 8, 2
_normal = nn.initializers.normal(0.5)


class Base(nn.Module):
  """Embedding and vocabulary head, in bfloat16."""

  size: int

  @nn.compact
  def __call__(self):
    def matrix(name, axes, shape):
      init = nn.with_logical_partitioning(_normal, axes)
      return self.param(name, init, shape, jnp.bfloat16)

    embed = matrix("embed", ("vocab", "embed"), (self.size, SIZE))
    return embed, matrix("unembed", ("embed", "vocab"), (SIZE, self.size))


class Stub(nn.Module):
  """See the file."""

  vocab: fm.Vocab
  max_length: int
  dropout: float = 0.0
  trains_base: bool = False

  def trainable(self, path: tuple[str, ...]) -> bool:
    return self.trains_base or path[0] != "base"

  @nn.compact
  def __call__(self, tokens, length, t, features=False) -> Any:
    embed, unembed = Base(self.vocab.size, name="base")()
    x = jnp.pad(embed.astype(jnp.float32)[tokens], ((0, 0), (0, 1), (0, 0)))
    x = x + jnp.sin(t)[:, None, None]
    x = nn.Dense(
      SIZE,
      kernel_init=nn.with_logical_partitioning(_normal, ("embed", "mlp")),
      name="mlp",
    )(x)
    x = nn.Dropout(self.dropout, deterministic=not self.has_rng("dropout"))(x)
    log_gaps = nn.Dense(1, name="gap_head")(x)[..., 0]
    a = self.param(
      "lora_a",
      nn.with_logical_partitioning(_normal, ("embed", "lora_rank")),
      (SIZE, RANK),
    )
    b = self.param(
      "lora_b",
      nn.with_logical_partitioning(_normal, ("lora_rank", "vocab")),
      (RANK, self.vocab.size),
    )
    x = x[:, :-1]
    predicted = Features(
      x, unembed.astype(jnp.float32), None, log_gaps, adapter=(x @ a, b)
    )
    return predicted if features else predicted.prediction()
