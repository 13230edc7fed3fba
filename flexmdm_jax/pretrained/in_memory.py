"""Conversion in memory: from a Hugging Face folder, and back.

For a network that is too large for it, see `pretrained.checkpoint`.
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
  """Loads a pretrained network of any family from its Hugging Face folder.

  Args:
    folder: holds `config.json` and safetensors files.
    retrofit: a safetensors file of the tensors that the public retrofit adds.
    mask_padding: positions beyond a sequence take no part in attention; the
      public code's outputs need False.
    **options: other fields of `Transformer`, such as `dtype` and `max_length`.

  Returns:
    (model, params): `params` have the types that the files have, and the model
    computes in the embedding's type.

  Raises:
    InputError: `pretrained.source.read` refuses the folder.
  """
  found = source.read(folder, retrofit)
  params = weights.convert(found.places, found.tensors)
  return found.model.clone(mask_padding=mask_padding, **options), params


def llada_to_hf(
  model: Transformer, params: dict, folder: str | pathlib.Path
) -> None:
  """Writes a folder of the LLaDA family, which `llada_from_hf` can read.

  Args:
    model: a network whose outputs predict the token at their own position, as
      LLaDA's do.
    params: the model's parameters. A retrofit's tensors and low-rank updates go
      to `retrofit.safetensors`; `merge_lora` would add the updates to the
      weights first.
    folder: folder to make; it must be empty or not exist.

  Raises:
    InputError: the folder is not empty or cannot be made; the model is of
      another family.
  """
  family = families.FAMILIES["LLaDAModelLM"]
  if model.begin is not None:
    raise InputError(
      f"begin={model.begin}: a network whose outputs predict the next token is"
      " no LLaDA. Convert it with pretrained.checkpoint.to_hf."
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
