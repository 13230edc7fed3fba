"""Trains a model, or goes on where its work directory stopped.

python -m experiments.train --config=experiments/configs/NAME.py \
    --workdir=DIR [--config.KEY=VALUE ...]

For several processes, on several hosts, see experiments/common/hosts.py. A
large model trains a third faster on a CPU with
GLIBC_TUNABLES=glibc.malloc.hugetlb=1 in the environment.
"""

import json

from absl import flags

from experiments.common import cli, hosts
from flexmdm_jax.models.parameters import num_parameters
from flexmdm_jax.runs import Run
from flexmdm_jax.training.hosts import is_first_process, on_first_then_rest

_CONFIG = cli.config("File of the experiment.")
_WORKDIR = flags.DEFINE_string(
  "workdir", None, "Directory of the run, which is resumed if it is there."
)
_OVERWRITE = flags.DEFINE_bool(
  "overwrite", False, "Move a run with another config aside and start anew."
)
_unless_forced = cli.force()
flags.mark_flags_as_required(["config", "workdir"])


def main(_):
  hosts.start()
  config = _CONFIG.value.to_dict()
  run = on_first_then_rest(lambda: Run.from_config(config))
  _unless_forced(run.require_memory_to_train)
  if is_first_process():
    print(f"{num_parameters(run.model):,} parameters", flush=True)
  result = run.train(_WORKDIR.value, overwrite=_OVERWRITE.value)
  if is_first_process():
    print(json.dumps(result))


if __name__ == "__main__":
  cli.run(main, trains=True)
