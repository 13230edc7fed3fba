"""Settings of samplers, as a command line has them.

Fields of `SamplerConfig` with their values, `entropy_budget=0.2,group=2`; in a
list of samplers, where commas part these, a method and fields that are joined
by +: `tau_leaping+grid=events+finish=4`.
"""

import ast
import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from flexmdm_jax import schema
from flexmdm_jax.errors import InputError
from flexmdm_jax.evaluation.sampler_choice import Trial
from flexmdm_jax.sampling import SamplerConfig

_DESCRIPTIONS = [x for x in schema.describe(SamplerConfig) if x.name != "steps"]
_FIELDS = {x.name: x.hint for x in _DESCRIPTIONS}
# A comma or a plus inside a value, (0, 0.5, 1) or 1e+3, has no name after it.
_BETWEEN = re.compile(r"[,+](?=\s*[a-z_]+\s*=)")


def sampler_help() -> str:
  """Lists the fields that `parse_fields` takes, a line each."""
  return "\n".join(f"  {x}" for x in _DESCRIPTIONS)


def parse_fields(flag: str, text: str) -> dict[str, Any]:
  """Reads fields of `SamplerConfig` but for its steps.

  Args:
    flag: name of the flag, for messages.
    text: `name=value` separated by commas, or +. A value is a number, None, a
      word, or a tuple of numbers.

  Raises:
    InputError: a part is no such pair, its name is no field or there twice, or
      its value has not the field's type.
  """
  fields = {}
  for part in _BETWEEN.split(text) if text else []:
    name, equals, word = (x.strip() for x in part.partition("="))
    if not equals or name not in _FIELDS:
      raise InputError(
        f"--{flag}={text}: {part!r} must be NAME=VALUE, where NAME is one of"
        f" {', '.join(_FIELDS)}."
      )
    if name in fields:
      raise InputError(f"--{flag}={text} gives {name} twice: leave one out.")
    value = _value(word)
    schema.require_value(f"--{flag}={text}: {name}", value, _FIELDS[name])
    fields[name] = value
  return fields


def parse_samplers(
  flag: str, texts: Sequence[str]
) -> dict[str, dict[str, Any]]:
  """Reads samplers as a list flag has them.

  Args:
    flag: name of the flag, for messages.
    texts: of each sampler the method, and fields, joined by +.

  Returns:
    text -> fields of `SamplerConfig`, the method among them.

  Raises:
    InputError: there is none, or as `parse_fields`.
  """
  if not texts:
    raise InputError(f"--{flag} is empty: give at least one sampler.")
  samplers = {}
  for text in texts:
    method, _, fields = text.partition("+")
    samplers[text] = {"method": method, **parse_fields(flag, fields)}
  return samplers


def config_flags(
  trial: Trial, samplers: Mapping[str, Mapping[str, Any]]
) -> str:
  """Writes a path and a sampler as flags that set them in a config.

  Args:
    trial: the path, the sampler's name, and its calls.
    samplers: name -> fields, as `parse_samplers` has them.
  """
  fields = {"steps": trial.calls, **samplers[trial.sampler]}
  settings = {f"sampler.{name}": value for name, value in fields.items()}
  return shlex.join(
    f"--config.{name}={value}"
    for name, value in {"path": trial.path, **settings}.items()
    if value is not None
  )


def _value(word: str) -> Any:
  """Reads a value; what is no literal is a word."""
  try:
    return ast.literal_eval(word)
  except (ValueError, SyntaxError):
    return word
