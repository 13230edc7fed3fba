"""Tokens drawn from hidden states, without all logits in memory."""

from flexmdm_jax.kernels.token_sample.api import TokenSamples, token_sample

__all__ = ["TokenSamples", "token_sample"]
