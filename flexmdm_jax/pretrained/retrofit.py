"""Retrofits of pretrained networks: their tensors, by the public names.

The public retrofit has low-rank updates of q, k, v and the vocabulary head, and
a softplus head. Ours may have others, or none: a file's metadata tell.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from flexmdm_jax.errors import InputError, first_line
from flexmdm_jax.models.lora import TARGETS, LoRA
from flexmdm_jax.models.transformer import Transformer
from flexmdm_jax.pretrained.weights import Place, Weight

_PREFIX = "backbone.base_model.model."
# The public code's, whatever the sequences' length.
_MAX_LENGTH = 1024
# The public code's settings; each may be in the metadata.
_PUBLIC = {
  "gap_head": ("softplus", str),
  "gap_scale": (float(_MAX_LENGTH), float),
  "time_scale": (1.0, float),
  "temb_group_size": (8, int),
  "lora_alpha": (None, float),
}
_LINEARS = {
  "time_mlp.0": "time/in",
  "time_mlp.2": "time/out",
  "scalar_length_head.proj1": "gap_head/in",
  "scalar_length_head.proj2": "gap_head/out",
}


def retrofitted(
  model: Transformer,
  base: Sequence[Weight],
  shapes: Mapping[str, tuple[int, ...]],
  metadata: Mapping[str, str],
) -> Transformer:
  """Makes the network that the tensors of a retrofit belong to.

  Args:
    model: the network as it was pretrained.
    base: the family's table of names.
    shapes: shapes of the tensors that the retrofit adds.
    metadata: settings that differ from the public code's; the scale of the
      low-rank updates is `lora_alpha` (the rank, if not given) over the rank.

  Raises:
    InputError: `metadata` has a word in the place of a number, or one that is
      out of range.
  """
  try:
    settings = {
      name: kind(metadata[name]) if name in metadata else default
      for name, (default, kind) in _PUBLIC.items()
    }
    for name in ("gap_scale", "time_scale", "lora_alpha"):
      if settings[name] is not None and not 0 < settings[name] < math.inf:
        raise ValueError(f"{name}={settings[name]} must be above 0")
  except (ValueError, TypeError) as error:
    raise InputError(
      f"the retrofit's metadata cannot be used: {first_line(error)}."
    ) from error
  ranks = {
    target: math.prod(shapes[key][:1])
    for target, row in _targets(base).items()
    if (key := _adapter(row, "A").format(0)) in shapes
  }
  lora, alpha = None, settings.pop("lora_alpha")
  if ranks:
    rank = next(iter(ranks.values()))
    alpha = float(rank) if alpha is None else alpha
    lora = LoRA(rank, alpha, targets=tuple(ranks))
  return model.clone(
    max_length=min(model.max_length, _MAX_LENGTH),
    time_group=settings.pop("temb_group_size"),
    lora=lora,
    **settings,
  )


def metadata(model: Transformer) -> dict[str, str]:
  """Makes the metadata that tell `retrofitted` of a network's retrofit."""
  values: dict[str, Any] = {
    "gap_head": model.gap_head,
    "gap_scale": model.gap_scale or model.max_length,
    "time_scale": model.time_scale,
    "temb_group_size": model.time_group,
  }
  if model.lora:
    values |= {"lora_r": model.lora.rank, "lora_alpha": model.lora.alpha}
  return {name: str(value) for name, value in values.items()}


def table(model: Transformer, base: Sequence[Weight]) -> tuple[Weight, ...]:
  """Names of the tensors that a retrofit adds to a family's table `base`."""
  if model.time_group is None or model.gap_head is None:
    return ()
  block = _targets(base)["q"].theirs.split("{}")[0] + "{}"
  modulation = f"{_PREFIX}{block}.temb_mod"
  shared = model.time_group
  rows = [
    Weight(f"{modulation}.weight", "modulation/kernel", 1, shared),
    Weight(f"{modulation}.bias", "modulation/bias", 0, shared),
    Weight("scalar_length_head.norm.weight", "gap_head/norm/scale"),
    Weight("scalar_length_head.norm.bias", "gap_head/norm/bias"),
  ]
  for theirs, ours in _LINEARS.items():
    rows.append(Weight(f"{theirs}.weight", f"{ours}/kernel", 1))
    rows.append(Weight(f"{theirs}.bias", f"{ours}/bias"))
  for target, row in _targets(base).items():
    if model.lora and target in model.lora.targets:
      ours = row.ours.removesuffix("/kernel")
      rows.append(Weight(_adapter(row, "A"), f"{ours}/lora_a", row.inputs))
      rows.append(Weight(_adapter(row, "B"), f"{ours}/lora_b", 1))
  return tuple(rows)


def keys(places: Mapping[str, Place]) -> list[str]:
  """Keys of the tensors that a retrofit has added."""
  added = (_PREFIX, "time_mlp.", "scalar_length_head.")
  return [key for key in places if key.startswith(added)]


def adapter_shapes(
  base: Sequence[Weight], shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, tuple[int, ...]]:
  """Shapes of their low-rank updates, found from our parameters' shapes."""
  found = {}
  for row in _targets(base).values():
    path = row.ours.removesuffix("kernel") + "lora_a"
    if path in shapes:
      found[_adapter(row, "A").format(0)] = shapes[path][::-1]
  return found


def _targets(base: Sequence[Weight]) -> dict[str, Weight]:
  """Finds the row of each layer that may be updated at low rank."""
  rows = {row.ours: row for row in base}
  return {
    name: rows["head/kernel" if name == "head" else f"blocks/{name}/kernel"]
    for name in TARGETS
  }


def _adapter(row: Weight, matrix: str) -> str:
  layer = row.theirs.removesuffix(".weight")
  return f"{_PREFIX}{layer}.lora_{matrix}.default.weight"
