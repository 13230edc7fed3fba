"""Wall-clock times of compiled calls, and what the device could do at best."""

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from absl import logging

_PATIENCE = 30.0  # seconds


def median_seconds(run: Callable[[], Any], repeats: int) -> float:
  """Measures the median time of `run`, which returns arrays, once warm."""
  return compare({"run": run}, repeats)["run"]


def compare(
  runs: Mapping[str, Callable[[], Any]], repeats: int
) -> dict[str, float]:
  """Measures the median times of several calls, warm and in turns."""
  seconds = in_turns(runs, repeats)
  return {name: statistics.median(x) for name, x in seconds.items()}


def in_turns(
  runs: Mapping[str, Callable[[], Any]], repeats: int, pause: float = 0.0
) -> dict[str, list[float]]:
  """Measures all times of several calls, warm and in turns; logs medians.

  Every other round goes through them backwards, so that what drifts, such as
  a clock that heats up, falls on all alike.

  Args:
    runs: the calls; they return arrays, or have ended when they return.
    repeats: number of runs of each; three if those take half a minute.
    pause: seconds before each run, in which the threads of the one before it
      may go to sleep.
  """
  times = {name: [] for name in runs}
  for run in runs.values():
    jax.block_until_ready(run())
  begin = time.perf_counter()
  for round_ in range(repeats):
    if round_ == 3 and time.perf_counter() - begin > _PATIENCE:
      repeats = round_
      break
    names = list(runs) if round_ % 2 == 0 else list(runs)[::-1]
    for name in names:
      time.sleep(pause)
      start = time.perf_counter()
      jax.block_until_ready(runs[name]())
      times[name].append(time.perf_counter() - start)
  medians = {name: statistics.median(x) for name, x in times.items()}
  logging.info("Medians of %d runs, in seconds: %s", repeats, medians)
  return times


def num_calls() -> int:
  """Number of calls in one program of `in_a_loop`."""
  return 1 if jax.default_backend() == "cpu" else 16


def in_a_loop(function: Callable[..., Any]) -> Any:
  """Compiles `num_calls` calls of a function of arrays, one after another.

  An accelerator's kernel can take less time than the host needs to launch it.

  Returns:
    The jitted function. It returns what the last call does.
  """

  def calls(*args):
    def call(_, result):
      # Each call waits for the one before it, and none is left out.
      return function(*jax.lax.optimization_barrier((args, result))[0])

    result = jax.eval_shape(function, *args)
    result = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), result)
    return jax.lax.fori_loop(0, num_calls(), call, result)

  return jax.jit(calls)


def device_limits(dtype: Any, repeats: int) -> dict[str, float]:
  """Measures rates of this device, the roofs of a roofline.

  Returns:
    `copy_bytes_per_second`, bytes read and written by a large copy; and
    `matmul_flops_per_second` of a large product in `dtype` with float32
    accumulation.
  """
  small = jax.default_backend() == "cpu"
  size = 2**26 if small else 2**28
  n = 1024 if small else 8192
  # On a CPU new memory costs more than a copy: there, in place and in turns.
  turns = 8 if small else 1
  x = jnp.zeros(size, jnp.float32)
  a = jnp.ones((n, n), dtype)
  copies = jax.jit(
    lambda x: jax.lax.fori_loop(0, turns, lambda _, x: x + 1, x),
    donate_argnums=0 if small else (),
  )
  product = jax.jit(
    lambda a: jnp.matmul(a, a, preferred_element_type=jnp.float32)
  )

  def copy():
    nonlocal x
    x = copies(x)
    return x

  seconds = compare({"copy": copy, "matmul": lambda: product(a)}, repeats)
  return dict(
    copy_bytes_per_second=2 * turns * x.nbytes / seconds["copy"],
    matmul_flops_per_second=2 * n**3 / seconds["matmul"],
  )
