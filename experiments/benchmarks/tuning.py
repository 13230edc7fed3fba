"""Measures the tunings of a kernel on this device.

A folder in `kernels/` offers itself by `api.IMPLEMENTATIONS`, the function of
its name, `config.CANDIDATES` (by implementation), `arg_specs.SPECS` (each with
`arguments(key)` and `num_bytes()`) and `arg_specs.STATIC` (keywords).
"""

import functools
import importlib
import statistics
from typing import Any

import jax

from experiments.benchmarks.timing import median_seconds
from flexmdm_jax.errors import InputError
from flexmdm_jax.kernels.common import target

KERNELS = ("insert_unmask", "token_sample")


def tune(kernel: str, repeats: int) -> dict[str, Any]:
  """Times every config of a kernel for every shape of its table.

  Args:
    kernel: a name out of `KERNELS`.
    repeats: number of runs of each measurement.

  Returns:
    `best`, the config that is fastest by the geometric mean; `rows`, the
    seconds of each config that runs here; and `bytes` of each shape.

  Raises:
    InputError: no tuning of the kernel runs here.
  """
  package = f"flexmdm_jax.kernels.{kernel}"
  api, config, specs = (
    importlib.import_module(f"{package}.{part}")
    for part in ("api", "config", "arg_specs")
  )
  here = target()
  choices = [
    dict(implementation=name, config=candidate)
    for name, candidates in config.CANDIDATES.items()
    if api.IMPLEMENTATIONS[name].available(here)
    for candidate in candidates
  ]
  if not choices:
    raise InputError(
      f"the kernel {kernel} has nothing to tune on a {here.kind}: run this"
      f" where one of {', '.join(config.CANDIDATES)} is available."
    )
  run = getattr(api, kernel)
  rows = [
    dict(config=repr(choice["config"]), seconds=seconds)
    for choice in choices
    if (seconds := _measure(run, specs, repeats, **choice))
  ]
  if not rows:
    raise InputError(f"no tuning of {kernel} runs on this {here.kind}.")
  best = min(
    rows, key=lambda row: statistics.geometric_mean(row["seconds"].values())
  )
  num_bytes = {name: spec.num_bytes() for name, spec in specs.SPECS.items()}
  return dict(best=best["config"], rows=rows, bytes=num_bytes)


def _measure(run, specs, repeats, **choice) -> dict[str, float] | None:
  """Times a tuning by shape; None if it cannot do one of the shapes."""
  run = functools.partial(run, **specs.STATIC, **choice)

  def seconds(spec):
    compiled, arguments = jax.jit(run), spec.arguments(jax.random.key(0))
    return median_seconds(lambda: compiled(*arguments), repeats)

  try:
    return {name: seconds(spec) for name, spec in specs.SPECS.items()}
  except (jax.errors.JaxRuntimeError, NotImplementedError) as error:
    print(f"{choice}: {str(error).splitlines()[:1]}")
    return None
