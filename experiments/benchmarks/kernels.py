"""Benchmark of kernels, against the device's roofs and XLA's versions."""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from experiments.benchmarks.timing import (
  compare,
  device_limits,
  in_a_loop,
  num_calls,
)
from flexmdm_jax.kernels.insert_unmask import arg_specs as insert_specs
from flexmdm_jax.kernels.insert_unmask import insert_unmask
from flexmdm_jax.kernels.token_sample import arg_specs as token_specs
from flexmdm_jax.kernels.token_sample import token_sample


def unfused(hidden, unembed, num_rows, key_data, *, temperature):
  """Samples tokens without a kernel: all logits are in memory, in float32."""
  del num_rows  # its cost does not follow the rows that are wanted
  key = jax.random.wrap_key_data(key_data)
  logits = jnp.matmul(hidden, unembed, preferred_element_type=jnp.float32)
  log_p = jax.nn.log_softmax(logits)
  p = jnp.exp(log_p)
  top, _ = jax.lax.top_k(p, 2)
  token = jax.random.categorical(key, logits / temperature)
  return (
    token,
    jnp.take_along_axis(log_p, token[:, None], axis=1)[:, 0],
    top[:, 0],
    top[:, 0] - top[:, 1],
    -jnp.sum(p * log_p, axis=1),
  )


def insert_unmask_xla(*args, **kwargs):
  return insert_unmask(*args, implementation="reference", **kwargs)


# Our function, XLA's and the table of shapes, by kernel.
KERNELS = {
  "insert_unmask": (insert_unmask, insert_unmask_xla, insert_specs),
  "token_sample": (token_sample, unfused, token_specs),
}


def measure(
  *, names: list[str], shapes: list[str] | None, repeats: int
) -> dict[str, Any]:
  """Times kernels for their tables' shapes.

  Args:
    names: names out of `KERNELS`.
    shapes: names in the kernels' tables; None for all.
    repeats: number of runs of each measurement.

  Returns:
    The device's measured limits, and a row for each kernel and shape: seconds
    of our function and of XLA's, bytes and operations that cannot be saved, the
    time that they take at the limits as a share of ours, and temporary memory.
  """
  limits = device_limits(jnp.bfloat16, repeats)
  rows = []
  for name in names:
    ours, theirs, specs = KERNELS[name]
    for shape, spec in specs.SPECS.items():
      if shapes is not None and shape not in shapes:
        continue
      arguments = spec.arguments(jax.random.key(0))
      runs, temporary = {}, {}
      for label, function in (("ours", ours), ("xla", theirs)):
        compiled = _compile(function, specs.STATIC, arguments)
        memory = compiled.memory_analysis()
        temporary[label] = memory.temp_size_in_bytes if memory else None
        runs[label] = lambda run=compiled: run(*arguments)  # noqa: B023
      seconds = {
        label: time / num_calls()
        for label, time in compare(runs, repeats).items()
      }
      operations = getattr(spec, "num_operations", lambda: 0)()
      roof = max(
        spec.num_bytes() / limits["copy_bytes_per_second"],
        operations / limits["matmul_flops_per_second"],
      )
      rows.append(
        dict(
          kernel=name,
          shape=shape,
          bytes=spec.num_bytes(),
          operations=operations,
          seconds=seconds,
          share_of_roof=roof / seconds["ours"],
          speedup_over_xla=seconds["xla"] / seconds["ours"],
          temporary_bytes=temporary,
        )
      )
  return dict(limits=limits, rows=rows)


def _compile(function, static, arguments):
  run = in_a_loop(functools.partial(function, **static))
  return run.lower(*arguments).compile()
