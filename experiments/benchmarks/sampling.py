"""Benchmark of the sampler, against its dense path and its floors.

A call of the network must read its weights, and multiply each token that is
there with them; the vocabulary's head where there are masks, and them alone.
The sum over calls of the former at the measured bandwidth, and of the latter at
the measured rate of matrix products, are two floors. The larger of both in each
call, summed, is the third.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from experiments.benchmarks import shapes
from experiments.benchmarks.timing import (
  compare,
  device_limits,
  median_seconds,
)
from flexmdm_jax.models.denoiser import ModelDenoiser
from flexmdm_jax.models.parameters import num_parameters
from flexmdm_jax.rows import empty_start
from flexmdm_jax.sampling import SamplerConfig, sample

BASELINES = ("dense",)
_VOCAB_HEADS = ("head", "vocab_head")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Steered:
  """Denoiser whose samples end at about `wanted` tokens, at its own cost."""

  inner: ModelDenoiser
  wanted: jax.Array
  ignores_padding = True

  def _steer(self, prediction, length):
    length = length.astype(jnp.float32)
    missing = jnp.maximum(self.wanted - length, 1e-6) / (length + 1)
    log_gaps = jnp.log(missing)[:, None] + 0 * prediction.log_gaps
    return prediction._replace(log_gaps=log_gaps, gap_logits=None, gap_law=None)

  def features(self, tokens, length, t):
    return self._steer(self.inner.features(tokens, length, t), length)

  def __call__(self, tokens, length, t):
    return self._steer(self.inner(tokens, length, t), length)


def call_dense(denoiser, *args):
  """Predicts logits at every position, as without `features`."""
  return denoiser(*args)


def samplers(
  model, denoiser, B, steps, buckets, interpolant=shapes.INTERPOLANT
):
  """Makes samplers by name: functions of the wanted length, for B rows."""
  start = empty_start(B, model.max_length, model.vocab)
  key = jax.random.key(0)
  fixed = (interpolant, model.vocab)
  # A call a step whatever the texts, as in the public code.
  config = SamplerConfig(steps, "tau_leaping", buckets=buckets)

  def steered(wanted):
    return Steered(denoiser, jnp.float32(wanted))

  def dense(wanted):
    return jax.tree_util.Partial(call_dense, steered(wanted))

  def ours(wanted, trace=False):
    return sample(key, steered(wanted), start, *fixed, config, trace)

  return {
    "ours": ours,
    "dense": lambda wanted: sample(key, dense(wanted), start, *fixed, config),
  }


def floors(denoiser, trace, limits) -> dict[str, float]:
  """Least seconds of the network's calls, by each limit of the device.

  Args:
    denoiser: a denoiser, for the sizes of its parameters.
    trace: trace of the samples; every step is taken to call the network.
    limits: rates of the device, see `device_limits`.

  Returns:
    `weight_streaming`, `matmul`, and `roofline`, the larger in each call.
  """
  flat = traverse_util.flatten_dict(denoiser.params)
  head = {path: x for path, x in flat.items() if path[0] in _VOCAB_HEADS}
  # A table of embeddings is looked up, and not read.
  rest = {
    path: x
    for path, x in flat.items()
    if path[0] != "embed" and path not in head
  }
  blocks = {path: x for path, x in rest.items() if path[0] == "blocks"}

  def num_bytes(params):
    return sum(x.nbytes for x in params.values())

  def multiplied(params):
    return sum(x.size for path, x in params.items() if path[-1] == "kernel")

  masks = np.asarray(trace.tokens[:-1]) == denoiser.model.vocab.mask
  masks = masks.sum(axis=(1, 2))  # of each call
  tokens = np.asarray(trace.length[:-1] + 1).sum(axis=1)
  streamed = num_bytes(rest) + (masks > 0) * num_bytes(head)
  flops = 2.0 * (tokens * multiplied(blocks) + masks * multiplied(head))
  streaming = streamed / limits["copy_bytes_per_second"]
  matmul = flops / limits["matmul_flops_per_second"]
  return dict(
    weight_streaming=float(streaming.sum()),
    matmul=float(matmul.sum()),
    roofline=float(np.maximum(streaming, matmul).sum()),
  )


def measure(
  *,
  shape: str,
  max_length: int | None,
  batch_size: int | None,
  steps: list[int],
  repeats: int,
  buckets: tuple[int, ...] | None,
  baselines: list[str],
  sweep: bool,
) -> dict[str, Any]:
  """Times whole samples that end at a quarter of L, and at L.

  Args:
    shape: name of the model, see `shapes.make_model`.
    max_length: L; None for the shape's.
    batch_size: B; None for the shape's.
    steps: numbers of network calls.
    repeats: number of runs of each measurement.
    buckets: lengths of the sampler's canvases; None for its own.
    baselines: samplers to compare with, out of `BASELINES`.
    sweep: also time ours by length, steps and batch.
  """
  model, B = shapes.make_model(shape, max_length, batch_size)
  L = model.max_length
  denoiser = shapes.random_denoiser(model)
  limits = device_limits(model.dtype, repeats)
  rows = []
  for num_steps in steps:
    runs = samplers(model, denoiser, B, num_steps, buckets)
    runs = {name: runs[name] for name in ("ours", *baselines)}
    for share in (0.25, 1.0):
      seconds = compare(
        {name: functools.partial(run, share * L) for name, run in runs.items()},
        repeats,
      )
      traced = runs["ours"](share * L, trace=True)
      length = float(np.mean(traced.length))
      floor = floors(denoiser, traced.trace, limits)
      rows.append(
        dict(
          steps=num_steps,
          share=share,
          mean_length=length,
          seconds=seconds,
          speedup={name: seconds[name] / seconds["ours"] for name in baselines},
          floor_seconds=floor,
          share_of_floor={
            name: x / seconds["ours"] for name, x in floor.items()
          },
          samples_per_second=B / seconds["ours"],
          tokens_per_second=B * length / seconds["ours"],
        )
      )
  result = dict(
    parameters=num_parameters(model),
    batch_size=B,
    max_length=L,
    vocabulary=model.vocab.size,
    limits=limits,
    rows=rows,
  )
  if sweep:
    result["sweep"] = _sweep(model, denoiser, B, steps[0], repeats, buckets)
  return result


def _sweep(model, denoiser, B, steps, repeats, buckets):
  """Times our sampler by mean length, steps and batch, one at a time."""
  L = model.max_length

  def seconds(share=0.5, steps=steps, B=B):
    run = samplers(model, denoiser, B, steps, buckets)["ours"]
    return median_seconds(functools.partial(run, share * L), repeats)

  sizes = sorted({max(B // 4, 1), max(B // 2, 1), B, 2 * B})
  return dict(
    length={x * L: seconds(share=x) for x in (0.125, 0.25, 0.5, 0.75, 1.0)},
    steps={x: seconds(steps=x) for x in (steps // 2, steps, 2 * steps)},
    batch={x: seconds(B=x) for x in sizes},
  )


def plot(result: dict[str, Any], path) -> None:
  """Draws the cost by length, steps and batch of a `measure` with a sweep."""
  import matplotlib

  matplotlib.use("Agg")
  from matplotlib import pyplot

  sweep = result["sweep"]
  figure, axes = pyplot.subplots(1, len(sweep), figsize=(11, 3.2), sharey=True)
  labels = dict(length="mean final length", steps="steps", batch="batch")
  for axis, (name, seconds) in zip(axes, sweep.items(), strict=True):
    axis.plot(list(seconds), list(seconds.values()), "o-")
    axis.set_xlabel(labels[name])
    axis.set_xlim(left=0)
    axis.grid(alpha=0.3)
  # The axes share it: all must be drawn before it is set.
  axes[0].set_ylim(bottom=0)
  axes[0].set_ylabel("seconds a batch")
  figure.tight_layout()
  figure.savefig(path, dpi=150)
  pyplot.close(figure)
