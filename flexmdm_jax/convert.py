"""Conversion of other libraries' weights to models and parameters of ours."""

from flexmdm_jax.pretrained.dit import dit_from_torch
from flexmdm_jax.pretrained.in_memory import llada_from_hf, llada_to_hf

__all__ = ["dit_from_torch", "llada_from_hf", "llada_to_hf"]
