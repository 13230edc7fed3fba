"""Weights of other libraries' models, as models and parameters of ours."""

from flexmdm_jax.convert.dit import dit_from_torch
from flexmdm_jax.convert.llada import llada_from_hf, llada_to_hf
