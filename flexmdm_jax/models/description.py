"""Networks as JSON, and back: what an exported folder says of its network."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from flexmdm_jax import schema
from flexmdm_jax.models.dit import DiT
from flexmdm_jax.models.lora import LoRA
from flexmdm_jax.models.transformer import Transformer
from flexmdm_jax.vocab import Vocab

_KINDS = {"dit": DiT, "transformer": Transformer}
_DTYPES = ("dtype", "param_dtype")
# Flax's own fields; and the choice of what runs attention, which is of the
# machine: the next one chooses again.
_LEFT_OUT = ("parent", "name", "attention")


def to_config(model: DiT | Transformer) -> dict[str, Any]:
  """Describes a network, JSON-ready."""
  kinds = {cls: kind for kind, cls in _KINDS.items()}
  config = {"kind": kinds[type(model)]}
  for field in dataclasses.fields(model):
    if field.name in _LEFT_OUT:
      continue
    value = getattr(model, field.name)
    if field.name in _DTYPES:
      value = np.dtype(value).name
    elif dataclasses.is_dataclass(value):
      value = dataclasses.asdict(value)
    config[field.name] = value
  return config


def from_config(config: Mapping[str, Any], name: str) -> DiT | Transformer:
  """Builds the network that `to_config` described.

  Args:
    config: the description.
    name: what its settings are called by in errors.

  Raises:
    KeyMismatchError: it has a setting that this version does not know.
    InputError: a setting is missing, or out of range.
  """
  settings = dict(config)
  kinds = schema.Range(among=_KINDS)
  kind = settings.pop("kind", None)
  schema.require_value(f"{name}.kind", kind, str, kinds)
  settings["vocab"] = schema.build(
    Vocab, settings.get("vocab", {}), f"{name}.vocab"
  )
  for key in _DTYPES:
    if key in settings:
      settings[key] = dtype(f"{name}.{key}", settings[key])
  if settings.get("lora") is not None:
    settings["lora"] = schema.build(LoRA, settings["lora"], f"{name}.lora")
  return schema.build(_KINDS[kind], settings, name)


def dtype(setting: str, name: Any) -> Any:
  """Makes the type that a setting names.

  Raises:
    InputError: it is neither "float32" nor "bfloat16".
  """
  known = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}
  schema.require_value(setting, name, str, schema.Range(among=known))
  return known[name]
