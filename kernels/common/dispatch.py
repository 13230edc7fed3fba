"""Choice among a kernel's implementations."""

import dataclasses
import pkgutil
from collections.abc import Callable, Mapping
from typing import Any

from flexmdm_jax.kernels.common.targets import (
  Target,
  is_on_one_device,
  target,
)


@dataclasses.dataclass(frozen=True)
class Implementation:
  """Implementation of a kernel.

  Attributes:
    run: function that computes the result. One with a `config` class also takes
      the keywords `config` (None: the table's for the device) and `interpret`,
      and raises NotImplementedError, as it is traced, for arguments that it
      cannot do.
    available: tells whether the implementation compiles for a target.
    config: class of the tuning; None if it has none.
  """

  run: Callable[..., Any]
  available: Callable[[Target], bool] = lambda _: True
  config: type | None = None


def later(name: str) -> Callable[..., Any]:
  """Makes a function that imports another, "module:name", when it is called.

  Pallas takes .3 s to import, which only its devices are to pay.
  """

  def run(*args, **kwargs):
    return pkgutil.resolve_name(name)(*args, **kwargs)

  return run


def dispatch(
  implementations: Mapping[str, Implementation],
  implementation: str | None,
  *args: Any,
  config: Any = None,
  interpret: Any = False,
  **kwargs: Any,
) -> Any:
  """Runs the implementation that is asked for, or the best there is.

  Args:
    implementations: implementations by name, the best first; the last runs
      anywhere.
    implementation: a name, or None: the first that is available and does not
      raise NotImplementedError; the last where several devices may share the
      call.
    *args: arguments of `run`.
    config: tuning of the named implementation; None takes the table's.
    interpret: run the named implementation on the CPU, interpreted.
    **kwargs: keywords of `run`.

  Raises:
    ValueError: an unknown name, one that is not available on this backend, a
      config of the wrong class, or either keyword without a name.
    NotImplementedError: the named implementation cannot do these arguments.
  """
  here = target()
  available = [k for k, v in implementations.items() if v.available(here)]
  if implementation is None:
    if interpret or config is not None:
      raise ValueError(
        "config and interpret are of one implementation: name it, one of"
        f" {', '.join(implementations)}."
      )
    *kernels, anywhere = available
    for name in kernels if is_on_one_device() else ():
      try:
        return implementations[name].run(*args, **kwargs)
      except NotImplementedError:
        continue
    return implementations[anywhere].run(*args, **kwargs)

  if implementation not in implementations:
    raise ValueError(
      f"implementation={implementation!r} is unknown: available on"
      f" {here.kind} are {', '.join(available)}."
    )
  chosen = implementations[implementation]
  if implementation not in available and not interpret:
    raise ValueError(
      f"implementation={implementation!r} is not available on {here.kind}:"
      f" {', '.join(available)} are. interpret=True runs it there, slowly."
    )
  if config is not None and type(config) is not chosen.config:
    expected = chosen.config.__name__ if chosen.config else "None"
    raise ValueError(
      f"config={config!r} of implementation={implementation!r} must be"
      f" {expected}."
    )
  if chosen.config is None:
    return chosen.run(*args, **kwargs)
  return chosen.run(*args, config=config, interpret=interpret, **kwargs)
