"""Measures a kernel's tunings on this device.

  python -m experiments.tune_kernels --kernel=insert_unmask --out=FILE.json

Times every config for every shape, and prints the row of the kernel's table for
this device: the config that is fastest by the geometric mean. A folder in
`kernels/` offers itself by `api.IMPLEMENTATIONS`, the function of its name,
`config.CANDIDATES` (by implementation), `arg_specs.SPECS` (each with
`arguments(key)` and `num_bytes()`) and `arg_specs.STATIC` (keywords).
"""

import functools
import importlib
import statistics

import jax
from absl import flags

from experiments import cli
from experiments.benchmarks.timing import median_seconds
from flexmdm_jax import files
from flexmdm_jax.errors import InputError
from flexmdm_jax.kernels.common import target

KERNELS = ("insert_unmask", "token_sample")
_KERNEL = flags.DEFINE_string("kernel", None, f"One of {', '.join(KERNELS)}.")
_OUT = flags.DEFINE_string("out", None, "JSON file to write.")
_REPEATS = flags.DEFINE_integer("repeats", 20, "Runs of each measurement.")
flags.mark_flags_as_required(["kernel", "out"])


def measure(run, specs, **choice) -> dict | None:
  """Seconds by shape; None for a tuning that cannot do one of them."""
  run = functools.partial(run, **specs.STATIC, **choice)

  def seconds(spec):
    compiled, arguments = jax.jit(run), spec.arguments(jax.random.key(0))
    return median_seconds(lambda: compiled(*arguments), _REPEATS.value)

  try:
    return {name: seconds(spec) for name, spec in specs.SPECS.items()}
  except (jax.errors.JaxRuntimeError, NotImplementedError) as error:
    print(f"{choice}: {str(error).splitlines()[:1]}")
    return None


def main(_):
  if _KERNEL.value not in KERNELS:
    raise InputError(
      f"--kernel={_KERNEL.value} is unknown: choose one of"
      f" {', '.join(KERNELS)}."
    )
  cli.require_least(repeats=(_REPEATS.value, 1))
  files.require_writable(_OUT.value)
  package = f"flexmdm_jax.kernels.{_KERNEL.value}"
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
      f"--kernel={_KERNEL.value} has nothing to tune on a {here.kind}: run this"
      f" where one of {', '.join(config.CANDIDATES)} is available."
    )
  run = getattr(api, _KERNEL.value)
  rows = [
    dict(config=repr(choice["config"]), seconds=seconds)
    for choice in choices
    if (seconds := measure(run, specs, **choice))
  ]
  if not rows:
    raise InputError(f"no tuning of {_KERNEL.value} runs on this {here.kind}.")
  best = min(
    rows, key=lambda row: statistics.geometric_mean(row["seconds"].values())
  )
  num_bytes = {name: spec.num_bytes() for name, spec in specs.SPECS.items()}
  result = dict(best=best["config"], rows=rows, bytes=num_bytes)
  files.write_json(_OUT.value, {**result, "versions": files.versions()})
  print(f'"{here.kind}": {best["config"]},')


if __name__ == "__main__":
  cli.run(main)
