"""Variance of the training gradient, and what aligned targets take off it.

At fixed parameters and one time, the gradient of a row's loss varies with the
row and its noise. Both kinds of targets have the same mean; the smaller its
variance, the fewer rows give the same direction.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from flexmdm_jax.errors import InputError
from flexmdm_jax.evaluation.evaluation import Evaluation
from flexmdm_jax.schema import require, setting
from flexmdm_jax.states import PathStates
from flexmdm_jax.training.objectives import TARGETS, Diffusion

TIMES = (0.1, 0.3, 0.5, 0.7, 0.9)


@dataclasses.dataclass(frozen=True)
class GradientVariance(Evaluation):
  """Variance of a row's gradient with sampled and with aligned targets.

  It returns for each kind of targets, and for their `ratio` (sampled over
  aligned), a list over `times`: the sum over parameters of the variance of a
  row's gradient. Both kinds see the same noise.

  Attributes:
    times: times at which to measure, in [0, 1).

  Raises:
    InputError: a time is out of range.
  """

  times: tuple[float, ...] = setting(TIMES, least=0, below=1)

  def __post_init__(self):
    require(self, "variance")

  def __call__(self, run, denoiser, records, key, batch_size=1):
    del batch_size  # gradients are of one row each
    if not run.task.inserts:
      raise InputError(
        "gradient_variance needs a model that inserts, but this run's method is"
        f" {run.task.method}: its targets are the same."
      )
    if len(records) < 2:
      raise InputError(
        f"num={len(records)} must be at least 2: a variance needs it."
      )
    rows = [run.task.encode(record) for record in records]
    variances = {kind: [] for kind in TARGETS}
    time_keys = jax.random.split(key, len(self.times))
    for time_key, t in zip(time_keys, self.times, strict=True):
      keys = jax.random.split(time_key, len(rows))
      for kind in TARGETS:
        objective = dataclasses.replace(
          run.objective,
          targets=kind,
          states=PathStates(run.interpolant),
        )
        variances[kind].append(_variance(keys, denoiser, rows, t, objective))
    sampled, aligned = (np.array(variances[kind]) for kind in TARGETS)
    return {
      "times": list(self.times),
      **variances,
      "ratio": (sampled / aligned).tolist(),
    }


def _variance(keys, denoiser, rows, t, objective: Diffusion) -> float:
  """Sums the variance of the rows' gradients at time `t` over parameters."""
  add = functools.partial(_add_gradient, objective=objective)
  zeros = jax.tree.map(jnp.zeros_like, denoiser.params)
  total, squares = zeros, jnp.float32(0)
  for key, row in zip(keys, rows, strict=True):
    row = jax.tree.map(lambda x: x[None], row)
    total, squares = add(total, squares, key[None], denoiser, row, t)
  n = len(rows)
  square_of_mean = sum(jnp.sum((x / n) ** 2) for x in jax.tree.leaves(total))
  return float((squares / n - square_of_mean) * n / (n - 1))


@functools.partial(jax.jit, static_argnames="objective")
def _add_gradient(total, squares, key, denoiser, row, t, objective):
  """Adds one row's gradient, and its square."""
  drawn = objective.states.at(key, jnp.full(1, t))

  def loss(params):
    terms = objective.terms(
      dataclasses.replace(denoiser, params=params), row, drawn
    )
    return sum(jnp.sum(x) for x in terms.values())

  gradient = jax.grad(loss)(denoiser.params)
  square = sum(jnp.sum(x**2) for x in jax.tree.leaves(gradient))
  return jax.tree.map(jnp.add, total, gradient), squares + square
