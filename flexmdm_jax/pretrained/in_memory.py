"""A pretrained network in memory: from a Hugging Face folder, and back.

What is too large for that is converted by `experiments.convert_llada`.
"""

import json
import pathlib
from typing import Any

import numpy as np
from flax import traverse_util

from flexmdm_jax.errors import InputError
from flexmdm_jax.models.transformer import Transformer
from flexmdm_jax.pretrained import families, source, weights
from flexmdm_jax.pretrained import folder as folders
from flexmdm_jax.pretrained import retrofit as retrofits


def llada_from_hf(
  folder: str | pathlib.Path,
  retrofit: str | pathlib.Path | None = None,
  mask_padding: bool = True,
  **options: Any,
) -> tuple[Transformer, dict]:
  """A pretrained network of any of the families, from its folder.

  Args:
    folder: holds `config.json` and safetensors files.
    retrofit: a safetensors file of what the public retrofit adds.
    mask_padding: what lies beyond a sequence takes no part in attention; the
      public code's outputs need False.
    **options: other fields of `Transformer`, such as `dtype` and `max_length`.

  Returns:
    (model, params): `params` are of the types that the files have, and the
    model computes in that of the embedding.

  Raises:
    InputError: as `pretrained.source.read`.
  """
  found = source.read(folder, retrofit)
  params = weights.convert(found.places, found.tensors)
  return found.model.clone(mask_padding=mask_padding, **options), params


def llada_to_hf(
  model: Transformer, params: dict, folder: str | pathlib.Path
) -> None:
  """Writes a folder of the LLaDA family, as `llada_from_hf` reads it.

  Args:
    model: its outputs are of their own position, as LLaDA's.
    params: its parameters. What a retrofit has added, low-rank updates with it,
      goes to `retrofit.safetensors`; `merge_lora` would add the latter to the
      weights first.
    folder: is made; what is there must be empty.

  Raises:
    InputError: the folder is not empty or cannot be made; the model is of
      another family.
  """
  family = families.FAMILIES["LLaDAModelLM"]
  if model.begin is not None:
    raise InputError(
      f"begin={model.begin}: a network whose outputs are of the next token is"
      " no LLaDA. Use experiments.convert_llada, in reverse."
    )
  flat = traverse_util.flatten_dict(params, sep="/")
  places = families.places_of(model, family.table)
  added = retrofits.keys(places)

  def read(key):
    place = places[key]
    value = flat[place.row.ours]
    value = value if place.index is None else value[place.index]
    return place.row.to_theirs(np.asarray(value))

  def write(path, keys, **options):
    specs = {
      key: (flat[places[key].row.ours].dtype, places[key].their_shape)
      for key in keys
    }
    folders.write_file(path, specs, read, **options)

  with folders.created(folder) as path:
    config = json.dumps(family.config(model), indent=1)
    (path / "config.json").write_text(config + "\n")
    write(path / "model.safetensors", [k for k in places if k not in added])
    if added:
      write(
        path / folders.RETROFIT_FILE, added, metadata=retrofits.metadata(model)
      )
