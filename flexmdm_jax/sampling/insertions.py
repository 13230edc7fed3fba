"""How many missing tokens a step takes to be there: laws, or a mean alone.

The network tells of each gap the mean number g of missing tokens, and mostly
their law. Over a step in which each of them comes with the probability p, the
mean number that comes is `p g`; its variance is a choice where only the mean is
known:

  thinned    a number from the law, each of which comes with probability p
  rounded    the same of the law of least variance that has the mean g: the two
             whole numbers beside it
  poisson    Poisson of mean p g
  published  Poisson of the integrated hazard times g, as in the paper; its mean
             is too large, and infinite in a step that ends at 1

What is inserted too many is never taken back, while what is missing can come
later: a variance that is too large makes texts too long. With an exact denoiser
of a hidden Markov language of 39 tokens, 16 calls of tau-leaping made 39.7 on
average thinned, and 41.5 by Poisson numbers.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from flexmdm_jax import gap_laws
from flexmdm_jax.errors import InputError
from flexmdm_jax.gap_laws import GapLaw

INSERTIONS = ("thinned", "rounded", "poisson", "published")


def choose(kind: str | None, law: GapLaw | None) -> str:
  """Picks how numbers are drawn: as asked, else the best that the head serves.

  Args:
    kind: one of `INSERTIONS`, or None.
    law: the law of the missing tokens, where the head gives it.

  Raises:
    InputError: it asks for a law, and the head gives the mean alone.
  """
  if kind == "thinned" and law is None:
    raise InputError(
      "SamplerConfig.insertions='thinned' needs a gap head that gives a law"
      " (distribution, binned, negative_binomial): this one gives the mean"
      " alone. Use 'rounded' or 'poisson'."
    )
  if kind is None:
    return "rounded" if law is None else "thinned"
  return kind


def draw(
  key: Key[Array, ""],
  kind: str,
  log_gaps: Float[Array, " G"],
  law: GapLaw | None,
  probability: Float[Array, ""],
  integrated_hazard: Float[Array, ""],
) -> Int[Array, " G"]:
  """Draws how many of each gap's missing tokens come within a step.

  Args:
    key: one key; a gap draws from bits of its own.
    kind: one of `INSERTIONS`, as `choose` gives it.
    log_gaps: log of the expected numbers of missing tokens.
    law: the law of these numbers; read by "thinned" alone.
    probability: chance that a missing token comes, the same for each.
    integrated_hazard: `-log(1 - probability)`; read by "published" alone.
  """
  if kind == "thinned":
    return law.thin(key, probability)
  mean = jnp.exp(log_gaps)
  if kind == "rounded":
    round_key, thin_key = jax.random.split(key)
    up = jax.random.uniform(round_key, mean.shape) < mean - jnp.floor(mean)
    count = jnp.floor(mean).astype(jnp.int32) + up.astype(jnp.int32)
    return gap_laws.binomial(thin_key, count, probability)
  scale = probability if kind == "poisson" else integrated_hazard
  return gap_laws.poisson(key, scale * mean)


def slots(
  count: Int[Array, " G"], room: int, most: Int[Array, ""]
) -> tuple[Int[Array, " L"], Bool[Array, " L"]]:
  """Lists missing tokens one by one, from the left, as far as they fit.

  Args:
    count: number of missing tokens of each gap.
    room: number of slots, L.
    most: number of tokens that fit.

  Returns:
    (gap, there): the gap of each slot, and whether it holds a token.
  """
  total = jnp.cumsum(count)
  # A slot's gap is the number of gaps that end before it. A search would be a
  # loop of small kernels.
  ends = jnp.zeros(room, jnp.int32)
  ends = ends.at[total].add(1, mode="drop", indices_are_sorted=True)
  return jnp.cumsum(ends), jnp.arange(room) < jnp.minimum(total[-1], most)


def fill(
  count: Int[Array, " G"],
  gap: Int[Array, " L"],
  comes: Bool[Array, " L"],
  most: Int[Array, ""],
) -> tuple[Int[Array, " G"], Bool[Array, ""]]:
  """Counts the tokens of some slots by gap, and tells whether more are wanted.

  Args:
    count: number of missing tokens of each gap.
    gap: the gap of each slot; see `slots`.
    comes: which slots are filled.
    most: number of tokens that fit.

  Returns:
    (inserted, full): the number of tokens to insert in each gap, and whether
    they leave no room for others that are missing.
  """
  inserted = (
    jnp.zeros_like(count).at[gap].add(comes.astype(count.dtype), mode="drop")
  )
  filled = jnp.sum(comes, dtype=count.dtype)
  return inserted, (filled >= most) & (jnp.sum(count) > most)
