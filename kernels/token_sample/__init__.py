"""A token for each row from hidden states, without the rows' logits."""

from flexmdm_jax.kernels.token_sample.api import TokenSamples, token_sample

__all__ = ["TokenSamples", "token_sample"]
