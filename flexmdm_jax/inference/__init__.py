"""Inference: a trained model as people use it, and as a folder to share."""

from flexmdm_jax.inference.model import Generation, Model, Preset, PromptForm

__all__ = ["Generation", "Model", "Preset", "PromptForm"]
