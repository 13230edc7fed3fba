"""Conversion in memory: from a Hugging Face folder, and back.

For a network that is too large for it, see `pretrained.checkpoint`.
"""

import json
import pathlib
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from flexmdm_jax.errors import InputError
from flexmdm_jax.models import quantization
from flexmdm_jax.models.parameters import abstract_params
from flexmdm_jax.models.transformer import ADDED, Transformer
from flexmdm_jax.pretrained import families, source, weights
from flexmdm_jax.pretrained import folder as folders
from flexmdm_jax.pretrained.family import Family
from flexmdm_jax.pretrained.source import Source


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
  model = found.model.clone(mask_padding=mask_padding, **options)
  return model, _params(found, model)


def dream_flexmdm_from_hf(
  folder: str | pathlib.Path, **options: Any
) -> tuple[Transformer, dict]:
  """Loads the public 7B FlexMDM from its folder; nothing in it is executed.

  The module `pretrained.dream_flexmdm` has its schedules, which the folder
  lacks, and its prompts. Its `log_gaps[0]` are -inf.

  Args:
    folder: holds `config.json`, safetensors files, and
      `flexmdm_extras.safetensors` or `flexmdm_extras.pt`.
    **options: other fields of `Transformer`, such as `dtype` and `max_length`.

  Returns:
    (model, params): `params` have the types that the files have, but for those
    of the extras, which are float32; the model computes in the embedding's.

  Raises:
    InputError: there are no extras, or `pretrained.source.read` refuses the
      folder.
  """
  found = source.read(folder)
  if not found.model.shifted:
    raise InputError(
      f"{folder} holds no {folders.EXTRAS_FILE} and no flexmdm_extras.pt: it is"
      " no FlexMDM's; download the model's extras, or use llada_from_hf."
    )
  model = found.model.clone(**options)
  return model, _params(found, model)


def _params(found: Source, model: Transformer) -> dict:
  """Converts the parameters; those that are added to a network are float32."""
  params = weights.convert(
    found.places,
    found.tensors,
    quantized=quantization.int8_paths(abstract_params(model)),
  )
  flat = traverse_util.flatten_dict(params)
  return traverse_util.unflatten_dict(
    {
      path: x.astype(jnp.float32) if path[0] in ADDED else x
      for path, x in flat.items()
    }
  )


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
  if model.begin is not None or model.shifted:
    raise InputError(
      f"begin={model.begin}, shifted={model.shifted}: a network whose outputs"
      " predict the next token is no LLaDA. Convert it with"
      " dream_flexmdm_to_hf or pretrained.checkpoint.to_hf."
    )
  _to_hf(model, params, folder, families.FAMILIES["LLaDAModelLM"])


def dream_flexmdm_to_hf(
  model: Transformer, params: dict, folder: str | pathlib.Path
) -> None:
  """Writes a public FlexMDM's folder, which `dream_flexmdm_from_hf` can read.

  The extras go to `flexmdm_extras.safetensors`: no pickle is written.

  Args:
    model: a network as `dream_flexmdm_from_hf` gives it; `merge_lora` first
      adds low-rank updates to the weights.
    params: the model's parameters.
    folder: folder to make; it must be empty or not exist.

  Raises:
    InputError: the folder is not empty or cannot be made; the model is no
      FlexMDM of this form, or has low-rank updates.
  """
  form = (model.shifted, model.gap_head, model.time_group, model.time_scale)
  if form != (True, "log_rate", 1, 1000.0):
    raise InputError(
      f"shifted={form[0]}, gap_head={form[1]}, time_group={form[2]},"
      f" time_scale={form[3]}: the public FlexMDM has shifted=True,"
      " gap_head=log_rate, time_group=1, time_scale=1000; convert one of these."
    )
  _to_hf(model, params, folder, families.FAMILIES["DreamModel"])


def _to_hf(
  model: Transformer,
  params: dict,
  folder: str | pathlib.Path,
  family: Family,
) -> None:
  """Writes a network's folder; see `llada_to_hf`."""
  if model.quantize is not None:
    raise InputError(
      f"quantize={model.quantize!r}: a folder of Hugging Face has no place for"
      " scales; give the model as it was before."
    )
  flat = traverse_util.flatten_dict(params, sep="/")
  places = families.places_of(model, family.table)
  added = families.added_to(model, places)

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
    base_keys = [key for key in places if key not in added.keys]
    write(path / "model.safetensors", base_keys)
    if added.keys:
      write(path / added.file, added.keys, metadata=added.metadata)
