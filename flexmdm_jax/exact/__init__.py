"""Laws whose perfect denoiser is known, to measure samplers without training.

A sampler's error has two parts: the network's, and its own, which falls with
the number of network calls. With an exact denoiser only the second is left.
"""

from flexmdm_jax.exact.hidden_markov import HiddenMarkovLaw, markov_law
from flexmdm_jax.exact.law import KnownLaw
from flexmdm_jax.exact.quality import (
  LawDistance,
  SamplerQuality,
  law_distance,
  sampler_quality,
)
from flexmdm_jax.exact.short import ShortLaw, token_shares

__all__ = [
  "HiddenMarkovLaw",
  "KnownLaw",
  "LawDistance",
  "SamplerQuality",
  "ShortLaw",
  "law_distance",
  "markov_law",
  "sampler_quality",
  "token_shares",
]
