"""The bounds of a perfect model on a law that is listed, by summation."""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from flexmdm_jax.alignment import align
from flexmdm_jax.exact.short import ShortLaw
from flexmdm_jax.interpolant import JointInterpolant, noise
from flexmdm_jax.losses import elbo_terms, tight_terms

# The paper's targets are those of the drawn embedding.
BOUNDS = ("paper", "aligned", "tight")
# Before and after this time a token of the rows below is there, or clean.
_NOW = 0.5


def bound_by_time(
  law: ShortLaw, interpolant: JointInterpolant, times: Sequence[float]
) -> dict[str, np.ndarray]:
  """Computes what the bounds of a perfect model spend at each time.

  The mean over time is the bound. All states are summed, and nothing is drawn.

  Args:
    law: the law, without frozen tokens.
    interpolant: the schedules.
    times: T times, in [0, 1).

  Returns:
    Nats a sequence and unit of time, f64[T], for each of `BOUNDS`: the paper's,
    the one with aligned targets, which `tight_terms` then makes tight.
  """
  clean, length = law.pack([e.item.tokens for e in law.embeddings])
  arrive, reveal = np.ones((2, *clean.shape), np.float32)
  for row, e in enumerate(law.embeddings):
    arrive[row, list(e.source)] = 0.0
    known = [
      i
      for i, token in zip(e.source, e.state, strict=True)
      if token != law.vocab.mask
    ]
    reveal[row, known] = 0.0
  draw = functools.partial(noise, t=jnp.asarray(_NOW), vocab=law.vocab)
  noised = jax.vmap(draw)(clean, length, arrive, reveal)
  alignment = jax.vmap(align)(noised, clean, length)
  denoiser = law.denoiser(interpolant.insertion)

  @jax.jit
  def terms(t):
    state = noised.tokens, noised.length
    prediction = denoiser(*state, jnp.broadcast_to(t, length.shape))

    def mean(function, *more):
      found = jax.vmap(lambda p, n, *a: function(p, n, t, interpolant, *a))(
        prediction, noised, *more
      )
      return found.unmask + found.insert

    return (
      mean(elbo_terms),
      mean(elbo_terms, alignment),
      mean(tight_terms, alignment),
    )

  probability = np.array([e.item.probability for e in law.embeddings])
  found = {kind: [] for kind in BOUNDS}
  for t in times:
    absent, masked, known = _shares(interpolant, float(t))
    weight = probability * np.array(
      [
        absent**e.absent * masked**e.masked * known**e.clean
        for e in law.embeddings
      ]
    )
    for kind, values in zip(BOUNDS, terms(jnp.float32(t)), strict=True):
      found[kind].append(float(weight @ np.asarray(values, np.float64)))
  return {kind: np.array(values) for kind, values in found.items()}


def bounds(
  law: ShortLaw, interpolant: JointInterpolant, num_times: int = 64
) -> dict[str, float]:
  """Computes the bounds of a perfect model, in nats a sequence.

  Args:
    law: the law, without frozen tokens.
    interpolant: the schedules.
    num_times: nodes of Gauss and Legendre's rule.

  Returns:
    The bound for each of `BOUNDS`; the tight one is the law's entropy.
  """
  x, weight = np.polynomial.legendre.leggauss(num_times)
  # Denser near 1, where the integrand grows like a logarithm.
  left = (1 - x) / 2
  by_time = bound_by_time(law, interpolant, 1 - left**2)
  return {kind: float((weight * left) @ y) for kind, y in by_time.items()}


def _shares(
  interpolant: JointInterpolant, t: float, num: int = 64
) -> tuple[float, float, float]:
  """Computes the probabilities that a token is absent, a mask or clean."""
  insertion, unmasking = interpolant.insertion, interpolant.unmasking
  x, weight = np.polynomial.legendre.leggauss(num)
  born = jnp.asarray(t * (x + 1) / 2, jnp.float32)
  now = jnp.full_like(born, t)
  arrivals = np.asarray(insertion.derivative(born), np.float64) * weight * t / 2
  masked = float(arrivals @ (1 - np.asarray(unmasking.jump(born, now))))
  absent = 1 - float(insertion.alpha(now[0]))
  return absent, masked, 1 - absent - masked
