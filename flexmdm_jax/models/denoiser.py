"""A denoiser made of a Flax model and its parameters."""

import dataclasses
from typing import Any

import flax.linen as nn
import jax

from flexmdm_jax.prediction import Features, Prediction


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ModelDenoiser:
  """A denoiser that is a pytree.

  Its parameters pass through `jax.jit` as arguments, not as constants.
  """

  params: Any
  model: nn.Module = dataclasses.field(metadata={"static": True})
  apply_options: tuple = dataclasses.field(metadata={"static": True})
  rngs: Any = None

  @property
  def ignores_padding(self) -> bool:
    """Tells whether a row's prediction is the same whatever L is."""
    return getattr(self.model, "mask_padding", True)

  def __call__(self, tokens, length, t) -> Prediction:
    return self._apply(tokens, length, t)

  def features(self, tokens, length, t) -> Features:
    """Predicts up to the vocabulary head's product."""
    return self._apply(tokens, length, t, features=True)

  def _apply(self, *args, **options):
    options |= dict(self.apply_options)
    return self.model.apply(
      {"params": self.params}, *args, rngs=self.rngs, **options
    )


def denoiser(
  model: nn.Module, params: Any, *, rngs: Any = None, **apply_options
) -> ModelDenoiser:
  """Makes a denoiser of a model: `(tokens, length, t) -> Prediction`.

  Args:
    model: a Flax module of this package, such as `DiT`.
    params: its parameters (the EMA's for evaluation).
    rngs: keys by name, as Flax takes them: `{"dropout": key}` in training,
      where a model has dropout; without, it has none.
    **apply_options: hashable keyword arguments of the module's `__call__`.
  """
  options = tuple(sorted(apply_options.items()))
  return ModelDenoiser(params, model, options, rngs)
