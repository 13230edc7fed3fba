"""Times training steps, sampling and kernels on this device.

  python -m experiments.benchmark --suite=sample --shape=175m --out=FILE.json

Everything is compiled and warm; times are medians of --repeats runs, and what
is compared is measured in turns. Shapes: "golden" is the parity tests' tiny
model, "small" the quickstart's, "175m" the paper's OpenWebText model (on a CPU
with --batch_size=1 --max_length=128), "llada_8b" the retrofitted LLaDA.
"""

import json
import pathlib

from absl import flags

from experiments import cli
from experiments.benchmarks import kernels, sampling, training
from flexmdm_jax import files
from flexmdm_jax.errors import InputError

SUITES = ("train", "sample", "kernels")

_SUITE = flags.DEFINE_string("suite", None, f"{', '.join(SUITES)}.")
_SHAPE = flags.DEFINE_string("shape", "small", "Of the model.")
_OUT = flags.DEFINE_string("out", None, "JSON file to write.")
_BATCH = flags.DEFINE_integer("batch_size", None, "Else as the shape has it.")
_LENGTH = flags.DEFINE_integer("max_length", None, "Else as the shape has it.")
_STEPS = flags.DEFINE_list("steps", ["64"], "Numbers of sampling steps.")
_BUCKETS = flags.DEFINE_list("buckets", None, "Canvases of the sampler.")
_BASELINES = flags.DEFINE_list(
  "baselines", ["dense", "port"], "What sampling is compared with."
)
_KERNELS = flags.DEFINE_list("kernels", list(kernels.KERNELS), "Which ones.")
_KERNEL_SHAPES = flags.DEFINE_list(
  "kernel_shapes", None, "Rows of the kernels' arg_specs; all by default."
)
_REPEATS = flags.DEFINE_integer("repeats", 5, "Runs of each measurement.")
_PLOT = flags.DEFINE_string(
  "plot", None, "PNG of sampling's cost by length, steps and batch."
)
flags.mark_flags_as_required(["suite", "out"])


def main(_):
  files.require_writable(_OUT.value)
  if _PLOT.value:
    files.require_writable(_PLOT.value)
  if _SUITE.value not in SUITES:
    raise InputError(
      f"--suite={_SUITE.value} is unknown: choose one of {', '.join(SUITES)}."
    )
  if wrong := set(_BASELINES.value) - {"dense", "port"}:
    raise InputError(f"--baselines={wrong.pop()} must be of dense, port.")
  if wrong := set(_KERNELS.value) - set(kernels.KERNELS):
    raise InputError(
      f"--kernels={wrong.pop()} must be of {', '.join(kernels.KERNELS)}."
    )
  cli.require_least(
    repeats=(_REPEATS.value, 1),
    batch_size=(_BATCH.value, 1),
    max_length=(_LENGTH.value, 1),
  )
  steps = cli.parse_ints("steps", _STEPS.value)
  sizes = dict(
    shape=_SHAPE.value,
    max_length=_LENGTH.value,
    batch_size=_BATCH.value,
    repeats=_REPEATS.value,
  )
  if _SUITE.value == "train":
    measured = training.measure(**sizes)
  elif _SUITE.value == "sample":
    buckets = _BUCKETS.value and tuple(
      cli.parse_ints("buckets", _BUCKETS.value)
    )
    measured = sampling.measure(
      **sizes,
      steps=steps,
      buckets=buckets,
      baselines=_BASELINES.value,
      sweep=_PLOT.value is not None,
    )
    if _PLOT.value:
      sampling.plot(measured, pathlib.Path(_PLOT.value))
  else:
    measured = kernels.measure(
      names=_KERNELS.value,
      shapes=_KERNEL_SHAPES.value,
      repeats=_REPEATS.value,
    )
  result = {
    "suite": _SUITE.value,
    "shape": _SHAPE.value,
    **measured,
    "versions": files.versions(),
  }
  files.write_json(_OUT.value, result)
  print(json.dumps(result))


if __name__ == "__main__":
  cli.run(main)
