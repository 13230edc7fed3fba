"""Loads a model from its folder, whatever made the folder."""

import os
import pathlib
from typing import Any

from flexmdm_jax.errors import InputError
from flexmdm_jax.inference import Model, folder
from flexmdm_jax.reading import read_json
from flexmdm_jax.runs import Run


def load(path: str | os.PathLike) -> Model:
  """Loads a trained model, with its tokenizer, schedules and sampler.

  Nothing in the folder is run. Every device that is here holds the parameters
  whole.

  Args:
    path: the work directory of a run, of which the newest EMA parameters are
      taken; a folder that `Model.export` wrote; or the public FlexMDM's, as the
      hub has it.

  Raises:
    InputError: the folder is none of these, or something in it is missing,
      damaged or does not fit; the message says what.
  """
  found = pathlib.Path(path).expanduser()
  if not found.is_dir():
    raise InputError(
      f"{found} is no folder: give a work directory, an exported folder, or a"
      " public FlexMDM's folder. From the hub: huggingface-cli download NAME"
      " and the folder that it prints."
    )
  if (found / "checkpoints").is_dir():
    return _load_run(found)
  config = found / "config.json"
  if not config.exists():
    raise InputError(
      f"{found} holds no model, as it has no config.json: give a work directory"
      " in which a run has saved a checkpoint, an exported folder, or a public"
      " FlexMDM's folder."
    )
  content = read_json(config, fix="take a good copy")
  if folder.is_exported(content):
    return folder.read(found)
  return _load_pretrained(found, content)


def _load_run(workdir: pathlib.Path) -> Model:
  """Loads the model of a work directory."""
  run = Run.from_workdir(workdir)
  step, denoiser = run.restore(workdir)
  model = run.model_with(denoiser)
  model.about["training"]["steps"] = step
  return model


def _load_pretrained(path: pathlib.Path, config: dict[str, Any]) -> Model:
  raise InputError(f"{path}")
