"""Conversion of other libraries' weights to models and parameters of ours."""

from flexmdm_jax.pretrained.dit import dit_from_torch
from flexmdm_jax.pretrained.in_memory import (
  dream_flexmdm_from_hf,
  dream_flexmdm_to_hf,
  llada_from_hf,
  llada_to_hf,
)

__all__ = [
  "dit_from_torch",
  "dream_flexmdm_from_hf",
  "dream_flexmdm_to_hf",
  "llada_from_hf",
  "llada_to_hf",
]
