"""Laws of the number of tokens that are missing in a gap.

A denoiser that knows only the mean of that number samples it as Poisson. One
that gives a law samples by thinning: a count is drawn from the law, and each
missing token is inserted within the step with the same probability. It is also
trained on the whole law. Numbers a gap for sequences of up to L tokens:

  Categorical         L + 1
  Binned              about 4 log2(L), 40 at L = 1024
  NegativeBinomial    2

A law is a pytree and its methods act on each entry of the axes `*b`, such as
[G] or [B, G], by itself. Its fields are not typed as arrays, and no constructor
looks at them: JAX puts shapes, axes or shardings in their place.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from flexmdm_jax.errors import InputError

_NUM_SINGLE = 16
_BINS_PER_OCTAVE = 4
# Beyond this no row has room; it keeps a draw in the range of int32.
_MAX_MEAN = 1e6


@runtime_checkable
class GapLaw(Protocol):
  """A law of counts 0, 1, ... for each entry of `*b`; any such class will do.

  To be vmapped and jitted it must be a pytree.
  """

  def log_prob(self, count: Int[Array, "*b"]) -> Float[Array, "*b"]:
    """Log-probability of the counts, float32.

    Counts above the largest that the law knows are scored as that one.
    """

  def log_mean(self) -> Float[Array, "*b"]:
    """Log of the mean count, float32; -inf where it is 0."""

  def variance(self) -> Float[Array, "*b"]:
    """Variance of the count, float32."""

  def thin(
    self, key: Key[Array, ""], probability: Float[Array, "..."]
  ) -> Int[Array, "*b"]:
    """Draws counts and keeps each token with a probability, independently.

    An entry draws from bits of its own, numbered along the flattened axes:
    entries after it never change its draw. With the one axis [G] a row's draws
    are then the same however far the row is padded; vmap over rows.

    Args:
      key: a PRNG key.
      probability: chance that a missing token is kept, in [0, 1]; of a shape
        that broadcasts to `*b`.

    Returns:
      The numbers that are kept: all at probability 1, none at 0.
    """


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Categorical:
  """Any law of the counts 0, 1, ..., C-1.

  Attributes:
    logits: unnormalised log-law, [*b, C]; -inf where a count is impossible.
  """

  logits: Any

  def log_prob(self, count: Int[Array, "*b"]) -> Float[Array, "*b"]:
    """Log-probability of the counts; see `GapLaw`."""
    logits = self.logits.astype(jnp.float32)
    return _log_softmax_at(logits, jnp.minimum(count, logits.shape[-1] - 1))

  def log_mean(self) -> Float[Array, "*b"]:
    """Log of the mean count; see `GapLaw`."""
    return _log_mean(self.logits, np.arange(self.logits.shape[-1]))

  def variance(self) -> Float[Array, "*b"]:
    """Variance of the count; see `GapLaw`."""
    return _variance(self.logits, np.arange(self.logits.shape[-1]), 0.0)

  def thin(
    self, key: Key[Array, ""], probability: Float[Array, "..."]
  ) -> Int[Array, "*b"]:
    """Draws thinned counts; see `GapLaw`."""
    logits = self.logits.astype(jnp.float32)
    count_key, thin_key = jax.random.split(key)
    count = _draw_index(count_key, logits)
    coin = jax.random.uniform(thin_key, logits.shape)
    kept = coin < probability[..., None]
    candidate = jnp.arange(logits.shape[-1]) < count[..., None]
    return jnp.sum(kept & candidate, axis=-1, dtype=jnp.int32)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Binned:
  """A law that is uniform within each bin of counts.

  Attributes:
    logits: unnormalised log-law of the bins, [*b, K].
    edges: the first count of each bin, from 0 on, then one more than the last
      count; see `bin_edges`.
  """

  logits: Any
  edges: tuple[int, ...] = dataclasses.field(metadata={"static": True})

  def __post_init__(self):
    rising = all(
      a < b for a, b in zip(self.edges, self.edges[1:], strict=False)
    )
    if len(self.edges) < 2 or self.edges[0] != 0 or not rising:
      raise InputError(
        f"edges={self.edges} must rise from 0; `bin_edges` gives such."
      )

  @property
  def _bins(self) -> tuple[Float[Array, "*b K"], np.ndarray, np.ndarray]:
    """Logits, first count and number of counts of each bin."""
    edges = np.array(self.edges)
    if self.logits.shape[-1] != len(edges) - 1:
      raise InputError(
        f"logits of {self.logits.shape[-1]} bins need as many edges and one"
        f" more, not {len(edges)}."
      )
    return self.logits.astype(jnp.float32), edges[:-1], np.diff(edges)

  def log_prob(self, count: Int[Array, "*b"]) -> Float[Array, "*b"]:
    """Log-probability of the counts; see `GapLaw`."""
    logits, _, width = self._bins
    bin_of = np.repeat(np.arange(len(width), dtype=np.int32), width)
    index = jnp.asarray(bin_of)[jnp.minimum(count, len(bin_of) - 1)]
    log_width = jnp.asarray(np.log(width), jnp.float32)
    return _log_softmax_at(logits, index) - log_width[index]

  def log_mean(self) -> Float[Array, "*b"]:
    """Log of the mean count; see `GapLaw`."""
    logits, first, width = self._bins
    return _log_mean(logits, first + (width - 1) / 2)

  def variance(self) -> Float[Array, "*b"]:
    """Variance of the count; see `GapLaw`."""
    logits, first, width = self._bins
    return _variance(logits, first + (width - 1) / 2, (width**2 - 1) / 12)

  def thin(
    self, key: Key[Array, ""], probability: Float[Array, "..."]
  ) -> Int[Array, "*b"]:
    """Draws thinned counts; see `GapLaw`.

    The binomial number is `jax.random.binomial`'s, whose law was up to 6e-4
    off in total variation where its mean or that of its complement is just
    above 10 (JAX 0.10.2: a term of Stirling's formula that stops at 9).
    """
    logits, first, width = self._bins
    bin_key, count_key, thin_key = jax.random.split(key, 3)
    index = _draw_index(bin_key, logits)
    first, width = (jnp.asarray(x, jnp.int32)[index] for x in (first, width))
    count = first + jax.random.randint(count_key, index.shape, 0, width)
    return binomial(thin_key, count, probability)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class NegativeBinomial:
  """The negative binomial law of mean mu and variance mu + mu^2 / r.

  Its thinning with probability p is the same law of mean p mu. It is Poisson of
  a rate that has the Gamma law of shape r.

  Attributes:
    log_mu: log of the mean, [*b].
    log_shape: log of r, [*b].
  """

  log_mu: Any
  log_shape: Any

  def log_prob(self, count: Int[Array, "*b"]) -> Float[Array, "*b"]:
    """Log-probability of the counts; see `GapLaw`.

    Float32 costs up to 1e-3 nats at counts and means of 10^4 and a shape of
    3,000.
    """
    log_shape = self.log_shape.astype(jnp.float32)
    log_ratio = self.log_mu.astype(jnp.float32) - log_shape
    shape = jnp.exp(log_shape)
    count = count.astype(jnp.float32)
    some = jnp.maximum(count, 1.0)
    # log of Gamma(k + r) / (Gamma(r) k!), for k >= 1.
    ways = -jax.scipy.special.betaln(some, shape) - jnp.log(some)
    ways -= some * jax.nn.softplus(-log_ratio)
    none = -shape * jax.nn.softplus(log_ratio)
    return jnp.where(count > 0, ways, 0.0) + none

  def log_mean(self) -> Float[Array, "*b"]:
    """Log of the mean count; see `GapLaw`."""
    return self.log_mu.astype(jnp.float32)

  def variance(self) -> Float[Array, "*b"]:
    """Variance of the count; see `GapLaw`."""
    log_mu = self.log_mu.astype(jnp.float32)
    log_shape = self.log_shape.astype(jnp.float32)
    return jnp.exp(log_mu) + jnp.exp(2 * log_mu - log_shape)

  def thin(
    self, key: Key[Array, ""], probability: Float[Array, "..."]
  ) -> Int[Array, "*b"]:
    """Draws thinned counts; see `GapLaw`. Rates above 10^6 are cut there."""

    def draw(key, log_mu, log_shape, probability):
      gamma_key, poisson_key = jax.random.split(key)
      # In logs: a Gamma number of a small shape is below float32's range.
      log_rate = jax.random.loggamma(gamma_key, jnp.exp(log_shape))
      rate = jnp.exp(log_rate + log_mu - log_shape)
      return _poisson(poisson_key, probability * jnp.minimum(rate, _MAX_MEAN))

    log_mu = self.log_mu.astype(jnp.float32)
    log_shape = self.log_shape.astype(jnp.float32)
    return _each(draw, key, log_mu, log_shape, probability)


def bin_edges(max_length: int) -> tuple[int, ...]:
  """Chooses the bins of a `Binned` law of the counts 0, ..., max_length.

  The counts 0 to 15 have bins of their own. From 16 on there are four bins an
  octave; the last one takes in what would be less than half of another.

  Raises:
    InputError: if max_length is negative.
  """
  if max_length < 0:
    raise InputError(f"max_length={max_length} must be at least 0.")
  end = max_length + 1
  edges = list(range(min(end, _NUM_SINGLE) + 1))
  while edges[-1] < end:
    octave = 1 << (edges[-1].bit_length() - 1)
    width = octave // _BINS_PER_OCTAVE
    following = edges[-1] + width
    edges.append(following if 2 * (end - following) >= width else end)
  return tuple(edges)


def poisson(key: Key[Array, ""], mean: Float[Array, "*b"]) -> Int[Array, "*b"]:
  """Draws Poisson numbers of the given means, cut at 10^6.

  An entry draws from bits of its own; see `GapLaw.thin`. One call of
  `jax.random.poisson` for all would not do: from a mean of 10 on it draws
  again until the last entry is done.
  """
  return _each(_poisson, key, jnp.minimum(mean, _MAX_MEAN))


def binomial(
  key: Key[Array, ""],
  count: Int[Array, "*b"],
  probability: Float[Array, "..."],
) -> Int[Array, "*b"]:
  """Keeps each of `count` tokens with a probability, independently.

  An entry draws from bits of its own; see `GapLaw.thin`.
  """
  return _each(_binomial, key, count, probability)


def _poisson(key, mean):
  """Draws one Poisson number; 0 where the mean is NaN or nearly 0."""
  some = mean > 1e-30
  drawn = jax.random.poisson(key, jnp.where(some, mean, 1.0), dtype=jnp.int32)
  return jnp.where(some, drawn, 0)


def _binomial(key, count, probability):
  """Draws one binomial number; `count` at probability 1, and 0 at 0."""
  # JAX's draw never ends at a probability of -0.0.
  inside = (probability > 0) & (probability < 1)
  safe = jnp.where(inside, probability, 0.5)
  kept = jax.random.binomial(key, count.astype(jnp.float32), safe)
  sure = jnp.where(probability >= 1, count, 0)
  return jnp.where(inside, kept.astype(jnp.int32), sure)


def _each(draw: Callable, key, *arrays):
  """Calls `draw(key, *entry)` on each entry, with a key of its own.

  JAX's rejection samplers go on until all entries of a call are done, and an
  entry may change meanwhile: for each to be alone, they are vmapped.
  """
  shape = arrays[0].shape
  size = math.prod(shape)
  arrays = (jnp.broadcast_to(x, shape).reshape(size) for x in arrays)
  keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(size))
  return jax.vmap(draw)(keys, *arrays).reshape(shape)


def _draw_index(key, logits):
  noise = jax.random.gumbel(key, logits.shape)
  return jnp.argmax(logits + noise, axis=-1)


def _log_softmax_at(logits, index):
  at_index = jnp.take_along_axis(logits, index[..., None], axis=-1)[..., 0]
  return at_index - jax.nn.logsumexp(logits, axis=-1)


def _log_mean(logits, values: np.ndarray):
  """Computes the log of a softmax's mean of `values`; -inf where it is 0."""
  with np.errstate(divide="ignore"):
    log_values = jnp.asarray(np.log(values), jnp.float32)
  log_p = jax.nn.log_softmax(logits.astype(jnp.float32), axis=-1)
  parts = log_p + log_values
  # The gradient of a log of 0 would be NaN.
  zero = jnp.all(parts == -jnp.inf, axis=-1)
  parts = jnp.where(zero[..., None], 0.0, parts)
  return jnp.where(zero, -jnp.inf, jax.nn.logsumexp(parts, axis=-1))


def _variance(logits, means: np.ndarray, variances: np.ndarray | float):
  """Computes the variance of a mixture with softmax weights."""
  p = jax.nn.softmax(logits.astype(jnp.float32), axis=-1)
  means = jnp.asarray(means, jnp.float32)
  mean = jnp.sum(p * means, axis=-1, keepdims=True)
  within = jnp.asarray(variances, jnp.float32)
  return jnp.sum(p * ((means - mean) ** 2 + within), axis=-1)
