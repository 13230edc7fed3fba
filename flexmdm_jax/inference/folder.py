"""An exported model: a folder that needs nothing beside it, and runs nothing.

  FOLDER/config.json         the network, ids, schedules, path and sampler
  FOLDER/model.safetensors   its parameters; several files above 5 GB
  FOLDER/tokenizer.json ...  its tokenizer, if its tokens are text
  FOLDER/README.md           the model's card

Parameters have their own names, with dots, and their own layout: blocks are
stacked along axis 0.
"""

import dataclasses
import json
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import ml_dtypes
import numpy as np
from flax import traverse_util

from flexmdm_jax import files, paths, schema
from flexmdm_jax.data import tokenizers
from flexmdm_jax.data.chat import load_chat_template
from flexmdm_jax.errors import InputError
from flexmdm_jax.inference.card import model_card
from flexmdm_jax.inference.model import METHODS, Model, Preset, PromptForm
from flexmdm_jax.interpolant import JointInterpolant
from flexmdm_jax.models import description, quantization
from flexmdm_jax.models.denoiser import denoiser
from flexmdm_jax.models.parameters import abstract_params
from flexmdm_jax.pretrained import folder as folders
from flexmdm_jax.pretrained.weights import names
from flexmdm_jax.reading import Keys, clear_read_errors, read_json, require_keys
from flexmdm_jax.sampling import SamplerConfig
from flexmdm_jax.schedules import Immediate
from flexmdm_jax.training.sharding import make_mesh, replicated

FORMAT = "flexmdm_jax"
_VERSION = 1
_FILE_BYTES = 5 * 10**9
_DTYPES = {"float32": np.dtype("float32"), "bfloat16": ml_dtypes.bfloat16}
_AGAIN = "export the model again, or take a good copy"
_KEYS: Keys = {
  "format_version": int,
  "method": str,
  "network": dict,
  "interpolant": dict,
  "path": dict,
  "sampler": dict,
  "presets": dict,
  "prompt": dict,
  "tokenizer": (dict, type(None)),
  "about": dict,
}


def write(
  model: Model,
  folder: str | os.PathLike,
  *,
  dtype: str | None = None,
  evaluations: Sequence[Mapping[str, Any]] = (),
  max_bytes: int = _FILE_BYTES,
) -> None:
  """Writes a model as a folder, one parameter after another.

  Args:
    model: the model.
    folder: folder to make; it must be empty or not exist.
    dtype: type of the parameters in it, "float32" or "bfloat16", but for
      quantised ones; None keeps those that they have. Only a folder that keeps
      them gives equal samples.
    evaluations: results of `experiments.evaluate`, for the card.
    max_bytes: largest size of one file of weights, unless one parameter is
      larger.

  Raises:
    InputError: the folder is not empty or cannot be made; the model's path is
      of a kind that no folder can hold; `dtype` is unknown, or an evaluation is
      no result.
  """
  known = schema.Range(among=_DTYPES)
  schema.require_value("dtype", dtype, str | None, known)
  schema.require_value("max_bytes", max_bytes, int, schema.Range(least=1))
  card = model_card(model, evaluations, dtype)
  flat = traverse_util.flatten_dict(dict(model.denoiser.params), sep=".")
  kept = {key: np.dtype(x.dtype) for key, x in flat.items()}
  dtypes = {
    key: kept[key]
    if key.endswith(".kernel_scale") or kept[key] == np.int8
    else _DTYPES.get(dtype, kept[key])
    for key in flat
  }

  def read(key):
    return np.asarray(flat[key]).astype(dtypes[key])

  specs = {key: (np.dtype(dtypes[key]), x.shape) for key, x in flat.items()}
  with folders.created(folder) as path:
    config = _config(model)
    if model.tokenizer is not None:
      config["tokenizer"] = model.tokenizer.save(path)
    text = json.dumps(config, indent=1, ensure_ascii=False)
    (path / "config.json").write_text(text + "\n")
    (path / "README.md").write_text(card)
    folders.write_files(path, specs, read, max_bytes)


def is_exported(config: Mapping[str, Any]) -> bool:
  """Tells whether a parsed `config.json` is that of an exported model."""
  return config.get("format") == FORMAT


