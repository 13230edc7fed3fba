"""The memory of a training on the CPU: what is freed is kept for the next step.

XLA's CPU backend allocates the intermediate results of every step anew. GNU's C
library takes large blocks from the system and gives them back when they are
freed, so that the system clears each of their pages in every step, on one core:
two fifths of a step of the 170M model.
"""

import ctypes
import glob
import sys

import jax

# Options of GNU's mallopt.
_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8
_ACCELERATORS = ("/dev/nvidia[0-9]*", "/dev/accel*", "/dev/vfio/*", "/dev/kfd")


def keep_freed() -> bool:
  """Keeps freed memory in this process, where the CPU is all there is to use.

  It must come before JAX's backend begins, whose threads would have heaps of
  their own, which are given back. The process then never becomes smaller.

  Returns:
    Whether it is kept: not beside a GPU or a TPU, and by GNU's C library alone.
  """
  platforms = jax.config.jax_platforms
  if platforms != "cpu" and (
    platforms or any(glob.glob(path) for path in _ACCELERATORS)
  ):
    return False
  if sys.platform != "linux":
    return False
  mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
  if mallopt is None:
    return False
  options = ((_ARENA_MAX, 1), (_MMAP_MAX, 0), (_TRIM_THRESHOLD, -1))
  # All are set, also after one that fails.
  return all([mallopt(*option) for option in options])
