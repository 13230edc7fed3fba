"""Differences between JAX 0.10 and newer ones in Pallas for Mosaic GPU."""

import inspect
from typing import Any

import jax
from jax.experimental.pallas import mosaic_gpu as plgpu
from jaxtyping import Array, Shaped

_LOAD_TAKES_INDEX = "idx" in inspect.signature(plgpu.load).parameters


def gpu_load(
  ref: Any, *, layout: Any, optimized: bool = True
) -> Shaped[Array, "..."]:
  """Loads a whole reference by `plgpu.load`, with the index JAX 0.10 wants."""
  index = ((),) if _LOAD_TAKES_INDEX else ()
  return plgpu.load(ref, *index, layout=layout, optimized=optimized)


def gpu_params(**settings: Any) -> plgpu.CompilerParams:
  """Makes compiler parameters for kernels that state all their layouts.

  Newer JAX infers layouts by default, which took 20 of the 21 seconds of
  lowering `token_sample`.

  Args:
    **settings: other fields of `plgpu.CompilerParams`.
  """
  lane = plgpu.LoweringSemantics.Lane
  return plgpu.CompilerParams(lowering_semantics=lane, **settings)


def gpu_interpreter() -> Any:
  """Makes the `interpret` of `plgpu.kernel` that runs it on the CPU.

  Raises:
    NotImplementedError: this JAX has no interpreter of Mosaic GPU.
  """
  if not hasattr(plgpu, "InterpretGPUParams"):
    raise NotImplementedError(
      f"JAX {jax.__version__} cannot interpret Mosaic GPU kernels: newer ones,"
      " which need Python 3.12, can."
    )
  return plgpu.InterpretGPUParams()