def read(folder: str | os.PathLike, quantize: str | None = None) -> Model:
  """Loads an exported model; every device that is here holds it whole.

  Args:
    folder: the folder.
    quantize: scheme by which to quantise it, see `models.quantization`; None
      takes it as it is.

  Raises:
    InputError: a file is missing or damaged, or of another version; the weights
      or the tokenizer are not those that `config.json` describes.
  """
  folder = pathlib.Path(folder)
  path = folder / "config.json"
  config = read_json(path, fix=_AGAIN)
  folders.verify(
    folder,
    # People write into the card: a licence, for one.
    lambda name: not _is_weights(name) and name != "README.md",
    _AGAIN,
  )
  version = config.get("format_version")
  if version != _VERSION:
    raise InputError(
      f"{path} has format_version={version!r:.40}, but this package reads"
      f" {_VERSION}: use the version that exported it"
      f" ({config.get('version', 'unknown')!r:.40})."
    )
  with clear_read_errors(path, _AGAIN):
    require_keys(config, _KEYS)
  method = config["method"]
  schema.require_value(f"{path}: method", method, str, _among(METHODS))
  network = description.from_config(config["network"], f"{path}: network")
  network = quantization.quantized_model(network, quantize)
  interpolant = _interpolant(config["interpolant"], path)
  about = config["about"]
  everywhere = replicated(make_mesh())
  abstract = jax.tree.map(
    lambda x: x.update(sharding=everywhere), abstract_params(network)
  )
  model = Model(
    denoiser=denoiser(network, read_params(folder, abstract, whole=True)),
    vocab=network.vocab,
    interpolant=interpolant,
    path=_path(config["path"], path, method),
    sampler=_sampler(config["sampler"], path),
    max_length=network.max_length,
    tokenizer=_tokenizer(folder, config, network.vocab),
    method=method,
    form=_form(config["prompt"], path, network.vocab),
    template=load_chat_template(folder),
    presets={
      name: Preset(
        _sampler(preset.get("sampler", {}), path),
        _path(preset.get("path", {}), path, method),
      )
      for name, preset in _objects(config["presets"], path).items()
    },
    about=about,
  )
  if isinstance(interpolant.insertion, Immediate) and method == "flexmdm":
    raise InputError(
      f"{path} has method=flexmdm, but schedules that insert nothing: {_AGAIN}."
    )
  return model


def _config(model: Model) -> dict[str, Any]:
  """Makes the content of `config.json`, but for the tokenizer."""
  return {
    "format": FORMAT,
    "format_version": _VERSION,
    "version": files.package_version(),
    "model_type": "flexmdm",
    "method": model.method,
    "network": description.to_config(model.denoiser.model),
    "interpolant": model.interpolant.to_config(),
    "path": model.path.to_config(),
    "sampler": _fields(model.sampler),
    "presets": {
      name: {
        "sampler": _fields(preset.sampler),
        "path": preset.path.to_config(),
      }
      for name, preset in model.presets.items()
    },
    "prompt": dataclasses.asdict(model.form),
    "tokenizer": None,
    "about": dict(model.about),
  }


def _fields(sampler: SamplerConfig) -> dict[str, Any]:
  """Lists the settings of a sampler that are not the defaults."""
  return {
    field.name: value
    for field in dataclasses.fields(sampler)
    if (value := getattr(sampler, field.name)) != field.default
  }


