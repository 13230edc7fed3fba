"""Reveals and insertions of one sampling step, in a batch of ragged rows."""

from flexmdm_jax.kernels.insert_unmask.api import insert_unmask

__all__ = ["insert_unmask"]
