"""Trains an MDM and a FlexMDM from one parent, and compares their answers.

  python -m experiments.reasoning_table --out=build/reasoning_runs \
    --config=experiments/configs/small_infilling.py \
    --config.pretrained=build/code_parent --config.data.train=... \
    --config.data.test=... --config.data.tokenizer_folder=...

The config is that of `experiments.train`, of which the method is set here. The
MDM's holes have a room that is told, true or wrong; after a question it is all
there is. The FlexMDM is told nothing. Runs that are done are
not trained again, so the command goes on where it was stopped. Writes
NAME.json, NAME.md and NAME.png to --out, where NAME is the config's.
"""

import pathlib

from absl import flags

from experiments.common import cli
from flexmdm_jax import files
from flexmdm_jax.evaluation import reasoning_table
from flexmdm_jax.evaluation.reasoning_table import Measurements

_CONFIG = cli.config("File of the experiment's config.")
_OUT = flags.DEFINE_string("out", None, "Directory to write.")
_NUM = cli.count("num", 500, "Held-out problems.", least=2)
_STEPS = flags.DEFINE_list(
  "sampling_steps", ["4", "8", "16", "32", "64"], "Network calls a sample."
)
_LENGTHS = flags.DEFINE_list(
  "lengths",
  ["oracle", "x0.5", "x0.75", "x1.25", "x1.5", "x2"],
  "Room of the MDM's holes: the true length, or so many times it; the first and"
  " the last are measured at all numbers of calls, others at the last.",
)
_OVERWRITE = flags.DEFINE_bool(
  "overwrite", False, "Move runs with another config aside."
)
_BATCH = cli.count("batch_size", 100, "Rows at once.")
flags.mark_flags_as_required(["config", "out"])


def main(_):
  name = pathlib.Path(flags.FLAGS["config"].config_filename).stem
  out = pathlib.Path(_OUT.value)
  files.require_writable(out / f"{name}.json")
  measurements = Measurements(
    _NUM.value,
    tuple(sorted(cli.parse_ints("sampling_steps", _STEPS.value))),
    tuple(_LENGTHS.value),
    _BATCH.value,
  )
  for rows in reasoning_table.make_table(
    _CONFIG.value.copy_and_resolve_references().to_dict(),
    name,
    out,
    measurements,
    overwrite=_OVERWRITE.value,
  ):
    # After each way to sample: what is done is never lost.
    reasoning_table.write(out, name, rows)
  print((out / f"{name}.md").read_text())


if __name__ == "__main__":
  cli.run(main, trains=True)
