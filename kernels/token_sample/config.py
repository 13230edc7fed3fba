"""Tuning of `token_sample`, by device; a wrong value changes speed only."""

import dataclasses

from flexmdm_jax.kernels.token_sample import noise

_MIB = 2**20


def _check_multiples(config, **multiples):
  """Raises ValueError unless fields are positive multiples of numbers."""
  for name, of in multiples.items():
    value = getattr(config, name)
    if not isinstance(value, int) or value <= 0 or value % of:
      raise ValueError(
        f"{type(config).__name__}.{name} must be a positive multiple of {of},"
        f" got {value!r}."
      )


@dataclasses.dataclass(frozen=True)
class XlaConfig:
  """Tiles of the implementation for every backend.

  Attributes:
    tile_rows: number of rows that one step computes, at most. Of few rows it
      computes an eighth, at least 8: most calls of a sampler want fewer still.
    tile_vocab: number of ids of one step; [tile_rows, tile_vocab] logits live
      at once.
  """

  tile_rows: int = 128
  tile_vocab: int = 4096

  def __post_init__(self):
    _check_multiples(self, tile_rows=1, tile_vocab=noise.BLOCK)


@dataclasses.dataclass(frozen=True)
class TpuConfig:
  """Tiles of the Mosaic TPU kernel.

  Attributes:
    tile_rows: number of rows of a tile. Each column of `unembed` is read once a
      tile, so the matrix unit is busy only if it is above the chip's operations
      a byte.
    tile_vocab: number of columns of a tile.
    strip_rows: number of rows whose logits are reduced at a time, in registers.
    splits: number of parts of the vocabulary that run independently: 2 for
      chips whose two cores share a grid.
    vmem_bytes: memory that the kernel may use; a larger problem is refused.
  """

  tile_rows: int = 256
  tile_vocab: int = 512
  strip_rows: int = 32
  splits: int = 1
  vmem_bytes: int = 15 * _MIB

  def __post_init__(self):
    _check_multiples(
      self, strip_rows=16, tile_vocab=noise.BLOCK, splits=1, vmem_bytes=1
    )
    _check_multiples(self, tile_rows=self.strip_rows)

  def vmem_needed(self, D: int, itemsize: int) -> int:
    """Bytes of VMEM for hidden states of D numbers, double buffers included."""
    lanes = noise.LANES * 4
    inputs = (
      self.tile_rows * D * itemsize
      + D * self.tile_vocab * itemsize
      + 8 * self.tile_vocab * 4
      + 2 * self.tile_rows * lanes
    )
    outputs = 9 * self.tile_rows * lanes
    logits = self.tile_rows * self.tile_vocab * 4
    # The product, before it is stored, lives beside its destination.
    return 2 * (inputs + outputs) + 2 * logits


# VMEM is 16 MiB a core up to v4, 64 MiB on v5p and v7, 128 MiB on v5e and v6e.
_TPU_BY_KIND = {
  "TPU v4": TpuConfig(splits=2),
  "TPU v5 lite": TpuConfig(tile_rows=512, vmem_bytes=96 * _MIB),
  "TPU v5": TpuConfig(tile_rows=512, splits=2, vmem_bytes=48 * _MIB),
  "TPU v6 lite": TpuConfig(tile_rows=1024, vmem_bytes=96 * _MIB),
  "TPU7x": TpuConfig(tile_rows=512, vmem_bytes=48 * _MIB),
}


def tpu_config(kind: str, N: int, D: int, itemsize: int) -> TpuConfig:
  """Finds tiles for a device kind, made smaller until the problem fits.

  Raises:
    NotImplementedError: the smallest tiles need too much memory.
  """
  config = _TPU_BY_KIND.get(kind, TpuConfig())
  strip = config.strip_rows
  rows = min(config.tile_rows, -(-N // strip) * strip)
  config = dataclasses.replace(config, tile_rows=rows)
  while config.vmem_needed(D, itemsize) > config.vmem_bytes:
    if config.tile_vocab > noise.BLOCK:
      config = dataclasses.replace(config, tile_vocab=noise.BLOCK)
    elif config.tile_rows > strip:
      half = -(-config.tile_rows // (2 * strip)) * strip
      config = dataclasses.replace(config, tile_rows=half)
    else:
      raise NotImplementedError(
        f"Rows of {D} numbers need {config.vmem_needed(D, itemsize)} bytes of"
        f" VMEM; {config.vmem_bytes} are there."
      )
  return config


# Bytes of a Hopper multiprocessor's shared memory that a block can have.
_SMEM = 227 * 1024


@dataclasses.dataclass(frozen=True)
class GpuConfig:
  """Tuning of the Mosaic GPU kernel, whose tiles are 64 rows by 256 columns.

  Attributes:
    cluster: number of blocks that share columns of `unembed`, 1 or 2. Two read
      half as many bytes of them.
    stages: number of steps, each 64 of the inner dimension, in flight.
    processors: number of multiprocessors that the splits of the vocabulary
      should fill.
    max_splits: largest number of parts of the vocabulary, for few rows.
  """

  cluster: int = 2
  stages: int = 5
  processors: int = 132
  max_splits: int = 16

  def __post_init__(self):
    _check_multiples(self, cluster=1, stages=1, processors=1, max_splits=1)
    if self.cluster > 2:
      raise ValueError(f"GpuConfig.cluster={self.cluster} must be 1 or 2.")
    if self.smem_needed() > _SMEM or self.stages < 2:
      raise ValueError(
        f"GpuConfig.stages={self.stages} must be at least 2, and needs"
        f" {self.smem_needed()} of {_SMEM} bytes of shared memory."
      )

  def smem_needed(self) -> int:
    """Bytes of shared memory of a block: two tiles and barriers a stage."""
    return self.stages * ((64 + 256) * 64 * 2 + 4 * 8)


# Number of multiprocessors of devices that have not 132.
_PROCESSORS = {"NVIDIA H20": 78, "NVIDIA H100 PCIe": 114}


# Statistics of this many rows and splits are kept: some 40 MB.
_SPLIT_ROWS = 2**16


def gpu_config(kind: str, N: int) -> GpuConfig:
  """Finds the tuning for a device kind and a number of rows."""
  processors = _PROCESSORS.get(kind, GpuConfig.processors)
  return GpuConfig(
    cluster=1 if N <= 64 else 2,
    processors=processors,
    max_splits=min(max(_SPLIT_ROWS // N, GpuConfig.max_splits), processors),
  )


# Tunings that the tuner tries.
CANDIDATES = {
  "xla": [
    XlaConfig(tile_rows=rows, tile_vocab=columns)
    for rows in (64, 128, 256, 1024)
    for columns in (2048, 4096, 8192)
  ],
  "mosaic_tpu": [
    TpuConfig(rows, columns, strip, splits, 96 * _MIB)
    for rows in (256, 512, 1024)
    for columns in (256, 512, 1024)
    for strip in (16, 32, 64)
    for splits in (1, 2)
  ],
  "mosaic_gpu": [
    GpuConfig(cluster, stages, max_splits=splits)
    for cluster in (1, 2)
    for stages in (3, 5)
    for splits in (1, 16)
  ],
}
