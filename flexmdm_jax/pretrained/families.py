"""Families of pretrained networks, by the architecture in `config.json`."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from flexmdm_jax.errors import InputError
from flexmdm_jax.models.transformer import Transformer
from flexmdm_jax.pretrained import dream, dream_flexmdm, llada, retrofit
from flexmdm_jax.pretrained import folder as folders
from flexmdm_jax.pretrained.family import Family
from flexmdm_jax.pretrained.weights import Place, Weight, flat_params, places

FAMILIES: dict[str, Family] = {
  "LLaDAModelLM": llada.FAMILY,
  "DreamModel": dream.FAMILY,
}


def family_of(config: Mapping[str, Any]) -> Family:
  """Finds the family of a parsed `config.json`; InputError if it has none."""
  architectures = config.get("architectures")
  for name, family in FAMILIES.items():
    if isinstance(architectures, list) and name in architectures:
      return family
  raise InputError(
    f"config.json has architectures={architectures!r:.200}: none is of"
    f" {tuple(FAMILIES)}."
  )


def model_from_config(config: Mapping[str, Any], **options: Any) -> Transformer:
  """Builds the network that a `config.json` describes.

  Args:
    config: the parsed file.
    **options: further fields of `Transformer`, or other values of its fields.

  Raises:
    InputError: the network is not supported; a field is wrong.
  """
  settings = family_of(config).settings(config)
  return Transformer(**{**settings, **options})


def places_of(model: Transformer, base: Sequence[Weight]) -> dict[str, Place]:
  """Finds where each tensor of a network goes, by its key.

  Args:
    model: the network, with its retrofit if it has one.
    base: the family's table of names.

  Raises:
    InputError: their folder has no place for a part of the network.
  """
  shapes = {path: x.shape for path, x in flat_params(model).items()}
  if not model.shifted:
    table = (*base, *retrofit.table(model, base))
  elif model.lora is None:
    table = (*base, *dream_flexmdm.TABLE)
  else:
    raise InputError(
      "the public FlexMDM's folder has no place for low-rank updates: add them"
      " to the weights first, with merge_lora."
    )
  present = [row for row in table if row.ours in shapes]
  return places(present, shapes, model.num_layers)


class Added(NamedTuple):
  """Tensors that lie in a file of their own, beside a pretrained network's.

  Attributes:
    file: name of the file.
    keys: keys of the tensors; none for a network as it was pretrained.
    metadata: metadata of the file.
  """

  file: str
  keys: list[str]
  metadata: dict[str, str] | None


def added_to(model: Transformer, places: Mapping[str, Place]) -> Added:
  """Tells which of a network's tensors go to which other file.

  Args:
    model: the network.
    places: places of its tensors, as `places_of` gives them.
  """
  if model.shifted:
    keys = [key for key, x in places.items() if x.row in dream_flexmdm.TABLE]
    return Added(folders.EXTRAS_FILE, keys, None)
  keys = retrofit.keys(places)
  metadata = retrofit.metadata(model) if keys else None
  return Added(folders.RETROFIT_FILE, keys, metadata)
