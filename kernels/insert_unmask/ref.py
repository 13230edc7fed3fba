"""Reference of `insert_unmask` in jax.numpy: the operation's meaning."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int32


def insert_unmask(
  tokens: Int32[Array, "B L"],
  length: Int32[Array, " B"],
  revealed: Int32[Array, "B L"],
  insertions: Int32[Array, "B L+1"],
  *,
  mask: int,
  pad: int,
) -> tuple[Int32[Array, "B L"], Int32[Array, " B"], Bool[Array, " B"]]:
  """Computes `api.insert_unmask` with plain jax.numpy."""

  def one_row(tokens, length, revealed, insertions):
    (L,) = tokens.shape
    index = jnp.arange(L)
    wanted = jnp.where(jnp.arange(L + 1) <= length, insertions, 0)
    # No gap can use more than L, and L + 1 is too much for any row: clipped
    # to that, the sum fits an int32.
    wanted = jnp.cumsum(jnp.clip(wanted, 0, L + 1))
    given = jnp.minimum(wanted, L - length)
    new_length = length + given[-1]

    # Token i moves right by what was inserted in the gaps up to its own.
    slot = jnp.where(index < length, index + given[:-1], L)
    kept = jnp.where(revealed >= 0, revealed, tokens)
    new_tokens = jnp.where(index < new_length, mask, pad).astype(tokens.dtype)
    new_tokens = new_tokens.at[slot].set(kept, mode="drop")
    return new_tokens, new_length, wanted[-1] > L - length

  return jax.vmap(one_row)(tokens, length, revealed, insertions)
