"""Compiles a config's step for accelerators that are not here.

python -m experiments.dryrun --config=experiments/configs/NAME.py \
    --topology=v5p:4x4x1 [--weak_scaling] [--out=FILE.json]
python -m experiments.dryrun --config=... --topology=... --step=sample \
    [--batch_size=16]

Prints JSON: parameters, bytes per device, operations, collectives, and the time
that a roofline predicts; `flexmdm_jax/dryrun/roofline.py` has its formula.
"""

import json

import jax
from absl import flags

from experiments.common import cli
from flexmdm_jax import files
from flexmdm_jax.dryrun import devices, report

_CONFIG = cli.config("File of the experiment.")
_TOPOLOGY = flags.DEFINE_string(
  "topology",
  None,
  "Devices to compile for, such as v5p:2x2x4, v6e:4x4 or gpu:h100:16.",
)
_STEP = flags.DEFINE_string(
  "step", "train", "Step to compile, train or sample."
)
_BATCH = cli.count(
  "batch_size", 16, "Number of rows to sample, for --step=sample."
)
_OUT = flags.DEFINE_string("out", None, "JSON file to write.")
_WEAK_SCALING = flags.DEFINE_bool(
  "weak_scaling", False, "Add predictions for up to 4,096 devices."
)
flags.mark_flags_as_required(["config", "topology"])


def main(_):
  jax.config.update("jax_platforms", "cpu")
  if _OUT.value:
    files.require_writable(_OUT.value)
  cli.require_known("step", [_STEP.value], ("train", "sample"))
  topology = devices.topology(_TOPOLOGY.value)
  run = report.run_without_data(_CONFIG.value.to_dict())
  if _STEP.value == "train":
    result = report.train_report(run, topology, _WEAK_SCALING.value)
  else:
    result = report.sample_report(run, topology, _BATCH.value)
  if _OUT.value:
    files.write_json(_OUT.value, result)
  print(json.dumps(result))


if __name__ == "__main__":
  cli.run(main)
