"""What tells one family of pretrained networks from another."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from flexmdm_jax.errors import InputError
from flexmdm_jax.models.transformer import Transformer
from flexmdm_jax.pretrained.weights import Weight


class Family(NamedTuple):
  """A family of pretrained bidirectional Transformers.

  Attributes:
    settings: from a parsed `config.json` to the fields of `Transformer`;
      raises an InputError where the network is none that we compute.
    config: the inverse, a `config.json` to be written.
    table: of weight names, for a network that has them all; the rows of
      parameters that a configuration lacks are left out.
  """

  settings: Callable[[Mapping[str, Any]], dict[str, Any]]
  config: Callable[[Transformer], dict[str, Any]]
  table: tuple[Weight, ...]


def config_of(
  model: Transformer, names: Mapping[str, str], **fixed: Any
) -> dict[str, Any]:
  """A `config.json`: what `pick` took, and what is the same for a family."""
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
  """Values of `config` under our names.

  Args:
    config: parsed `config.json`.
    names: its keys, by our name.

  Raises:
    InputError: names the keys that are missing.
  """
  missing = [key for key in names.values() if config.get(key) is None]
  if missing:
    raise InputError(f"config.json lacks {', '.join(sorted(missing))}.")
  return {name: config[key] for name, key in names.items()}
