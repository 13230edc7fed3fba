"""Tile sizes. A wrong value changes speed, never results."""

import dataclasses

from flexmdm_jax.kernels.token_sample import noise


def _require_multiple(config, name, of):
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
    tile_rows: rows that one step computes.
    tile_vocab: ids of one step; [tile_rows, tile_vocab] logits live at once.
  """

  tile_rows: int = 128
  tile_vocab: int = 4096

  def __post_init__(self):
    _require_multiple(self, "tile_rows", 1)
    _require_multiple(self, "tile_vocab", noise.BLOCK)
