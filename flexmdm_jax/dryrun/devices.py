"""Accelerators, and the topologies of them that a step is compiled for."""

import dataclasses
import importlib.util
import os
import re

import jax
from jax.experimental import topologies

from flexmdm_jax.errors import InputError, first_line


@dataclasses.dataclass(frozen=True)
class Device:
  """One chip and its peak rates, in units per second.

  Attributes:
    flops: operations of dense bfloat16 matrix products.
    hbm_bytes: size of the memory.
    hbm_rate: bytes read from or written to the memory.
    link_rate: bytes sent to the devices of its group, over all its links.
    group: number of devices that such links join.
    far_rate: bytes sent beyond the group.
  """

  flops: float
  hbm_bytes: float
  hbm_rate: float
  link_rate: float
  group: int
  far_rate: float


# TPUs: Google Cloud's pages "TPU v5e", "TPU v5p", "TPU v6e", "TPU7x" (FLOP/s,
# memory, chips of a pod) and "How to Scale Your Model", chapter 2 (one-way
# bytes of a link: 45, 90, 90 GB/s, times 4, 6, 4 links; 6.25 GB/s a chip
# between pods). TPU7x: 1.2 TB/s in both directions.
# GPUs: NVIDIA's data sheets of H100 SXM and H200 SXM (dense FLOP/s; NVLink is
# 900 GB/s in both directions), and one 400 Gb/s adapter a GPU, as in a DGX.
DEVICES = {
  "v5e": Device(197e12, 16e9, 0.82e12, 180e9, 256, 6.25e9),
  "v5p": Device(459e12, 95e9, 2.77e12, 540e9, 8960, 6.25e9),
  "v6e": Device(918e12, 32e9, 1.64e12, 360e9, 256, 6.25e9),
  "tpu7x": Device(2307e12, 192e9, 7.38e12, 600e9, 9216, 12.5e9),
  "h100": Device(989e12, 80e9, 3.35e12, 450e9, 8, 50e9),
  "h200": Device(989e12, 141e9, 4.8e12, 450e9, 8, 50e9),
}
_TPUS = ("v5e", "v5p", "v6e", "tpu7x")
_FORMS = (
  "v5p:2x2x4 (three sizes for v5p and tpu7x, two for v5e and v6e) and"
  " gpu:h100:16 (h100 or h200, and their number)"
)

# Variables that libtpu needs on a machine without a TPU.
_TPU_ENVIRONMENT = {
  "TPU_SKIP_MDS_QUERY": "1",
  "TPU_WORKER_HOSTNAMES": "localhost",
  "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}


@dataclasses.dataclass(frozen=True)
class Topology:
  """Devices to compile for.

  Attributes:
    kind: kind of the devices, a key of `DEVICES`.
    devices: the devices to compile for, as many as the topology has; CPU
      devices where those of `kind` cannot be compiled for here.
    compiled_for: kind of the devices to compile for.
  """

  kind: str
  devices: list[jax.Device]
  compiled_for: str

  @property
  def device(self) -> Device:
    return DEVICES[self.kind]


def topology(name: str) -> Topology:
  """Makes the topology `name`.

  GPUs need JAX's CUDA plugin, but no GPU. Without it, the program is compiled
  for as many fake CPU devices: it is partitioned alike, and its arguments take
  the same memory; its temporaries take more, since the CPU computes in float32
  and has no fused attention.

  Args:
    name: a name such as "v5p:2x2x4" or "gpu:h100:16".

  Raises:
    InputError: there is no such topology, or libtpu is not installed.
  """
  gpu = re.fullmatch(r"gpu:(h100|h200):([1-9]\d*)", name)
  if gpu:
    return _gpus(gpu[1], int(gpu[2]))
  kind, _, sizes = name.partition(":")
  if kind not in _TPUS or not re.fullmatch(r"\d+(x\d+){1,2}", sizes):
    raise InputError(f"topology={name} is unknown: there are {_FORMS}.")
  sizes = [int(size) for size in sizes.split("x")]
  if importlib.util.find_spec("libtpu") is None:
    raise InputError(
      f"topology={name} needs libtpu: pip install 'flexmdm_jax[tpu]'."
    )
  for key, value in _TPU_ENVIRONMENT.items():
    os.environ.setdefault(key, value)
  try:
    # A host has 2x2 chips, unless it is said to have the one that there is.
    alone = dict(chips_per_host_bounds=[1, 1, 1]) if set(sizes) == {1} else {}
    found = topologies.get_topology_desc(
      platform="tpu", topology_name=name, **alone
    )
  except Exception as error:  # whatever libtpu makes of a wrong shape
    raise InputError(
      f"topology={name} is none that libtpu knows"
      f" ({first_line(error)}): there are {_FORMS}."
    ) from error
  return Topology(kind, list(found.devices), found.devices[0].device_kind)


def _gpus(kind: str, number: int) -> Topology:
  """Topology of GPUs in nodes of eight, or of CPU devices in their place."""
  node = DEVICES[kind].group
  if number > node and number % node:
    raise InputError(
      f"topology=gpu:{kind}:{number}: more than {node} are whole nodes, so"
      f" their number must be a multiple of {node}."
    )
  plugins = [f"jax_cuda{version}_plugin" for version in (12, 13)]
  if not any(importlib.util.find_spec(name) for name in plugins):
    jax.config.update("jax_num_cpu_devices", number)
    return Topology(kind, jax.devices("cpu")[:number], "cpu")
  found = topologies.get_topology_desc(
    platform="cuda",
    topology=f"1x{-(-number // node)}x{min(number, node)}",
    target_config=_HOPPER.format(
      name=f"NVIDIA {kind.upper()}",
      memory=int(DEVICES[kind].hbm_bytes),
      rate=int(DEVICES[kind].hbm_rate),
    ),
  )
  return Topology(kind, list(found.devices), found.devices[0].device_kind)


# Properties that XLA needs of a GPU, as CUDA reports them of H100 and H200.
_HOPPER = """
gpu_device_info {{
  threads_per_block_limit: 1024
  threads_per_warp: 32
  shared_memory_per_block: 49152
  shared_memory_per_block_optin: 232448
  shared_memory_per_core: 233472
  threads_per_core_limit: 2048
  core_count: 132
  fpus_per_core: 128
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
  l2_cache_size: 52428800
  clock_rate_ghz: 1.98
  memory_bandwidth: {rate}
  device_memory_size: {memory}
  cuda_compute_capability {{
    major: 9 minor: 0 feature_extension: ACCELERATED_FEATURES
  }}
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 8 patch: 0 }}
device_description_str: "{name}"
"""
