"""Measures a kernel's tunings on this device.

  python -m experiments.tune_kernels --kernel=insert_unmask --out=FILE.json

Times every config for every shape, and prints the row of the kernel's table for
this device: the config that is fastest by the geometric mean.
"""

from absl import flags

from experiments.benchmarks import tuning
from experiments.common import cli
from flexmdm_jax import files
from flexmdm_jax.kernels.common import target

_KERNEL = flags.DEFINE_string(
  "kernel", None, f"Kernel to tune, one of {', '.join(tuning.KERNELS)}."
)
_OUT = flags.DEFINE_string("out", None, "JSON file to write.")
_REPEATS = cli.count("repeats", 20, "Number of runs of each measurement.")
flags.mark_flags_as_required(["kernel", "out"])


def main(_):
  cli.require_known("kernel", [_KERNEL.value], tuning.KERNELS)
  files.require_writable(_OUT.value)
  result = tuning.tune(_KERNEL.value, _REPEATS.value)
  files.write_json(_OUT.value, {**result, "versions": files.versions()})
  print(f'"{target().kind}": {result["best"]},')


if __name__ == "__main__":
  cli.run(main)
