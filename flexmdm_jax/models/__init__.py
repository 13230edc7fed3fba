"""Networks: denoisers in Flax Linen."""
