"""Settings of samplers, as a command line has them.

Fields of `SamplerConfig` with their values, `entropy_budget=0.2,group=2`; in a
list of samplers, where commas part these, a method and fields that are joined
by +: `tau_leaping+grid=events+finish=4`.
"""

import ast
import dataclasses
import re
import shlex
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any

from flexmdm_jax.errors import InputError
from flexmdm_jax.evaluation.sampler_choice import Trial
from flexmdm_jax.sampling import SamplerConfig

_HINTS = typing.get_type_hints(SamplerConfig)
_FIELDS = [
  field.name
  for field in dataclasses.fields(SamplerConfig)
  if field.name != "steps"
]
# A comma or a plus inside a value, (0, 0.5, 1) or 1e+3, has no name after it.
_BETWEEN = re.compile(r"[,+](?=\s*[a-z_]+\s*=)")


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
    if not _fits(value, _HINTS[name]):
      hint = _HINTS[name]
      kind = hint.__name__ if isinstance(hint, type) else str(hint)
      raise InputError(f"--{flag}={text}: {name}={word} must be {kind}.")
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


def _fits(value: Any, hint: Any) -> bool:
  """Tells whether a value has a type; an int is a float, a bool no number."""
  if isinstance(hint, types.UnionType):
    return any(_fits(value, part) for part in typing.get_args(hint))
  if typing.get_origin(hint) is tuple:
    kind = typing.get_args(hint)[0]
    return isinstance(value, tuple) and all(_fits(x, kind) for x in value)
  if hint is float:
    hint = (int, float)
  return isinstance(value, hint) and not isinstance(value, bool)
