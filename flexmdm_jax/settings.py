"""Settings: from the nested dicts of a config to the objects they stand for."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from flexmdm_jax import paths, schedules, schema
from flexmdm_jax.errors import InputError
from flexmdm_jax.interpolant import JointInterpolant
from flexmdm_jax.models import description
from flexmdm_jax.models.dit import DiT
from flexmdm_jax.models.gaps import GAP_HEADS, LAW_HEADS
from flexmdm_jax.models.lora import LoRA
from flexmdm_jax.models.transformer import Transformer
from flexmdm_jax.sampling import SamplerConfig
from flexmdm_jax.schema import build
from flexmdm_jax.states import MixedStates, PathStates, StateLaw
from flexmdm_jax.tasks import Task
from flexmdm_jax.tasks.finetune.task import FineTuneSettings
from flexmdm_jax.tasks.text.task import TextSettings
from flexmdm_jax.training.loop import LoopConfig
from flexmdm_jax.training.objectives import (
  Autoregressive,
  Diffusion,
  Objective,
)
from flexmdm_jax.training.optimizer import OptimizerConfig, ParameterGroup
from flexmdm_jax.training.sharding import Layout
from flexmdm_jax.training.step import StepConfig
from flexmdm_jax.vocab import Vocab

# The sections of a config, and what has their settings.
_CLASSES = {
  "data, of a text": (TextSettings,),
  "data, of gsm8k and code": (FineTuneSettings,),
  "model": (DiT,),
  "model, of kind transformer": (Transformer,),
  "model.lora": (LoRA,),
  "optimizer": (OptimizerConfig,),
  "optimizer.groups": (ParameterGroup,),
  "train": (StepConfig, LoopConfig, Diffusion, PathStates),
  "train.states": (MixedStates,),
  "mesh": (Layout,),
  "sampler": (SamplerConfig,),
}


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
      settings[name] = description.dtype(f"model.{name}", settings[name])
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
  vocab = settings.pop("vocab", None)  # None: a new network, for these data
  if vocab is not None:
    vocab = build(Vocab, vocab, "model.vocab")
    if vocab != task.vocab:
      raise InputError(
        f"the model has {vocab}, the data {task.vocab}: set"
        " data.tokenizer_folder to the model's own tokenizer."
      )
  lora = settings.pop("lora", None)
  schema.require_value("model.lora", lora, Mapping | None)
  if lora and lora.get("rank", True):
    lora = build(LoRA, lora, "model.lora")
  return build(
    Transformer,
    settings,
    "model",
    vocab=task.vocab,
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
  weight_floor = train.pop("weight_floor", 0.0)
  states = train.pop("states", {"law": "path"})
  schema.require_value("train.states", states, Mapping)
  states = dict(states)
  settings = dict(
    targets=train.pop("targets"),
    gap_loss=train.pop("gap_loss", "phi"),
    forbid_mask=train.pop("forbid_mask", True),
    loss_chunk=train.pop("loss_chunk", None),
  )
  if task.causal:
    return Autoregressive(task.vocab)
  law = states.pop("law")
  laws = schema.Range(among=("path", "mixed"))
  schema.require_value("train.states.law", law, str, laws)
  path = PathStates(interpolant, time_exponent, weight_floor)
  if law == "mixed" and weight_floor:
    raise InputError(
      f"train.weight_floor={weight_floor} is of the states of law 'path': set"
      " train.states.law=path, or weight_floor=0."
    )
  laws: StateLaw = path
  if states and task.inserts:  # checked, though the law may be another
    mixed = _mixed_states(interpolant, states, train)
    laws = mixed if law == "mixed" else path
  objective = Diffusion(laws, task.vocab, **settings)
  if not task.inserts:
    # No token is ever missing: a state has one embedding, and no gap a loss.
    return dataclasses.replace(objective, targets="sampled", gap_loss="phi")
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


def _mixed_states(
  interpolant: JointInterpolant,
  states: dict[str, Any],
  train: Mapping[str, Any],
) -> MixedStates:
  """Makes the law of a config's `train.states` for a model that inserts."""
  at = states.pop("at")
  at = tuple(at) if isinstance(at, list) else at
  # Shares of the run: a curriculum cannot be longer.
  schema.require_value(
    "train.states.at", at, tuple[float, ...], schema.Range(least=0, most=1)
  )
  schema.require_value("train.num_steps", train["num_steps"], int)
  states["insertion"] = make_schedule(states["insertion"])
  states["steps"] = tuple(round(x * train["num_steps"]) for x in at)
  return build(MixedStates, states, "train.states", interpolant=interpolant)


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
  """Makes the schedule of a config that has a place for every parameter.

  Raises:
    InputError: it is none, or has a parameter out of its range.
  """
  schema.require_value("a schedule", config, Mapping)
  return schedules.from_config(
    {key: value for key, value in config.items() if value is not None}
  )


def settings_help() -> str:
  """Lists every setting of a config: its type, range, default and meaning."""
  lines = []
  for section, classes in _CLASSES.items():
    lines.append(f"{section}:")
    seen = set()
    for cls in classes:
      for setting in schema.describe(cls):
        if setting.name not in seen:
          lines.append(f"  {setting}")
        seen.add(setting.name)
  return "\n".join(lines)
