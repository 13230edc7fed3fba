"""Shapes for which `token_sample` is compiled, tuned and timed."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key, Shaped


@dataclasses.dataclass(frozen=True)
class Spec:
  """Sizes of the arguments of one call.

  Attributes:
    rows: number of rows, N.
    width: size of a hidden state, D.
    vocabulary: number of ids, V.
    active: number of rows that are computed.
  """

  rows: int
  width: int
  vocabulary: int
  active: int

  def shapes(self) -> tuple[jax.ShapeDtypeStruct, ...]:
    """Shapes and types of the array arguments."""
    return (
      jax.ShapeDtypeStruct((self.rows, self.width), jnp.bfloat16),
      jax.ShapeDtypeStruct((self.width, self.vocabulary), jnp.bfloat16),
      jax.ShapeDtypeStruct((), jnp.int32),
      jax.ShapeDtypeStruct((2,), jnp.uint32),
    )

  def arguments(self, key: Key[Array, ""]) -> tuple[Shaped[Array, "..."], ...]:
    """Draws random arguments, with logits of standard deviation 3."""
    keys = jax.random.split(key, 2)
    hidden, unembed = (
      jax.random.normal(k, x.shape, x.dtype)
      for k, x in zip(keys, self.shapes()[:2], strict=True)
    )
    scale = jnp.bfloat16(3 * self.width**-0.5)
    return (
      hidden * scale,
      unembed,
      jnp.int32(self.active),
      jax.random.key_data(key),
    )

  def num_bytes(self) -> int:
    """Number of bytes to read: the active rows and all columns once."""
    return 2 * self.width * (self.active + self.vocabulary)

  def num_operations(self) -> int:
    """Number of operations of the matrix unit."""
    return 2 * self.active * self.width * self.vocabulary


# Keywords of every call.
STATIC = {"temperature": 1.0}
SPECS = {
  "llada": Spec(4096, 4096, 126464, active=4096),
  "llada_quarter": Spec(4096, 4096, 126464, active=1024),
  "llada_few": Spec(64, 4096, 126464, active=64),
  "openwebtext": Spec(4096, 768, 50259, active=4096),
  # For a CPU, with a quarter of the rows active.
  "small": Spec(256, 128, 4096, active=64),
}
