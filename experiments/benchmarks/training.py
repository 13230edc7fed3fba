"""Benchmark of the training step, and the cost of each addition to it."""

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from experiments.benchmarks import shapes
from experiments.benchmarks.timing import compare, median_seconds
from flexmdm_jax.models.dit import DiT
from flexmdm_jax.models.parameters import num_parameters
from flexmdm_jax.rows import Rows
from flexmdm_jax.states import MixedStates, PathStates
from flexmdm_jax.training.objectives import Diffusion, Objective
from flexmdm_jax.training.optimizer import OptimizerConfig, make_optimizer
from flexmdm_jax.training.sharding import Rules, make_mesh
from flexmdm_jax.training.step import StepConfig, make_train_step

# More steps than are timed.
NEVER = 1_000_000


def updater(
  model: nn.Module, objective: Objective, bound_every: int, batch_size: int
) -> Callable[[], Any]:
  """Makes a function that updates a model on full random rows.

  Args:
    model: the network.
    objective: its loss.
    bound_every: steps between measurements of the bound.
    batch_size: B.
  """
  B, L = batch_size, model.max_length
  batch = Rows(
    tokens=jax.random.randint(jax.random.key(0), (B, L), 0, model.vocab.mask),
    length=jnp.full(B, L),
    frozen=jnp.zeros((B, L), bool),
    open_gaps=jnp.ones((B, L + 1), bool),
  )
  train_step = make_train_step(
    model,
    Rules(),
    make_mesh(),
    optimizer=make_optimizer(OptimizerConfig(10_000)),
    objective=objective,
    config=StepConfig(batch_size=B, bound_every=bound_every),
    report_every=NEVER,
  )
  placed = jax.device_put(batch, train_step.batch_sharding)
  state = train_step.init(jax.random.key(0))

  def run():
    nonlocal state
    state, metrics = train_step.update(state, placed)
    return metrics

  return run


def measure(
  *,
  shape: str,
  max_length: int | None,
  batch_size: int | None,
  repeats: int,
) -> dict[str, Any]:
  """Times updates on full-length random sequences, in turns.

  The base is the paper's training, "sampled"; each variant has one addition
  more, and is timed in turns with the base.

  Args:
    shape: name of the model, see `shapes.make_model`.
    max_length: L; None for the shape's.
    batch_size: B; None for the shape's.
    repeats: number of runs of each measurement.
  """
  model, B = shapes.make_model(shape, max_length, batch_size)
  L = model.max_length
  gap_head = getattr(model, "gap_head", None)
  path = Diffusion(PathStates(shapes.INTERPOLANT), model.vocab)
  aligned = dataclasses.replace(path, targets="aligned")
  law = dataclasses.replace(path, gap_loss="law")
  mixed = dataclasses.replace(
    path, states=MixedStates(shapes.INTERPOLANT), gap_loss="damped"
  )
  # Each variant: the network, the objective, and how often the bound is taken.
  variants = {
    "sampled": (model, path, NEVER),
    "aligned": (model, aligned, NEVER),
    "mixed": (model, mixed, NEVER),
    "mixed, bound at every step": (model, mixed, 1),
    **{
      f"gap_head={head}": (model.clone(gap_head=head), objective, NEVER)
      for head, objective in (
        ("log_rate", path),
        ("binned", law),
        ("negative_binomial", law),
      )
      if head != gap_head
    },
  }
  if isinstance(model, DiT):
    for kind in ("input", "blocks"):
      clone = model.clone(neighbours=kind)
      variants[f"neighbours={kind}"] = (clone, path, NEVER)

  base = updater(*variants.pop("sampled"), B)
  seconds, ratios = {"sampled": median_seconds(base, repeats)}, {}
  for name, variant in variants.items():
    pair = compare({"base": base, name: updater(*variant, B)}, repeats)
    seconds[name], ratios[name] = pair[name], pair[name] / pair["base"]
  return dict(
    parameters=num_parameters(model),
    batch_size=B,
    max_length=L,
    gap_head=gap_head,
    step_seconds=seconds,
    over_sampled=ratios,
    tokens_per_second=B * L / seconds["sampled"],
  )
