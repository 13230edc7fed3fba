"""Sampling: the loop over steps, its methods, and where the rows lie."""

from flexmdm_jax.sampling.autoregressive import sample_autoregressive
from flexmdm_jax.sampling.batches import in_batches, sample_in_batches
from flexmdm_jax.sampling.config import SamplerConfig
from flexmdm_jax.sampling.loop import (
  Samples,
  Trace,
  row_keys,
  sample,
  sample_steps,
)
from flexmdm_jax.sampling.placement import Placement

__all__ = [
  "Placement",
  "SamplerConfig",
  "Samples",
  "Trace",
  "in_batches",
  "row_keys",
  "sample",
  "sample_autoregressive",
  "sample_in_batches",
  "sample_steps",
]
