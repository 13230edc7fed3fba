"""Times training steps, sampling and kernels on this device.

  python -m experiments.benchmark --suite=sample --shape=175m --out=FILE.json

Everything is compiled and warm; times are medians of --repeats runs, and what
is compared is measured in turns. Shapes: "golden" is the parity tests' tiny
model, "small" the quickstart's, "175m" the paper's OpenWebText model (on a CPU
with --batch_size=1 --max_length=128), "llada_8b" the retrofitted LLaDA.
"""

import json

from absl import flags

from experiments.benchmarks import kernels, sampling, shapes, training
from experiments.common import cli
from flexmdm_jax import files

SUITES = ("train", "sample", "kernels")

_SUITE = flags.DEFINE_string(
  "suite", None, f"Part to time, one of {', '.join(SUITES)}."
)
_SHAPE = flags.DEFINE_string(
  "shape", "small", f"Model to time, one of {', '.join(shapes.SHAPES)}."
)
_OUT = flags.DEFINE_string("out", None, "JSON file to write.")
_BATCH = flags.DEFINE_integer(
  "batch_size", None, "Number of rows; by default the shape's."
)
_LENGTH = flags.DEFINE_integer(
  "max_length", None, "Length of a full row; by default the shape's."
)
_STEPS = flags.DEFINE_list("steps", ["64"], "Numbers of sampling steps.")
_BUCKETS = flags.DEFINE_list(
  "buckets", None, "Lengths of the sampler's canvases; by default its own."
)
_BASELINES = flags.DEFINE_list(
  "baselines", list(sampling.BASELINES), "Samplers to compare with ours."
)
_KERNELS = flags.DEFINE_list(
  "kernels", list(kernels.KERNELS), "Kernels to time."
)
_KERNEL_SHAPES = flags.DEFINE_list(
  "kernel_shapes", None, "Rows of the kernels' arg_specs; by default all."
)
_REPEATS = flags.DEFINE_integer(
  "repeats", 5, "Number of runs of each measurement."
)
_PLOT = flags.DEFINE_string(
  "plot", None, "PNG file to draw sampling's cost in."
)
flags.mark_flags_as_required(["suite", "out"])


def main(_):
  for path in filter(None, (_OUT.value, _PLOT.value)):
    files.require_writable(path)
  cli.require_known("suite", [_SUITE.value], SUITES)
  cli.require_known("baselines", _BASELINES.value, sampling.BASELINES)
  cli.require_known("kernels", _KERNELS.value, kernels.KERNELS)
  sizes = dict(
    batch_size=_BATCH.value, max_length=_LENGTH.value, repeats=_REPEATS.value
  )
  cli.require_least(**{name: (value, 1) for name, value in sizes.items()})
  steps = cli.parse_ints("steps", _STEPS.value)
  if _SUITE.value == "train":
    measured = training.measure(shape=_SHAPE.value, **sizes)
  elif _SUITE.value == "sample":
    buckets = _BUCKETS.value and cli.parse_ints("buckets", _BUCKETS.value)
    measured = sampling.measure(
      shape=_SHAPE.value,
      **sizes,
      steps=steps,
      buckets=buckets and tuple(buckets),
      baselines=_BASELINES.value,
      sweep=_PLOT.value is not None,
    )
    if _PLOT.value:
      sampling.plot(measured, _PLOT.value)
  else:
    measured = kernels.measure(
      names=_KERNELS.value,
      shapes=_KERNEL_SHAPES.value,
      repeats=_REPEATS.value,
    )
  result = dict(suite=_SUITE.value, shape=_SHAPE.value, **measured)
  result["versions"] = files.versions()
  files.write_json(_OUT.value, result)
  print(json.dumps(result))


if __name__ == "__main__":
  cli.run(main)
