"""Families of pretrained networks: how their folders differ."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from flexmdm_jax.errors import InputError
from flexmdm_jax.models.transformer import Transformer
from flexmdm_jax.pretrained.weights import Weight

_REAL = ("rotary_base", "norm_epsilon")
_IDS = ("mask", "pad", "begin")
# No network is as large; one of a billion layers would be named for hours.
_MOST, _MOST_LAYERS, _MOST_REAL = 1 << 28, 10_000, 1e30


class Family(NamedTuple):
  """Family of pretrained bidirectional Transformers.

  Attributes:
    settings: turns a parsed `config.json` into the fields of `Transformer`;
      raises an InputError where the network is not supported.
    config: the inverse, which makes a `config.json` to be written.
    table: weight names of a network that has them all; the rows of parameters
      that a configuration lacks are left out.
  """

  settings: Callable[[Mapping[str, Any]], dict[str, Any]]
  config: Callable[[Transformer], dict[str, Any]]
  table: tuple[Weight, ...]


def config_of(
  model: Transformer, names: Mapping[str, str], **fixed: Any
) -> dict[str, Any]:
  """Makes a `config.json` of the settings in `names` and the `fixed` ones."""
  ours = {
    "size": model.vocab.size,
    "mask": model.vocab.mask,
    "pad": model.vocab.pad,
  }
  values = {
    key: ours[name] if name in ours else getattr(model, name)
    for name, key in names.items()
  }
  return {**fixed, **values}


def require(config: Mapping[str, Any], **expected: tuple) -> None:
  """Raises an InputError where a setting has none of the values expected.

  A key that is missing has the value None.
  """
  for name, values in expected.items():
    if config.get(name) not in values:
      raise InputError(
        f"config.json has {name}={config.get(name)!r}, which is not supported:"
        f" it must be in {values}."
      )


def pick(config: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
  """Takes values out of `config`, under our names.

  Args:
    config: parsed `config.json`.
    names: the file's keys, by our name.

  Raises:
    InputError: keys are missing, or a value is out of range.
  """
  missing = [key for key in names.values() if config.get(key) is None]
  if missing:
    raise InputError(f"config.json lacks {', '.join(sorted(missing))}.")
  found = {}
  for name, key in names.items():
    if name in _REAL:
      found[name] = _real(key, config[key])
    elif name in _IDS:
      found[name] = whole(key, config[key], 0)
    else:
      most = _MOST_LAYERS if name == "num_layers" else _MOST
      found[name] = whole(key, config[key], most=most)
  return found


def whole(key: str, value: Any, least: int = 1, most: int | None = None) -> int:
  """Returns a value of `config.json`; InputError unless it is in range."""
  most = _MOST if most is None else most
  if type(value) is not int or not least <= value <= most:
    raise InputError(
      f"config.json has {key}={value!r:.60}: it must be a whole number in"
      f" [{least}, {most}]."
    )
  return value


def _real(key: str, value: Any) -> float:
  if type(value) not in (int, float) or not 0 < value < _MOST_REAL:
    raise InputError(
      f"config.json has {key}={value!r:.60}: it must be a number above 0."
    )
  return value
