"""Measures the tunings of a kernel on this device.

A folder in `kernels/` offers itself by `api.IMPLEMENTATIONS`, the function of
its name, `config.CANDIDATES` (by implementation), `arg_specs.SPECS` (each with
`arguments(key)` and `num_bytes()`) and `arg_specs.STATIC` (keywords).
"""

import functools
import importlib
import os
import statistics
from concurrent import futures
from typing import Any

import jax

from experiments.benchmarks.timing import (
  in_a_loop,
  median_seconds,
  num_calls,
)
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
  # The one that is taken here: the first that is available.
  best = next(
    (
      name
      for name, implementation in api.IMPLEMENTATIONS.items()
      if name in config.CANDIDATES and implementation.available(here)
    ),
    None,
  )
  if best is None:
    raise InputError(
      f"the kernel {kernel} has nothing to tune on a {here.kind}: run this"
      f" where one of {', '.join(config.CANDIDATES)} is available."
    )
  run = functools.partial(
    getattr(api, kernel), implementation=best, **specs.STATIC
  )
  rows = [
    dict(config=repr(candidate), seconds=_seconds(programs, specs, repeats))
    for candidate, programs in _compile(run, specs, config.CANDIDATES[best])
  ]
  if not rows:
    raise InputError(f"no tuning of {kernel} runs on this {here.kind}.")
  fastest = min(
    rows, key=lambda row: statistics.geometric_mean(row["seconds"].values())
  )
  num_bytes = {name: spec.num_bytes() for name, spec in specs.SPECS.items()}
  return dict(best=fastest["config"], rows=rows, bytes=num_bytes)


def _compile(run, specs, candidates):
  """Pairs of a config that can do every shape, and its programs by shape.

  A program can take half a minute to compile, so that all are compiled at
  once, and before any is timed.
  """

  def compiled(candidate, spec):
    try:
      program = in_a_loop(functools.partial(run, config=candidate))
      return program.lower(*spec.shapes()).compile()
    except (jax.errors.JaxRuntimeError, NotImplementedError) as error:
      print(f"{candidate}: {str(error).splitlines()[:1]}")

  with futures.ThreadPoolExecutor(os.cpu_count()) as pool:
    submitted = [
      {
        name: pool.submit(compiled, candidate, spec)
        for name, spec in specs.SPECS.items()
      }
      for candidate in candidates
    ]
    rows = [
      {name: future.result() for name, future in row.items()}
      for row in submitted
    ]
  return [
    (candidate, row)
    for candidate, row in zip(candidates, rows, strict=True)
    if all(row.values())
  ]


def _seconds(programs, specs, repeats):
  """Times a call of a tuning by shape."""
  seconds = {}
  for name, program in programs.items():
    arguments = specs.SPECS[name].arguments(jax.random.key(0))
    run = functools.partial(program, *arguments)
    seconds[name] = median_seconds(run, repeats) / num_calls()
  return seconds
