"""Shapes for which `insert_unmask` is compiled, tuned and timed."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int32, Key


@dataclasses.dataclass(frozen=True)
class Spec:
  """Sizes of the arguments of one call.

  Attributes:
    batch_size: number of rows, B.
    max_length: length of a full row, L.
    filled: share of a row that holds tokens.
    inserted: share of gaps that get a token.
  """

  batch_size: int
  max_length: int
  filled: float = 0.5
  inserted: float = 0.02

  def shapes(self) -> tuple[jax.ShapeDtypeStruct, ...]:
    """Shapes and types of the array arguments."""
    B, L = self.batch_size, self.max_length
    return tuple(
      jax.ShapeDtypeStruct(shape, jnp.int32)
      for shape in ((B, L), (B,), (B, L), (B, L + 1))
    )

  def arguments(self, key: Key[Array, ""]) -> tuple[Int32[Array, "..."], ...]:
    """Draws random arguments, as in the middle of sampling."""
    B, L = self.batch_size, self.max_length
    keys = jax.random.split(key, 4)
    id_or_keep = jax.random.randint(keys[1], (B, L), 0, 100)
    return (
      jax.random.randint(keys[0], (B, L), 0, 100),
      jnp.full(B, int(self.filled * L), jnp.int32),
      jnp.where(jax.random.bernoulli(keys[2], 0.1, (B, L)), id_or_keep, -1),
      jax.random.bernoulli(keys[3], self.inserted, (B, L + 1)).astype(
        jnp.int32
      ),
    )

  def num_bytes(self) -> int:
    """Number of bytes to read and write: four arrays of int32[B, L]."""
    return 16 * self.batch_size * self.max_length


# Keywords of every call; the ids in `arguments` are smaller.
STATIC = {"mask": 100, "pad": 101}
SPECS = {
  "small": Spec(16, 256),
  "openwebtext": Spec(64, 1024),
  "odd": Spec(256, 1000),
  "large": Spec(256, 4096),
  "longest": Spec(64, 8192),
  "full": Spec(256, 4096, filled=0.75, inserted=0.5),
}
