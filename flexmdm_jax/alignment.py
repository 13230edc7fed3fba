"""Which clean tokens may a state's tokens be? All embeddings at once.

The noise removes tokens; what is left of a clean sequence `x1` at time t is
the state `x_t`. Insertion times are alike for all tokens, so given `x_t` and
`x1` every increasing embedding of the one into the other that agrees with the
clean tokens is equally likely. The training loss knows which of them was drawn;
a model can only know their mean. Replacing the drawn targets by that mean
leaves the expected gradient as it is, lowers its variance (Rao-Blackwell) and
tightens the likelihood bound.

Embeddings are counted by a forward and a backward pass over the lattice of
state tokens and clean tokens: `length(x_t) * length(x1)` cells, in log space.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from flexmdm_jax.interpolant import Noised

# Log of the weight of what cannot be: finite, so that no difference is NaN.
_NEVER = -1e30


class Alignment(NamedTuple):
  """The posterior of a state's embedding into its clean sequence.

  Attributes:
    tokens: the clean sequence.
    posterior: `posterior[i, j]`, probability that token i of the state is
      clean token j. Rows from the state's length on are 0, the others sum to 1.
    gaps: expected number of missing tokens before each position of the state;
      the last after it. 0 beyond the length.
  """

  tokens: Int[Array, "*b L"]
  posterior: Float[Array, "*b L L"]
  gaps: Float[Array, "*b L+1"]


def align(
  noised: Noised,
  tokens: Int[Array, " L"],
  length: Int[Array, ""],
  frozen: Bool[Array, " L"] | None = None,
) -> Alignment:
  """The mean of all embeddings of one state into its clean sequence.

  Args:
    noised: the state.
    tokens: the clean sequence that `noise` made it of.
    length: its number of tokens.
    frozen: clean tokens that were given to `noise`: they are at their own index
      in every embedding.

  Returns:
    The `Alignment`; no gradient flows through it.

  Source: the embeddings of `s_t` in arXiv 2509.01025, "joint interpolant"; the
  recursion is that for counting subsequences.
  """
  (L,) = tokens.shape
  index = jnp.arange(L)
  m, n = noised.length, length
  in_state = index < m
  frozen = jnp.zeros(L, bool) if frozen is None else frozen & (index < n)
  pinned = in_state & frozen[noised.source]

  # Every embedding keeps m tokens and drops n - m. Weighting each step by the
  # share of either changes no ratio of two of them, and keeps the logarithms
  # small, where float32 is precise, along the paths that matter.
  kept, dropped = (x.astype(jnp.float32) + 0.5 for x in (m, n - m))
  log_keep = jnp.log(kept / (kept + dropped))
  log_drop = jnp.log(dropped / (kept + dropped))

  def keeps(j):
    """Log-weight [L] of clean token j being each token of the state."""
    alike = noised.masked | (noised.target == tokens[j])
    may = jnp.where(pinned, noised.source == j, alike & ~frozen[j])
    return jnp.where(in_state & may & (j < n), log_keep, _NEVER)

  def advance(prefixes, suffixes, j, k):
    """One more clean token: `j` for the prefixes, `k` for the suffixes."""
    by_prefix = jnp.logaddexp(
      prefixes + log_drop,
      jnp.append(_NEVER, prefixes[:-1] + keeps(j)),
    )
    by_suffix = jnp.logaddexp(
      suffixes + log_drop, jnp.append(suffixes[1:] + keeps(k), _NEVER)
    )
    return by_prefix, jnp.where(k < n, by_suffix, suffixes)

  def step(weights, j):
    prefixes, suffixes = weights
    k = L - 1 - j
    return advance(prefixes, suffixes, j, k), (prefixes, suffixes)

  # prefixes[j, i]: embeddings of the first i tokens of the state into the clean
  # tokens before j. suffixes[k, i]: of those from i on into the ones after
  # L - 1 - k. The two passes share one loop, since a step of it costs the same
  # for both.
  ends = jnp.arange(L + 1)
  start = (
    jnp.where(ends == 0, 0.0, _NEVER),
    jnp.where(ends == m, 0.0, _NEVER),
  )
  _, (prefixes, suffixes) = jax.lax.scan(step, start, index)
  log_posterior = prefixes[:, :-1] + jax.vmap(keeps)(index) + suffixes[::-1, 1:]
  posterior = jax.nn.softmax(log_posterior, axis=0).T
  posterior = jnp.where(in_state[:, None], posterior, 0.0)

  # With sentinels -1 and n, expected gaps are differences of expected indices.
  # A sum, not a product of matrices: accelerators round its operands to 8 or 11
  # bits, which is whole tokens of an index near 1000.
  source = jnp.sum(posterior * index.astype(jnp.float32), axis=-1)
  before = jnp.append(-1.0, source)
  after = jnp.where(ends == m, n.astype(jnp.float32), jnp.append(source, 0.0))
  gaps = jnp.where(ends <= m, jnp.maximum(after - before - 1.0, 0.0), 0.0)
  return jax.lax.stop_gradient(Alignment(tokens, posterior, gaps))
