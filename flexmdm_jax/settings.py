"""Settings: from the nested dicts of a config to the objects they stand for."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from flexmdm_jax import paths, schedules
from flexmdm_jax.errors import InputError
from flexmdm_jax.interpolant import JointInterpolant
from flexmdm_jax.models.dit import DiT
from flexmdm_jax.models.gaps import GAP_HEADS, LAW_HEADS
from flexmdm_jax.models.lora import LoRA
from flexmdm_jax.models.transformer import Transformer
from flexmdm_jax.schema import build
from flexmdm_jax.states import MixedStates, PathStates, StateLaw
from flexmdm_jax.tasks import Task
from flexmdm_jax.training.objectives import (
  Autoregressive,
  Diffusion,
  Objective,
)
from flexmdm_jax.vocab import Vocab


def make_model(settings: Mapping[str, Any], task: Task) -> DiT | Transformer:
  """Makes the network of a config's `model`.

  Args:
    settings: of the network; `kind` is "dit", the default, or "transformer".
    task: decides the ids, the length, and whether the model inserts.

  Raises:
    InputError: a setting is unknown, out of range, or does not suit the task.
  """
  settings = dict(settings)
  kind = settings.pop("kind", "dit")
  if not task.inserts:
    settings["gap_head"] = None
  elif settings.get("gap_head") is None:
    raise InputError(
      "model.gap_head=None cannot tell a sampler what to insert: choose one of"
      f" {', '.join(GAP_HEADS)}."
    )
  for name in ("dtype", "param_dtype"):
    if name in settings:
      settings[name] = _dtype(settings[name])
  if isinstance(settings.get("remat"), bool):  # as configs once had it
    settings["remat"] = "full" if settings["remat"] else "none"
  if kind == "dit":
    return build(
      DiT,
      settings,
      "model",
      vocab=task.vocab,
      max_length=task.max_length,
      causal=task.causal,
    )
  if kind != "transformer":
    raise InputError(
      f"model.kind={kind!r} is unknown: choose one of dit, transformer."
    )
  if task.causal:
    raise InputError(
      "model.kind='transformer' is bidirectional: it has no method"
      " 'autoregressive'."
    )
  vocab = Vocab(**settings.pop("vocab"))
  if vocab != task.vocab:
    raise InputError(
      f"the model has {vocab}, the data {task.vocab}: set"
      " data.tokenizer_folder to the model's own tokenizer."
    )
  lora = settings.pop("lora", None)
  if lora and lora["rank"]:
    lora = build(LoRA, lora, "model.lora")
  return build(
    Transformer,
    settings,
    "model",
    vocab=vocab,
    max_length=task.max_length,
    lora=lora if isinstance(lora, LoRA) else None,
  )


def make_objective(
  interpolant: JointInterpolant,
  task: Task,
  model: DiT | Transformer,
  train: dict[str, Any],
) -> Objective:
  """Makes the objective of a config's `train`, whose settings it takes out.

  Args:
    interpolant: the schedules of the training.
    task: decides which objective.
    model: decides the gap loss, where it predicts the law of each gap.
    train: the settings; those of the objective are removed.

  Raises:
    InputError: a setting is unknown, out of range, or does not suit the model.
  """
  time_exponent = train.pop("time_exponent")
  states = dict(train.pop("states", {"law": "path"}))
  settings = dict(
    targets=train.pop("targets"),
    gap_loss=train.pop("gap_loss", "phi"),
    loss_chunk=train.pop("loss_chunk", None),
  )
  if task.causal:
    return Autoregressive(task.vocab)
  law = states.pop("law")
  if law not in ("path", "mixed"):
    raise InputError(
      f"train.states.law={law!r} is unknown: choose one of path, mixed."
    )
  if not task.inserts:
    # No token is ever missing: a state has one embedding, and no gap a loss.
    law, settings["targets"], settings["gap_loss"] = "path", "sampled", "phi"
  laws: StateLaw = PathStates(interpolant, time_exponent)
  if law == "mixed":
    states["insertion"] = make_schedule(states["insertion"])
    at = tuple(states.pop("at"))
    if not all(0 <= share <= 1 for share in at):
      raise InputError(
        f"train.states.at={at} must be shares of the run, in [0, 1]: a"
        " curriculum cannot be longer than the run."
      )
    states["steps"] = tuple(round(x * train["num_steps"]) for x in at)
    laws = build(MixedStates, states, "train.states", interpolant=interpolant)
  objective = Diffusion(laws, task.vocab, **settings)
  # A head that predicts the law of each gap is trained on that law.
  if model.gap_head in LAW_HEADS:
    return dataclasses.replace(objective, gap_loss="law")
  if objective.gap_loss == "law":
    raise InputError(
      f"train.gap_loss='law' needs a gap head that predicts a law, but"
      f" model.gap_head={model.gap_head!r}: choose one of"
      f" {', '.join(LAW_HEADS)}."
    )
  return objective


def make_path(
  text: str | None, trained: JointInterpolant, task: Task
) -> JointInterpolant:
  """Makes the path of sampling and bounds, for a model that inserts.

  Args:
    text: as `paths.parse` takes it; None is the path of the training.
    trained: the schedules of the training.
    task: one whose model does not insert has that path alone.

  Raises:
    InputError: the text is no path.
  """
  if text is None or not task.inserts:
    return trained
  path = paths.parse(text, trained)
  paths.require_path(path)
  return path


def make_schedule(config: Mapping[str, Any]) -> schedules.Schedule:
  """Makes the schedule of a config that has a place for every parameter."""
  return schedules.from_config(
    {key: value for key, value in config.items() if value is not None}
  )


def _dtype(name: str) -> Any:
  dtypes = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}
  if name not in dtypes:
    raise InputError(
      f"model.dtype={name!r} is unknown: choose one of {', '.join(dtypes)}."
    )
  return dtypes[name]
