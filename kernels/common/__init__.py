"""Code that the kernels share: the device, and the choice of a kernel."""

from flexmdm_jax.kernels.common.dispatch import Implementation, dispatch
from flexmdm_jax.kernels.common.mosaic_gpu import (
  gpu_interpreter,
  gpu_load,
  gpu_params,
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
  "gpu_interpreter",
  "gpu_load",
  "gpu_params",
  "is_on_one_device",
  "target",
]
