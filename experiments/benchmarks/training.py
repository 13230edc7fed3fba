"""One update of the training step, by the loss's targets."""

from typing import Any

import jax
import jax.numpy as jnp

from experiments.benchmarks import shapes
from experiments.benchmarks.timing import median_seconds
from flexmdm_jax.experiment import num_parameters
from flexmdm_jax.training.objectives import TARGETS, Diffusion
from flexmdm_jax.training.optimizer import OptimizerConfig, make_optimizer
from flexmdm_jax.training.sharding import Rules, make_mesh
from flexmdm_jax.training.step import make_train_step


def measure(
  *,
  shape: str,
  max_length: int | None,
  batch_size: int | None,
  repeats: int,
) -> dict[str, Any]:
  """Times an update on full-length random sequences.

  Args:
    shape: see `shapes.make_model`.
    max_length: L, else the shape's.
    batch_size: B, else the shape's.
    repeats: of each measurement.
  """
  model, B = shapes.make_model(shape, max_length, batch_size)
  L = model.max_length
  tokens = jax.random.randint(jax.random.key(0), (B, L), 0, model.vocab.mask)
  batch = dict(
    tokens=tokens,
    length=jnp.full(B, L),
    frozen=jnp.zeros((B, L), bool),
    open_gaps=jnp.ones((B, L + 1), bool),
  )

  def step_seconds(targets):
    train_step = make_train_step(
      model,
      Rules(),
      make_mesh(),
      optimizer=make_optimizer(OptimizerConfig(10_000)),
      objective=Diffusion(shapes.INTERPOLANT, model.vocab, targets),
      batch_size=B,
    )
    placed = jax.device_put(batch, train_step.batch_sharding)
    state = train_step.init(jax.random.key(0))

    def run():
      nonlocal state
      state, metrics = train_step.update(state, placed)
      return metrics

    return median_seconds(run, repeats)

  seconds = {targets: step_seconds(targets) for targets in TARGETS}
  return dict(
    parameters=num_parameters(model),
    batch_size=B,
    max_length=L,
    step_seconds=seconds,
    aligned_over_sampled=seconds["aligned"] / seconds["sampled"],
    tokens_per_second=B * L / seconds["sampled"],
  )
