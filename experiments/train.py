"""Trains a model, or goes on where its work directory stopped.

python -m experiments.train --config=experiments/configs/NAME.py \
    --workdir=DIR [--config.KEY=VALUE ...]
"""

import json

from absl import flags
from ml_collections import config_flags

from experiments import cli
from flexmdm_jax.experiment import Experiment, num_parameters

_CONFIG = config_flags.DEFINE_config_file(
  "config", None, "The experiment's file.", lock_config=True
)
_WORKDIR = flags.DEFINE_string(
  "workdir", None, "Directory of the run; resumed if it has one."
)
_OVERWRITE = flags.DEFINE_bool(
  "overwrite", False, "Move a run with another config aside, start anew."
)
flags.mark_flags_as_required(["config", "workdir"])


def main(_):
  experiment = Experiment.from_config(_CONFIG.value.to_dict())
  print(f"{num_parameters(experiment.model):,} parameters", flush=True)
  result = experiment.train(_WORKDIR.value, overwrite=_OVERWRITE.value)
  print(json.dumps(result))


if __name__ == "__main__":
  cli.run(main)
