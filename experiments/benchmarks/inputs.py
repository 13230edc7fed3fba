"""Torture of configs: settings get values that they cannot have, at random.

A config is refused in one line, or it is taken: there is no third way.
"""

import math
import random
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from flax import traverse_util

from experiments.benchmarks.torture import Outcome, in_time
from flexmdm_jax.errors import InputError

_HANG_SECONDS = 60.0
_MOST_CHANGES = 3
# Of no use to nearly every setting.
BAD = (
  *(math.nan, math.inf, -math.inf, 10**30, -(10**400), 1e30, 1e-30),
  *(-1, 0, 0.5, True, None, "abc", "", "\x00", [], {}, [{}], [[]]),
)


class Inputs:
  """Bad values of settings, one to three at once."""

  def __init__(
    self,
    configs: Mapping[str, Mapping[str, Any]],
    make: Callable[[Mapping[str, Any]], Any],
  ):
    """Remembers what to change.

    Args:
      configs: good configs by name, nested.
      make: makes the run of a config, and checks it.
    """
    self._configs, self._make = configs, make

  def __call__(self, rng: random.Random) -> Iterator[Outcome]:
    """Changes a config, and makes its run."""
    name = rng.choice(sorted(self._configs))
    config, changes = self._configs[name], {}
    for _ in range(rng.randint(1, _MOST_CHANGES)):
      setting = rng.choice(settings_of(config))
      changes[setting] = rng.choice(BAD)
    for setting, value in changes.items():
      config = with_setting(config, setting, value)
    result, detail = self._class(config)
    yield Outcome(name, result, f"{changes}; {detail}")

  def _class(self, config: Mapping[str, Any]) -> tuple[str, str]:
    """Makes a run in time; returns a word, and what was said."""
    try:
      in_time(lambda: self._make(config), _HANG_SECONDS)
    except TimeoutError as error:
      return "hang", str(error)
    except InputError as error:  # which is always one line
      return "refused", str(error)
    except Exception as error:  # a defect may be anything
      return "traceback", repr(error)
    return "taken", ""


def settings_of(config: Mapping[str, Any]) -> list[str]:
  """Lists the settings of a config, and its sections, as "train.seed"."""
  leaves = traverse_util.flatten_dict(dict(config), keep_empty_nodes=True)
  paths = {path[:n] for path in leaves for n in range(1, len(path) + 1)}
  return sorted(".".join(path) for path in paths)


def with_setting(
  config: Mapping[str, Any], name: str, value: Any
) -> dict[str, Any]:
  """Copies a config with one setting changed.

  Args:
    config: nested settings.
    name: a setting, as "train.seed"; where it is no more, nothing changes.
    value: its new value.
  """
  first, _, rest = name.partition(".")
  if not rest:
    return {**config, first: value}
  if not isinstance(config.get(first), Mapping):
    return dict(config)
  return {**config, first: with_setting(config[first], rest, value)}
