"""FlexMDM: any-order, variable-length masked diffusion in JAX."""

import pkgutil
from typing import TYPE_CHECKING, Any

from flexmdm_jax import alignment, gap_laws, paths, schedules
from flexmdm_jax.errors import InputError
from flexmdm_jax.interpolant import (
  MDM,
  JointInterpolant,
  Noised,
  draw_times,
  noise,
)
from flexmdm_jax.likelihood import log_likelihood_bound
from flexmdm_jax.losses import ElboTerms, elbo_terms
from flexmdm_jax.models.denoiser import denoiser
from flexmdm_jax.models.dit import DiT
from flexmdm_jax.models.lora import LoRA
from flexmdm_jax.models.transformer import Transformer, merge_lora
from flexmdm_jax.paths import lengths_first, on_path
from flexmdm_jax.prediction import Denoiser, Prediction, Rates, rates
from flexmdm_jax.rows import (
  Start,
  anchor_start,
  empty_start,
  infill_start,
  mask_start,
  prompt_start,
)
from flexmdm_jax.sampling.loop import SamplerConfig, Samples, Trace, sample
from flexmdm_jax.states import MixedStates, PathStates
from flexmdm_jax.vocab import Vocab

if TYPE_CHECKING:
  from flexmdm_jax import convert
  from flexmdm_jax.inference import Generation, Model
  from flexmdm_jax.loading import load

__all__ = [
  "MDM",
  "Denoiser",
  "DiT",
  "ElboTerms",
  "Generation",
  "InputError",
  "JointInterpolant",
  "LoRA",
  "MixedStates",
  "Model",
  "Noised",
  "PathStates",
  "Prediction",
  "Rates",
  "SamplerConfig",
  "Samples",
  "Start",
  "Trace",
  "Transformer",
  "Vocab",
  "alignment",
  "anchor_start",
  "convert",
  "denoiser",
  "draw_times",
  "elbo_terms",
  "empty_start",
  "gap_laws",
  "infill_start",
  "lengths_first",
  "load",
  "log_likelihood_bound",
  "mask_start",
  "merge_lora",
  "noise",
  "on_path",
  "paths",
  "prompt_start",
  "rates",
  "sample",
  "schedules",
]
__version__ = "0.1.0"

# Imported when they are first asked for, as they bring more packages with them:
# "module", or "module:name".
_LATER = {
  "Generation": "flexmdm_jax.inference:Generation",
  "Model": "flexmdm_jax.inference:Model",
  "convert": "flexmdm_jax.convert",
  "load": "flexmdm_jax.loading:load",
}


def __getattr__(name: str) -> Any:
  """Imports what `_LATER` names."""
  if name not in _LATER:
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
  value = globals()[name] = pkgutil.resolve_name(_LATER[name])
  return value


def __dir__() -> list[str]:
  """Lists all names, those of `_LATER` too."""
  return sorted({*globals(), *_LATER})
