"""The optimiser: AdamW with warm-up, cosine decay and clipping, by optax."""

import dataclasses
import re
from collections.abc import Sequence
from typing import Any

import jax
import optax

from flexmdm_jax.errors import InputError
from flexmdm_jax.schema import count, require, setting


@dataclasses.dataclass(frozen=True)
class ParameterGroup:
  """Parameters with a learning rate or weight decay of their own.

  Attributes:
    pattern: regular expression that is found in their paths, such as
      "blocks/q/lora_a".
    learning_rate: factor of the learning rate.
    weight_decay: decay of each of them, biases included; None leaves it as it
      is.

  Raises:
    InputError: the pattern is none, or a number is below 0.
  """

  pattern: str = setting()
  learning_rate: float = setting(1.0, least=0)
  weight_decay: float | None = setting(None, least=0)

  def __post_init__(self):
    require(self, "optimizer.groups")
    try:
      re.compile(self.pattern)
    except re.error as error:
      raise InputError(
        f"optimizer.groups.pattern={self.pattern!r} is no regular expression:"
        f" {error}."
      ) from error


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
  """Settings of the optimiser; defaults are the paper's.

  Attributes:
    num_steps: updates in all; the cosine ends there.
    learning_rate: learning rate at its peak.
    warmup_steps: updates over which it rises linearly from 0.
    final_ratio: last learning rate over the peak.
    weight_decay: decay of matrices; biases, scales and embeddings have none.
    clip_norm: largest global norm of a gradient.
    b1, b2: Adam's decay rates.
    groups: parameters with another learning rate or decay.

  Raises:
    InputError: a number is out of range.
  """

  num_steps: int = count()
  learning_rate: float = setting(3e-4, above=0)
  warmup_steps: int = count(2000, least=0)
  final_ratio: float = setting(0.0, least=0, most=1)
  weight_decay: float = setting(0.03, least=0, most=100)
  clip_norm: float = setting(1.0, above=0)
  b1: float = setting(0.9, least=0, below=1)
  b2: float = setting(0.999, least=0, below=1)
  groups: tuple[ParameterGroup, ...] = ()

  def __post_init__(self):
    require(self, "optimizer")
    if self.warmup_steps >= self.num_steps:
      raise InputError(
        f"optimizer.warmup_steps={self.warmup_steps} must be below the"
        f" {self.num_steps} steps of the run (train.num_steps)."
      )


def make_optimizer(config: OptimizerConfig) -> optax.GradientTransformation:
  """Builds the gradient transformation for `config`.

  Raises:
    InputError: by its `init`, if a group matches no parameter, or two match
      the same.
  """
  clip = optax.clip_by_global_norm(config.clip_norm)
  if not config.groups:
    adamw = optax.adamw(
      learning_rate_schedule(config),
      b1=config.b1,
      b2=config.b2,
      weight_decay=config.weight_decay,
      mask=decays,
    )
    return optax.chain(clip, adamw)

  def decays_alike(params):
    own = {g for g in config.groups if g.weight_decay is not None}
    return jax.tree.map(
      lambda kernel, group: kernel and group not in own,
      decays(params),
      groups(params, config.groups),
    )

  def matches(group):
    return lambda params: jax.tree.map(
      lambda g: g == group, groups(params, config.groups)
    )

  # AdamW, with the parts that its groups have their own of.
  return optax.chain(
    clip,
    optax.scale_by_adam(b1=config.b1, b2=config.b2),
    optax.add_decayed_weights(config.weight_decay, decays_alike),
    *(
      optax.add_decayed_weights(group.weight_decay, matches(group))
      for group in config.groups
      if group.weight_decay is not None
    ),
    optax.scale_by_learning_rate(learning_rate_schedule(config)),
    *(
      optax.masked(optax.scale(group.learning_rate), matches(group))
      for group in config.groups
    ),
  )


def groups(params: Any, known: Sequence[ParameterGroup]) -> Any:
  """Finds the group of each parameter; False where it has none.

  Raises:
    InputError: a group matches no parameter, or two match the same.
  """
  unused = set(known)

  def one(path, _):
    name = "/".join(key.key for key in path if hasattr(key, "key"))
    found = [group for group in known if re.search(group.pattern, name)]
    if len(found) > 1:
      raise InputError(
        f"optimizer.groups: {name} matches two patterns,"
        f" {found[0].pattern!r} and {found[1].pattern!r}."
      )
    unused.difference_update(found)
    return found[0] if found else False

  tree = jax.tree_util.tree_map_with_path(one, params)
  if unused:
    pattern = min(group.pattern for group in unused)
    raise InputError(
      f"optimizer.groups: pattern={pattern!r} matches no parameter that is"
      " trained."
    )
  return tree


def learning_rate_schedule(config: OptimizerConfig) -> optax.Schedule:
  """Builds the learning rate of each update."""
  return optax.warmup_cosine_decay_schedule(
    init_value=0.0,
    peak_value=config.learning_rate,
    warmup_steps=config.warmup_steps,
    decay_steps=config.num_steps,
    end_value=config.learning_rate * config.final_ratio,
  )


def decays(params) -> object:
  """Marks the parameters that decay: the `kernel`s, and nothing else."""
  return jax.tree_util.tree_map_with_path(
    lambda path, _: any(getattr(k, "key", "") == "kernel" for k in path), params
  )
