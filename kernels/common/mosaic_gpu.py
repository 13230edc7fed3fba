"""Differences between JAX 0.10 and newer ones in Pallas for Mosaic GPU."""

import inspect

import jax
from jax.experimental.pallas import mosaic_gpu as plgpu

_LOAD_TAKES_INDEX = "idx" in inspect.signature(plgpu.load).parameters


def gpu_load(ref, *, layout, optimized=True):
  """`plgpu.load` of a whole reference, of which JAX 0.10 wants an index."""
  index = ((),) if _LOAD_TAKES_INDEX else ()
  return plgpu.load(ref, *index, layout=layout, optimized=optimized)


def gpu_interpreter():
  """What `plgpu.kernel(interpret=...)` takes to run on the CPU.

  Raises:
    NotImplementedError: this JAX has no interpreter of Mosaic GPU.
  """
  if not hasattr(plgpu, "InterpretGPUParams"):
    raise NotImplementedError(
      f"JAX {jax.__version__} cannot interpret Mosaic GPU kernels: newer ones,"
      " which need Python 3.12, can."
    )
  return plgpu.InterpretGPUParams()
