"""Loads a model from its folder, whatever made the folder."""

import dataclasses
import os
import pathlib
from typing import Any

import jax

from flexmdm_jax import schema
from flexmdm_jax.data.chat import load_chat_template
from flexmdm_jax.data.tokenizers import FolderTokenizer, has_folder_tokenizer
from flexmdm_jax.errors import InputError
from flexmdm_jax.inference import Model, Preset, PromptForm, folder
from flexmdm_jax.models import quantization
from flexmdm_jax.models.denoiser import denoiser
from flexmdm_jax.models.lora import SCHEMES
from flexmdm_jax.models.parameters import abstract_params
from flexmdm_jax.models.transformer import Transformer
from flexmdm_jax.pretrained import checkpoint, dream_flexmdm, in_memory
from flexmdm_jax.reading import read_json
from flexmdm_jax.runs import Run
from flexmdm_jax.sampling import SamplerConfig
from flexmdm_jax.training import partition
from flexmdm_jax.training.sharding import make_mesh, replicated

# Network calls of a sample of the public FlexMDM, unless others are asked for.
_STEPS = 128


def load(path: str | os.PathLike, *, quantize: str | None = None) -> Model:
  """Loads a trained model, with its tokenizer, schedules and sampler.

  Nothing in the folder is run. Every device that is here holds the parameters
  whole.

  Args:
    path: the work directory of a run, of which the newest EMA parameters are
      taken; a folder that `Model.export` wrote; or the public FlexMDM's, as the
      hub has it.
    quantize: "int8" makes the kernels of a Transformer's blocks integers with a
      scale for each output, one stack after another; None keeps them.

  Raises:
    InputError: the folder is none of these, or something in it is missing,
      damaged or does not fit; the message says what.
  """
  schema.require_value(
    "quantize", quantize, str | None, schema.Range(among=SCHEMES)
  )
  found = pathlib.Path(path).expanduser()
  if not found.is_dir():
    raise InputError(
      f"{found} is no folder: give a work directory, an exported folder, or a"
      " public FlexMDM's folder. From the hub: `hf download NAME`"
      " and the folder that it prints."
    )
  if (found / "checkpoints").is_dir():
    return _load_run(found, quantize)
  if (found / checkpoint.ABOUT).exists():
    return _load_converted(found, quantize)
  config = found / "config.json"
  if not config.exists():
    raise InputError(
      f"{found} holds no model, as it has no config.json: give a work directory"
      " in which a run has saved a checkpoint, an exported folder, or a public"
      " FlexMDM's folder."
    )
  content = read_json(config, fix="take a good copy")
  if folder.is_exported(content):
    return folder.read(found, quantize)
  if "architectures" not in content:
    raise InputError(
      f"{found} is no model: its config.json has neither a format nor"
      " architectures. A run has a checkpoint once it has saved one."
    )
  if not dream_flexmdm.is_flexmdm(found):
    raise InputError(
      f"{found} is no FlexMDM but {content['architectures']!r:.80}: a Dream"
      " folder is one with flexmdm_extras.safetensors or flexmdm_extras.pt;"
      " others are retrofitted first, see docs/retrofit.md."
    )
  return _public(
    found, *in_memory.dream_flexmdm_from_hf(found, quantize=quantize)
  )


def _load_run(workdir: pathlib.Path, quantize: str | None) -> Model:
  """Loads the model of a work directory."""
  run = Run.from_workdir(workdir)
  network = quantization.quantized_model(run.model, quantize)
  if partition.split(network, abstract_params(network))[1]:
    # What was not trained is quantised while it is read.
    run = dataclasses.replace(run, model=network)
  step, found = run.restore(workdir)
  if quantize is not None and found.model.quantize is None:
    found = denoiser(*quantization.quantize(run.model, found.params, quantize))
  model = run.model_with(found)
  model.about["training"]["steps"] = step
  data = run.config["data"]
  if data.get("tokenizer") != "folder":
    return model
  template = load_chat_template(data["tokenizer_folder"])
  return dataclasses.replace(model, template=template)


def _load_converted(path: pathlib.Path, quantize: str | None) -> Model:
  """Loads the model of a folder that `experiments.convert` made."""
  network = checkpoint.load_model(path, quantize=quantize)
  if not network.shifted:
    raise InputError(
      f"{path} was converted from a network that is no FlexMDM with schedules:"
      " train on it first, as the config's pretrained, see"
      " docs/retrofit.md."
    )
  whole = replicated(make_mesh())
  abstract = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=whole),
    abstract_params(network),
  )
  params = checkpoint.load(path, abstract)
  return _public(path / checkpoint.SOURCE, network, params)


def _public(
  path: pathlib.Path, network: Transformer, params: dict[str, Any]
) -> Model:
  """Makes the model of the public FlexMDM, with its prompts and schedules."""
  vocab, tokenizer, before = network.vocab, None, ()
  if has_folder_tokenizer(path):
    tokenizer = FolderTokenizer(
      path, mask=vocab.mask, pad=vocab.pad, size=vocab.size
    )
  if (path / "tokenizer_config.json").exists():
    before = (dream_flexmdm.begin_id(path, vocab),)
  return Model(
    denoiser=denoiser(network, params),
    vocab=vocab,
    interpolant=dream_flexmdm.INTERPOLANT,
    path=dream_flexmdm.INTERPOLANT,
    sampler=SamplerConfig(steps=_STEPS),
    max_length=network.max_length,
    tokenizer=tokenizer,
    form=PromptForm(before, (vocab.pad,)),
    template=load_chat_template(path),
    presets={
      "published": Preset(
        dream_flexmdm.PUBLISHED_SAMPLER, dream_flexmdm.PUBLISHED_PATH
      )
    },
  )
