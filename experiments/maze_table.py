"""Trains and scores all three methods over several mazes, as a table.

  python -m experiments.maze_table --table=small --out=build/maze_small
  python -m experiments.maze_table --table=paper --out=build/maze_41

"small" runs on 2 CPU cores in about an hour; "paper" is the 41x41 maze with
K = 2, 7 and 12, for a GPU. Runs that are done are not trained again, so the
command goes on where it was stopped. Writes table.json and table.md to --out.
"""

import dataclasses
import pathlib

from absl import flags

from experiments.common import cli
from experiments.configs import maze_41, maze_quickstart
from flexmdm_jax import files
from flexmdm_jax.evaluation import maze_table
from flexmdm_jax.evaluation.maze_table import Case

# Config, cases (size, K, training steps, room, training problems), and network
# calls of a sample.
TABLES = {
  "small": (
    maze_quickstart,
    [
      Case(7, 3, 1000, 25, 3200),
      Case(7, 3, 3000, 25, 3200),
      Case(7, 5, 1000, 40, 20_000),
      Case(9, 3, 1000, 28, 20_000),
    ],
    (8, 32, 128),
  ),
  "paper": (
    maze_41,
    [
      Case(41, 2, 5000, 192, 100_000),
      Case(41, 7, 5000, 768, 100_000),
      Case(41, 12, 5000, 1152, 100_000),
    ],
    (64, 256, 1024),
  ),
}

_TABLE = flags.DEFINE_string("table", "small", "Table to make: small or paper.")
_OUT = flags.DEFINE_string("out", None, "Directory to write.")
_TRAIN_STEPS = cli.count(
  "train_steps", None, "Training steps of every run; by default, the table's."
)
_NUM = cli.count("num", 1000, "Held-out problems, if as many exist.")
_OVERWRITE = flags.DEFINE_bool(
  "overwrite", False, "Move runs with another config aside."
)
flags.mark_flag_as_required("out")


def main(_):
  cli.require_known("table", [_TABLE.value], TABLES)
  module, cases, sampling_steps = TABLES[_TABLE.value]
  out = pathlib.Path(_OUT.value)
  files.require_writable(out / "table.json")
  if (steps := _TRAIN_STEPS.value) is not None:
    cases = [dataclasses.replace(case, train_steps=steps) for case in cases]
  rows = []
  for row in maze_table.make_rows(
    module.get_config().to_dict(),
    cases,
    out,
    num=_NUM.value,
    sampling_steps=sampling_steps,
    overwrite=_OVERWRITE.value,
  ):
    rows.append(row)
    success = row["success_by_steps"][sampling_steps[-1]]
    print(f"{maze_table.name(row)}: {100 * success:.1f} %", flush=True)
    # After each run: what is done is never lost.
    maze_table.write(out, rows)


if __name__ == "__main__":
  cli.run(main, trains=True)
