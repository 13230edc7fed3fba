"""Pretrained networks: families, their folders, and their weights' names."""

from flexmdm_jax.pretrained.families import FAMILIES, model_from_config
