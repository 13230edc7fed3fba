"""Freed memory is kept, in a process of its own."""

import subprocess
import sys

import pytest

_PROGRAM = """
import ctypes, resource
from experiments.common import host_memory
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]
kept = host_memory.keep_freed()
def faults():
  before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
  block = libc.malloc(64 << 20)
  ctypes.memset(block, 1, 64 << 20)
  libc.free(block)
  return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
first = faults()
print(kept, first > 1000, faults() < 100)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="of GNU's C library")
@pytest.mark.parametrize(
  "platforms, told",
  [("cpu", "True True True"), ("cuda", "False True False")],
)
def test_freed_memory_is_kept_on_the_cpu_alone(platforms, told, monkeypatch):
  monkeypatch.setenv("JAX_PLATFORMS", platforms)
  made = subprocess.run(
    [sys.executable, "-c", _PROGRAM], capture_output=True, text=True, check=True
  )
  assert made.stdout.strip() == told
