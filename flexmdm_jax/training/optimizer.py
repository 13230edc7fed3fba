"""The optimiser: AdamW with warm-up, cosine decay and clipping, by optax."""

import dataclasses

import jax
import optax

from flexmdm_jax.errors import InputError


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
  """Settings; defaults are the paper's.

  Attributes:
    num_steps: updates in all; the cosine ends there.
    learning_rate: at its peak.
    warmup_steps: linear from 0.
    final_ratio: last learning rate over the peak.
    weight_decay: of matrices; biases, scales and embeddings have none.
    clip_norm: largest global norm of a gradient.
    b1, b2: Adam's decay rates.

  Raises:
    InputError: a number is out of range.
  """

  num_steps: int
  learning_rate: float = 3e-4
  warmup_steps: int = 2000
  final_ratio: float = 0.0
  weight_decay: float = 0.03
  clip_norm: float = 1.0
  b1: float = 0.9
  b2: float = 0.999

  def __post_init__(self):
    if self.num_steps < 1:
      raise InputError(f"num_steps={self.num_steps} must be at least 1.")
    if not 0 <= self.warmup_steps < self.num_steps:
      raise InputError(
        f"warmup_steps={self.warmup_steps} must be in [0, num_steps="
        f"{self.num_steps})."
      )
    for name in ("learning_rate", "clip_norm"):
      if getattr(self, name) <= 0:
        raise InputError(f"{name}={getattr(self, name)} must be positive.")


def make_optimizer(config: OptimizerConfig) -> optax.GradientTransformation:
  """The gradient transformation for `config`."""
  return optax.chain(
    optax.clip_by_global_norm(config.clip_norm),
    optax.adamw(
      learning_rate_schedule(config),
      b1=config.b1,
      b2=config.b2,
      weight_decay=config.weight_decay,
      mask=decays,
    ),
  )


def learning_rate_schedule(config: OptimizerConfig) -> optax.Schedule:
  """The learning rate of each update."""
  return optax.warmup_cosine_decay_schedule(
    init_value=0.0,
    peak_value=config.learning_rate,
    warmup_steps=config.warmup_steps,
    decay_steps=config.num_steps,
    end_value=config.learning_rate * config.final_ratio,
  )


def decays(params) -> object:
  """Which parameters decay: the `kernel`s, and nothing else."""
  return jax.tree_util.tree_map_with_path(
    lambda path, _: any(getattr(k, "key", "") == "kernel" for k in path), params
  )
