"""Hugging Face folders as sources: the network, and where its tensors go."""

import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from flexmdm_jax.errors import InputError
from flexmdm_jax.models.transformer import Transformer
from flexmdm_jax.pretrained import dream_flexmdm, families, weights
from flexmdm_jax.pretrained import folder as folders
from flexmdm_jax.pretrained import retrofit as retrofits
from flexmdm_jax.pretrained.folder import Tensors
from flexmdm_jax.pretrained.weights import Place


class Source(NamedTuple):
  """Contents of a Hugging Face folder.

  Attributes:
    config: the parsed `config.json`.
    model: the network, with its retrofit if there is one; it computes in the
      type of the embedding.
    tensors: tensors by key; each is read when it is asked for.
    places: place of each tensor in our parameters, by key.
    retrofit: the retrofit's metadata, or None.
  """

  config: dict[str, Any]
  model: Transformer
  tensors: Tensors
  places: dict[str, Place]
  retrofit: dict[str, str] | None


def read(
  folder: str | pathlib.Path, retrofit: str | pathlib.Path | None = None
) -> Source:
  """Reads a Hugging Face folder, all but the weights themselves.

  Args:
    folder: holds `config.json` and safetensors files; a FlexMDM's, its extras
      as well.
    retrofit: a safetensors file of the tensors that a retrofit adds.

  Raises:
    InputError: the folder belongs to no family, or its weights are missing,
      unknown, truncated, twice there or of another shape than `config.json`
      implies; or its tokenizer has ids that the network lacks; or a retrofit is
      given for a FlexMDM.
  """
  folder = pathlib.Path(folder)
  config = folders.read_config(folder)
  base = families.family_of(config).table
  model = families.model_from_config(config)
  paths = folders.weight_files(folder)
  folders.check_tokenizer(folder, model.vocab.size)
  metadata = None
  extras = dream_flexmdm.extras_file(folder)
  if extras is not None:
    if retrofit is not None:
      raise InputError(
        f"{folder} is a FlexMDM, by its {extras.name}: give no retrofit."
      )
    model = dream_flexmdm.extended(model, config)
    paths = [*paths, extras]
  elif retrofit is not None:
    added = Tensors([pathlib.Path(retrofit)])
    model = retrofits.retrofitted(model, base, added.shapes, added.metadata)
    metadata = retrofits.metadata(model)
    paths = [*paths, pathlib.Path(retrofit)]
  tensors = Tensors(paths)
  places = families.places_of(model, base)
  weights.require_keys(places, tensors)
  for key, place in places.items():
    weights.require_shape(key, place, tensors.shapes[key])
    if tensors.dtypes[key] in (None, "int8"):
      raise InputError(
        f"{key} is quantised, or of no type that weights have: take the"
        " model's bfloat16 weights."
      )
  embedding = next(k for k, x in places.items() if x.row.ours == "embed")
  dtype = np.dtype(tensors.dtypes[embedding])
  model = model.clone(dtype=dtype, param_dtype=dtype)
  return Source(config, model, tensors, places, metadata)


def rebuilt(
  config: Mapping[str, Any],
  retrofit: Mapping[str, str] | None,
  shapes: Mapping[str, tuple[int, ...]],
  flexmdm: bool = False,
) -> Transformer:
  """Builds the network of a folder that was converted.

  Args:
    config: parsed `config.json` of the folder that it was converted from.
    retrofit: the retrofit's metadata, or None.
    shapes: shapes of the parameters, by path.
    flexmdm: it was a FlexMDM's folder.

  Raises:
    InputError: `families.model_from_config` refuses the config.
  """
  model = families.model_from_config(config)
  if flexmdm:
    return dream_flexmdm.extended(model, config)
  if retrofit is None:
    return model
  base = families.family_of(config).table
  return retrofits.retrofitted(
    model, base, retrofits.adapter_shapes(base, shapes), retrofit
  )
