"""Times training steps, sampling and kernels on this device.

  python -m experiments.benchmark --suite=train --shape=175m --out=FILE.json

Everything is compiled and warm; times are medians of --repeats runs. Shapes:
"small" is the quickstart's, "175m" the paper's OpenWebText model. On a CPU the
latter needs --batch_size=1 --max_length=128.
"""

import json
import statistics
import time

import jax
import jax.numpy as jnp
from absl import flags

from experiments import cli
from flexmdm_jax import schedules
from flexmdm_jax.errors import InputError
from flexmdm_jax.evaluation import output
from flexmdm_jax.experiment import num_parameters
from flexmdm_jax.interpolant import JointInterpolant
from flexmdm_jax.kernels.insert_unmask import insert_unmask
from flexmdm_jax.models.denoiser import denoiser
from flexmdm_jax.models.dit import DiT
from flexmdm_jax.sampling.sampler import SamplerConfig, sample
from flexmdm_jax.sampling.start import empty_start
from flexmdm_jax.training.objectives import TARGETS, Diffusion
from flexmdm_jax.training.optimizer import OptimizerConfig, make_optimizer
from flexmdm_jax.training.sharding import Rules, make_mesh
from flexmdm_jax.training.step import make_train_step
from flexmdm_jax.vocab import Vocab

_SUITE = flags.DEFINE_string("suite", None, "train, sample or kernels.")
_SHAPE = flags.DEFINE_string("shape", "small", "small or 175m.")
_OUT = flags.DEFINE_string("out", None, "JSON file to write.")
_BATCH = flags.DEFINE_integer("batch_size", None, "Else as the shape has it.")
_LENGTH = flags.DEFINE_integer("max_length", None, "Else as the shape has it.")
_STEPS = flags.DEFINE_integer("steps", 64, "Sampling steps.")
_REPEATS = flags.DEFINE_integer("repeats", 5, "Runs of each measurement.")
flags.mark_flags_as_required(["suite", "out"])

INTERPOLANT = JointInterpolant(schedules.Power(1.7), schedules.Power(2.89))


def shape():
  """(model, batch size) of the flags."""
  if _SHAPE.value == "small":
    sizes = dict(hidden_size=96, num_layers=3, num_heads=4, cond_size=48)
    vocab, L, B = Vocab(51, 49, 50), 25, 64
  elif _SHAPE.value == "175m":
    half = jax.default_backend() != "cpu"
    sizes = dict(dtype=jnp.bfloat16 if half else jnp.float32)
    vocab, L, B = Vocab(50_259, 50_257, 50_258), 1024, 64
  else:
    raise InputError(f"--shape={_SHAPE.value} must be small or 175m.")
  return DiT(vocab, _LENGTH.value or L, **sizes), _BATCH.value or B


def median_seconds(run) -> float:
  """Median time of `run`, which returns arrays, after a warm-up."""
  jax.block_until_ready(run())
  times = []
  for _ in range(_REPEATS.value):
    begin = time.perf_counter()
    jax.block_until_ready(run())
    times.append(time.perf_counter() - begin)
  return statistics.median(times)


def train() -> dict:
  """One update on full-length random sequences, by the loss's targets."""
  model, B = shape()
  L = model.max_length
  tokens = jax.random.randint(jax.random.key(0), (B, L), 0, model.vocab.mask)
  batch = dict(
    tokens=tokens,
    length=jnp.full(B, L),
    frozen=jnp.zeros((B, L), bool),
    open_gaps=jnp.ones((B, L + 1), bool),
  )

  def step_seconds(targets):
    train_step = make_train_step(
      model,
      Rules(),
      make_mesh(),
      optimizer=make_optimizer(OptimizerConfig(10_000)),
      objective=Diffusion(INTERPOLANT, model.vocab, targets),
      batch_size=B,
    )
    placed = jax.device_put(batch, train_step.batch_sharding)
    state = train_step.init(jax.random.key(0))

    def run():
      nonlocal state
      state, metrics = train_step.update(state, placed)
      return metrics

    return median_seconds(run)

  seconds = {targets: step_seconds(targets) for targets in TARGETS}
  return dict(
    parameters=num_parameters(model),
    batch_size=B,
    max_length=L,
    step_seconds=seconds,
    aligned_over_sampled=seconds["aligned"] / seconds["sampled"],
    tokens_per_second=B * L / seconds["sampled"],
  )


def sampling() -> dict:
  """Samples from an untrained model: the cost is that of max_length."""
  model, B = shape()
  L = model.max_length
  start = empty_start(B, L, model.vocab)
  params = jax.jit(model.init)(
    jax.random.key(0), start.tokens, start.length, jnp.zeros(B)
  )["params"]
  config = SamplerConfig(steps=_STEPS.value)
  network = denoiser(model, params)
  key = jax.random.key(0)

  def run():
    return sample(key, network, start, INTERPOLANT, model.vocab, config)

  seconds = median_seconds(run)
  length = int(run().length.sum())
  return dict(
    parameters=num_parameters(model),
    batch_size=B,
    max_length=L,
    sampling_steps=_STEPS.value,
    seconds=seconds,
    samples_per_second=B / seconds,
    tokens_per_second=length / seconds,
  )


def kernels() -> dict:
  """`insert_unmask`, in time and in bytes read and written."""
  B, L = _BATCH.value or 256, _LENGTH.value or 1024
  key = jax.random.key(0)
  arguments = (
    jax.random.randint(key, (B, L), 0, 100),
    jnp.full(B, L // 2),
    jnp.full((B, L), -1),
    (jax.random.uniform(key, (B, L + 1)) < 0.1).astype(jnp.int32),
  )
  call = jax.jit(lambda *args: insert_unmask(*args, mask=100, pad=101))
  seconds = median_seconds(lambda: call(*arguments))
  num_bytes = 4 * 4 * B * L
  return dict(
    kernel="insert_unmask",
    implementation="reference",
    batch_size=B,
    max_length=L,
    seconds=seconds,
    gigabytes_per_second=num_bytes / seconds / 1e9,
  )


SUITES = {"train": train, "sample": sampling, "kernels": kernels}


def main(_):
  output.require_writable(_OUT.value)
  if _SUITE.value not in SUITES:
    raise InputError(
      f"--suite={_SUITE.value} is unknown: choose one of {', '.join(SUITES)}."
    )
  if _REPEATS.value < 1:
    raise InputError(f"--repeats={_REPEATS.value} must be at least 1.")
  result = {
    "suite": _SUITE.value,
    "shape": _SHAPE.value,
    **SUITES[_SUITE.value](),
    "versions": output.versions(),
  }
  output.write_json(_OUT.value, result)
  print(json.dumps(result))


if __name__ == "__main__":
  cli.run(main)
