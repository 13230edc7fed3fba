"""Suites of the benchmark by the names that `--suite` has, with their flags."""

from typing import Any

from absl import flags

from experiments.benchmarks import (
  beside_public,
  kernels,
  law,
  sampling,
  shapes,
  training,
)
from experiments.common import cli, host_memory
from experiments.common.samplers import parse_samplers
from flexmdm_jax.evaluation.lengths import import_figures

_SHAPE = flags.DEFINE_string(
  "shape", "small", f"Model to time, one of {', '.join(shapes.SHAPES)}."
)
_BATCH = cli.count(
  "batch_size", None, "Number of rows; by default the shape's."
)
_LENGTH = cli.count(
  "max_length", None, "Length of a full row; by default the shape's."
)
_STEPS = flags.DEFINE_list(
  "steps",
  None,
  "Network calls of a sample; by default 64, and 8,16,32,64 of suite law.",
)
_BUCKETS = flags.DEFINE_list(
  "buckets", None, "Lengths of the sampler's canvases; by default its own."
)
_BASELINES = flags.DEFINE_list(
  "baselines", list(sampling.BASELINES), "Samplers to compare with ours."
)
_PUBLIC = flags.DEFINE_string(
  "public",
  None,
  "Checkout of the authors' PyTorch code, to time beside ours in suites train"
  " and sample.",
)
_COMPILED = flags.DEFINE_bool(
  "public_compiled", True, "Time the public code compiled as well."
)
_KERNELS = flags.DEFINE_list(
  "kernels", list(kernels.KERNELS), "Kernels to time."
)
_KERNEL_SHAPES = flags.DEFINE_list(
  "kernel_shapes", None, "Rows of the kernels' arg_specs; by default all."
)
_REPEATS = cli.count("repeats", 5, "Number of runs of each measurement.")
_LAW = flags.DEFINE_string(
  "law", "markov", f"Law of suite law, one of {', '.join(law.LAWS)}."
)
_METHODS = flags.DEFINE_list(
  "methods",
  list(law.METHODS),
  "Samplers of suite law, as in tau_leaping+grid=events+finish=4.",
)
_PATHS = flags.DEFINE_multi_string(
  "paths",
  list(law.PATHS),
  "Path of suite law: lengths_first, or power:4,power:1; may be given again.",
)
_HEADS = flags.DEFINE_list(
  "heads", list(law.HEADS), "Gap heads of suite law: law, mean."
)
_NUM = cli.count("num", 1000, "Number of samples of suite law.", least=2)
_SEED = cli.seed("Seed of the samples of suite law.")
_PLOT = flags.DEFINE_string(
  "plot", None, "PNG file of sampling's cost, or of the distances from a law."
)


def _steps(default: list[int]) -> list[int]:
  """Returns the numbers of network calls."""
  if _STEPS.value is None:
    return default
  steps = cli.parse_ints("steps", _STEPS.value)
  return steps


def _train() -> dict[str, Any]:
  host_memory.keep_freed()  # as training commands do
  if _PUBLIC.value:
    return beside_public.measure_training(**_public(), **_sizes())
  return training.measure(**_sizes())


def _sample() -> dict[str, Any]:
  cli.require_known("baselines", _BASELINES.value, sampling.BASELINES)
  buckets = _BUCKETS.value and cli.parse_ints("buckets", _BUCKETS.value)
  if _PUBLIC.value:
    return beside_public.measure_sampling(
      **_public(),
      **_sizes(),
      steps=_steps([64]),
      buckets=buckets and tuple(buckets),
    )
  measured = sampling.measure(
    **_sizes(),
    steps=_steps([64]),
    buckets=buckets and tuple(buckets),
    baselines=_BASELINES.value,
    sweep=_PLOT.value is not None,
  )
  if _PLOT.value:
    sampling.plot(measured, _PLOT.value)
  return measured


def _kernels() -> dict[str, Any]:
  cli.require_known("kernels", _KERNELS.value, kernels.KERNELS)
  return kernels.measure(
    names=_KERNELS.value, shapes=_KERNEL_SHAPES.value, repeats=_REPEATS.value
  )


def _law() -> dict[str, Any]:
  cli.require_known("law", [_LAW.value], law.LAWS)
  cli.require_known("heads", _HEADS.value, law.HEADS)
  figures = import_figures() if _PLOT.value else None
  measured = []
  for group in law.measure(
    law=_LAW.value,
    methods=parse_samplers("methods", _METHODS.value),
    paths=_PATHS.value,
    heads=_HEADS.value,
    steps=_steps(list(law.STEPS)),
    num=_NUM.value,
    seed=_SEED.value,
  ):
    measured.append(group)
    print(f"{group.path}, {group.head}: done", flush=True)
  if figures:
    law.plot(_PLOT.value, measured, figures)
  rows = [row for group in measured for row in group.summary()]
  return {"law": _LAW.value, "num": _NUM.value, "rows": rows}


def _public() -> dict[str, Any]:
  """Returns which public code is timed, and how, from flags."""
  return dict(folder=_PUBLIC.value, compiled=_COMPILED.value)


def _sizes() -> dict[str, Any]:
  """Returns the sizes of a timed model, from flags."""
  return dict(
    shape=_SHAPE.value,
    batch_size=_BATCH.value,
    max_length=_LENGTH.value,
    repeats=_REPEATS.value,
  )


SUITES = {"train": _train, "sample": _sample, "kernels": _kernels, "law": _law}


def run_suite(name: str) -> dict[str, Any]:
  """Runs a suite with the options that flags give it; draws its plot.

  Raises:
    InputError: unknown suite, or an option out of range.
  """
  cli.require_known("suite", [name], SUITES)
  measured = SUITES[name]()
  return measured if name == "law" else {"shape": _SHAPE.value, **measured}
