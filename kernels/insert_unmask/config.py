"""Tuning of `insert_unmask`, by implementation and device."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class TpuConfig:
  """Tuning of the TPU kernel.

  Attributes:
    block_rows: number of rows that a program holds; a multiple of 8.
  """

  block_rows: int = 8

  def __post_init__(self):
    if self.block_rows < 8 or self.block_rows % 8:
      raise ValueError(
        f"block_rows={self.block_rows} must be a positive multiple of 8."
      )


@dataclasses.dataclass(frozen=True)
class GpuConfig:
  """Tuning of the GPU kernel.

  Attributes:
    chunk: number of positions of a row that a warpgroup holds at once; a power
      of two, at least its 128 threads, at most 2048, so that they stay in
      registers.
  """

  chunk: int = 512

  def __post_init__(self):
    if not 128 <= self.chunk <= 2048 or self.chunk & (self.chunk - 1):
      raise ValueError(
        f"chunk={self.chunk} must be a power of two in [128, 2048]."
      )


# By device kind; others take the defaults. Rows are printed by
# `python -m experiments.tune_kernels --kernel=insert_unmask`. On an H100 a
# chunk of 2048 takes 28 to 38 us for all shapes of the table, one of 512 29 to
# 53 us.
TPU_TABLE: dict[str, TpuConfig] = {}
GPU_TABLE: dict[str, GpuConfig] = {
  "NVIDIA H100 80GB HBM3": GpuConfig(chunk=2048),
}

# Tunings that the tuner tries.
CANDIDATES = {
  "mosaic_tpu": [TpuConfig(rows) for rows in (8, 16, 32)],
  "mosaic_gpu": [GpuConfig(chunk) for chunk in (128, 256, 512, 1024, 2048)],
}
