"""One trained model, sampled and bounded on any path.

Given a state, the law of the clean sequence depends on time only through the
survival of presence: each missing token weighs `1 - alpha`, while masks and
clean tokens give a factor that all clean sequences share. So the posterior of
the tokens and of the gaps is a function of (state, alpha), whatever the
unmasking schedule. A model that was trained with one pair of schedules is
therefore right for every other pair, if it is shown its own clock at equal
alpha; only the hazards are those of the new path.

Source: ours; the retimed insertion of arXiv 2607.26504 is one such path.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from flexmdm_jax import schedules
from flexmdm_jax.errors import InputError
from flexmdm_jax.interpolant import JointInterpolant
from flexmdm_jax.prediction import (
  Denoiser,
  Features,
  Prediction,
  as_pytree,
  features_or_prediction,
  ignores_padding,
)
from flexmdm_jax.schedules import Immediate, Power, Window

# The last survival that the trained clock is asked for; at 0 itself its slope
# need not be finite.
_TINY = 1e-37
_NAMED = ("trained", "lengths_first")


def lengths_first(turn: float = 0.125) -> JointInterpolant:
  """Makes the path that inserts everything, and only then unmasks.

  On it a FlexMDM is a masked diffusion model without padding, whose length it
  drew itself. Insertions slow down towards their end, which keeps the variance
  of the likelihood bound finite.

  Args:
    turn: time at which the insertions end and the unmasking begins: the share
      of a sampler's steps that insert. No bound depends on it.

  Raises:
    InputError: `turn` is not inside (0, 1).
  """
  if not 0 < turn < 1:
    raise InputError(f"turn={turn} must be inside (0, 1).")
  return JointInterpolant(
    insertion=Window(Power(2.0), 0.0, turn),
    unmasking=Window(Power(1.0), turn, 1.0),
  )


def parse(text: str, trained: JointInterpolant) -> JointInterpolant:
  """Reads a path as commands take it.

  Args:
    text: "trained", "lengths_first", or an insertion and an unmasking schedule
      separated by a comma, each as `schedules.parse` takes it:
      "power:4,power:1".
    trained: the schedules that the model was trained with.

  Raises:
    InputError: it is none of these.
  """
  if text == "trained":
    return trained
  if text == "lengths_first":
    return lengths_first()
  parts = text.split(",")
  if len(parts) != 2:
    raise InputError(
      f"path={text!r} must be one of {_NAMED}, or two schedules as in"
      " 'power:4,power:1' (insertion, unmasking)."
    )
  return JointInterpolant(*map(schedules.parse, parts))


def trained_clock(
  trained: JointInterpolant, path: JointInterpolant, t: Float[Array, "*b"]
) -> Float[Array, "*b"]:
  """Finds the time at which the trained insertion is as far as the path's at t.

  Args:
    trained: the schedules that the model was trained with.
    path: those of the path.
    t: times on the path, in [0, 1].

  Returns:
    Times in [0, 1]; precise and with finite slopes up to both ends. Of two
    fixed-length paths, where alpha is always 1, those of equal beta.
  """
  of, at = trained.insertion, path.insertion
  if isinstance(of, Immediate) and isinstance(at, Immediate):
    of, at = trained.unmasking, path.unmasking
  # Each half is asked on its own side, where it keeps its digits; the other's
  # argument is held at the middle, where its slope is finite.
  gone, left = at.alpha(t), jnp.maximum(at.survival(t), _TINY)
  early = of.inverse(jnp.minimum(gone, 0.5))
  late = of.inverse_survival(jnp.minimum(left, 0.5))
  return jnp.where(gone < 0.5, early, late)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class _OnPath:
  """A denoiser that is shown its own clock; see `on_path`."""

  denoiser: Any
  trained: JointInterpolant = dataclasses.field(metadata={"static": True})
  path: JointInterpolant = dataclasses.field(metadata={"static": True})

  @property
  def ignores_padding(self) -> bool:
    """Tells whether a row's prediction is the same whatever L is."""
    return ignores_padding(self.denoiser)

  def __call__(self, tokens, length, t) -> Prediction:
    return self.denoiser(tokens, length, self._clock(t))

  def _clock(self, t):
    return trained_clock(self.trained, self.path, t)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class _FeaturesOnPath(_OnPath):
  """A denoiser on a path that can stop before the vocabulary head."""

  def features(self, tokens, length, t) -> Features:
    """Predicts up to the vocabulary head's product."""
    return self.denoiser.features(tokens, length, self._clock(t))


def on_path(
  denoiser: Denoiser, trained: JointInterpolant, path: JointInterpolant
) -> Denoiser:
  """Puts a denoiser on another path: the network is shown its own clock.

  Pass `path` as the interpolant of `sample`, `rates` and
  `log_likelihood_bound`, which then use that path's hazards.

  Args:
    denoiser: any denoiser; one with `features` keeps them.
    trained: the schedules that it was trained with.
    path: other schedules, whose insertion increases from 0 to 1.

  Returns:
    A denoiser `(tokens, length, t) -> Prediction` of times on `path`; the very
    one that was given where the two are equal.

  Raises:
    InputError: the path's alpha or beta is no distribution function on [0, 1];
      or the model never saw a missing token, and the path has some.
  """
  if trained == path:
    return denoiser
  require_path(path)
  if isinstance(trained.insertion, Immediate) and not isinstance(
    path.insertion, Immediate
  ):
    raise InputError(
      f"the path inserts by {path.insertion}, but the model was trained at a"
      " fixed length: give a path with insertion Immediate()."
    )
  denoiser = as_pytree(denoiser)
  has_features = features_or_prediction(denoiser) is not denoiser
  kind = _FeaturesOnPath if has_features else _OnPath
  return kind(denoiser, trained, path)


def require_path(path: JointInterpolant) -> None:
  """Refuses schedules that are no distribution functions on [0, 1].

  Raises:
    InputError: one decreases somewhere, or does not run from 0 to 1.
  """
  with jax.ensure_compile_time_eval():
    t = jnp.linspace(0.0, 1.0, 129)
    for name in ("insertion", "unmasking"):
      schedule = getattr(path, name)
      if isinstance(schedule, Immediate):
        continue
      alpha = schedule.alpha(t)
      increases = jnp.all(jnp.diff(alpha) >= -1e-6)
      ends = jnp.abs(alpha[0]) + jnp.abs(alpha[-1] - 1.0) < 1e-4
      if not (increases and ends):
        raise InputError(
          f"the path's {name}={schedule} must increase from 0 at t=0 to 1 at"
          " t=1."
        )
