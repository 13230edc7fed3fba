"""Code that the kernels share: the device, and the choice of a kernel."""

from flexmdm_jax.kernels.common.dispatch import (
  Implementation,
  dispatch,
  later,
)
from flexmdm_jax.kernels.common.targets import (
  Target,
  is_on_one_device,
  target,
)

__all__ = [
  "Implementation",
  "Target",
  "dispatch",
  "is_on_one_device",
  "later",
  "target",
]