def read_params(
  folder: pathlib.Path,
  abstract: Mapping[str, Any],
  wanted: Callable[[tuple[str, ...]], bool] = lambda path: True,
  *,
  whole: bool = False,
) -> dict:
  """Reads parameters one by one onto their devices, and quantises them there.

  Args:
    folder: an exported folder.
    abstract: `jax.ShapeDtypeStruct`s with shardings, in the tree of the
      parameters.
    wanted: tells whether to read the parameter at a path.
    whole: the folder must have all of `abstract`. Otherwise it may lack some:
      the parts of a retrofit.

  Raises:
    InputError: one is missing, unknown, or of another shape or type.
  """
  tensors = folders.Tensors(folders.weight_files(folder))
  flat = {}
  known = traverse_util.flatten_dict(dict(abstract), sep="/")
  # Those that the folder has in floating point.
  to_quantize = {
    path
    for path in quantization.int8_paths(abstract)
    if tensors.dtypes.get(_key(path)) in _DTYPES
  }
  made = {quantization.scale_path(path) for path in to_quantize}
  keys = {_key(path): path for path in known if path not in made}
  if whole and (missing := keys.keys() - tensors.keys()):
    raise InputError(f"{folder} lacks {names(missing)}: {_AGAIN}.")
  if unknown := tensors.keys() - keys.keys():
    raise InputError(
      f"{folder} has {names(unknown)}, which the model lacks: give the model"
      " the settings of that folder's, beside what is added."
    )
  keys = {
    key: path
    for key, path in keys.items()
    if key in tensors and wanted(tuple(path.split("/")))
  }
  for key, path in keys.items():
    expected = known[path]
    if tensors.shapes[key] != expected.shape:
      raise InputError(
        f"{folder} has {key} of the shape {list(tensors.shapes[key])}, but the"
        f" model needs {list(expected.shape)}: {_AGAIN}."
      )
    if path in to_quantize:
      flat |= quantization.quantized(
        path, jax.device_put(tensors[key], expected.sharding), abstract
      )
      continue
    allowed = ("int8",) if expected.dtype == np.int8 else tuple(_DTYPES)
    if tensors.dtypes[key] not in allowed:
      kind = "not int8" if len(allowed) == 1 else "neither float32 nor bfloat16"
      raise InputError(
        f"{folder} has {key} of a type that is {kind}: {_AGAIN}."
      )
    flat[path] = jax.device_put(tensors[key], expected.sharding)
  return traverse_util.unflatten_dict(flat, sep="/")


def _key(path: str) -> str:
  """Returns the name in the files of the parameter at `path`."""
  return path.replace("/", ".")


def _tokenizer(folder, config, vocab) -> tokenizers.Tokenizer | None:
  """Loads the tokenizer, which must be the one that was exported."""
  if config["tokenizer"] is None:
    return None
  found = tokenizers.load_saved(folder, config["tokenizer"], vocab)
  if found.vocab != vocab:
    raise InputError(
      f"{folder}: the network has {vocab}, its tokenizer {found.vocab}: they"
      " are not of one model."
    )
  if found.fingerprint != config["tokenizer"].get("fingerprint"):
    raise InputError(
      f"{folder} has another tokenizer than the one that was exported:"
      f" {_AGAIN}."
    )
  return found


def _interpolant(config: Any, path: pathlib.Path) -> JointInterpolant:
  with clear_read_errors(path, _AGAIN):
    require_keys(config, {"insertion": dict, "unmasking": dict})
  try:
    return JointInterpolant.from_config(config)
  except InputError as error:
    raise InputError(f"{path}: {error}") from error


def _path(config: Any, path: pathlib.Path, method: str) -> JointInterpolant:
  found = _interpolant(config, path)
  if method == "flexmdm":
    paths.require_path(found)
  return found


def _sampler(fields: Any, path: pathlib.Path) -> SamplerConfig:
  return schema.build(SamplerConfig, fields, f"{path}: sampler")


def _form(config: Any, path: pathlib.Path, vocab: Any) -> PromptForm:
  found = PromptForm(
    **{name: tuple(config.get(name) or ()) for name in ("before", "after")}
  )
  for id_ in (*found.before, *found.after):
    if type(id_) is not int or not 0 <= id_ < vocab.size:
      raise InputError(
        f"{path} has the id {id_!r:.40} beside a prompt, out of range [0,"
        f" {vocab.size}): {_AGAIN}."
      )
  return found


def _objects(config: Mapping[str, Any], path: pathlib.Path) -> dict[str, dict]:
  """Returns a mapping whose values are objects; InputError if one is none."""
  with clear_read_errors(path, _AGAIN):
    require_keys(config, {name: dict for name in config})
  return dict(config)


def _is_weights(name: str) -> bool:
  return name.endswith(".safetensors")


def _among(known) -> schema.Range:
  return schema.Range(among=known)
