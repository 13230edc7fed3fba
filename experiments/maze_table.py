"""Trains and scores all three methods over several mazes: README's tables.

  python -m experiments.maze_table --table=small --out=build/maze_small
  python -m experiments.maze_table --table=paper --out=build/maze_41

"small" runs on 2 CPU cores in about an hour; "paper" is the 41x41 maze with
K = 2, 7 and 12, for a GPU. Runs that are done are not trained again, so the
command goes on where it was stopped. Writes table.json and table.md to --out.
"""

import pathlib

from absl import flags

from experiments.common import cli
from experiments.configs import maze_41, maze_quickstart
from flexmdm_jax import files
from flexmdm_jax.errors import InputError
from flexmdm_jax.evaluation.maze_comparison import contend
from flexmdm_jax.tasks import MazeTask

_TABLE = flags.DEFINE_string("table", "small", "small or paper.")
_OUT = flags.DEFINE_string("out", None, "Directory to write.")
_TRAIN_STEPS = flags.DEFINE_integer("train_steps", None, "Else as listed.")
_NUM = flags.DEFINE_integer("num", 1000, "Held-out problems, if as many exist.")
_OVERWRITE = flags.DEFINE_bool(
  "overwrite", False, "Move runs with another config aside."
)
flags.mark_flag_as_required("out")

# Maze size, K, training steps, room for the longest path, training problems.
TABLES = {
  "small": (
    maze_quickstart,
    [
      (7, 3, 1000, 25, 3200),
      (7, 3, 3000, 25, 3200),
      (7, 5, 1000, 40, 20_000),
      (9, 3, 1000, 28, 20_000),
    ],
    (8, 32, 128),
  ),
  "paper": (
    maze_41,
    [
      (41, 2, 5000, 192, 100_000),
      (41, 7, 5000, 768, 100_000),
      (41, 12, 5000, 1152, 100_000),
    ],
    (64, 256, 1024),
  ),
}
PAPER = {2: (92.3, 68.4), 7: (90.4, 29.3), 12: (90.0, 24.2)}


def main(_):
  if _TABLE.value not in TABLES:
    raise InputError(
      f"--table={_TABLE.value} is unknown: choose one of {', '.join(TABLES)}."
    )
  module, rows, sampling_steps = TABLES[_TABLE.value]
  out = pathlib.Path(_OUT.value)
  files.require_writable(out / "table.json")
  cli.require_least(num=(_NUM.value, 1), train_steps=(_TRAIN_STEPS.value, 1))
  results = []
  for size, K, train_steps, max_length, num_train in rows:
    train_steps = _TRAIN_STEPS.value or train_steps
    config = module.get_config()
    config.data.update(
      size=size,
      subgoals=K,
      max_length=max_length,
      num_train=num_train,
      folder=str(out / "data"),
    )
    config.train.num_steps = train_steps
    config.optimizer.warmup_steps = min(
      config.optimizer.warmup_steps, train_steps // 4
    )
    for method in MazeTask.methods:
      name = f"size{size}_K{K}_steps{train_steps}_{method}"
      contender = contend(
        config.to_dict(),
        method,
        out / name,
        num=_NUM.value,
        sampling_steps=sampling_steps,
        overwrite=_OVERWRITE.value,
      )
      row = dict(size=size, K=K, train_steps=train_steps, method=method)
      results.append(
        {**row, "num": len(contender.records), **contender.summary()}
      )
      print(f"{name}: {100 * contender.best.success:.1f} %", flush=True)
      # After each run: what is done is never lost.
      files.write_json(
        out / "table.json", {"rows": results, "versions": files.versions()}
      )
      files.write_text(out / "table.md", to_markdown(results, sampling_steps))


def to_markdown(results, sampling_steps) -> str:
  """The table: success in percent, by sampling steps."""
  head = ["maze", "K", "training steps", "method"]
  head += [f"{steps} calls" for steps in sampling_steps]
  head += ["length error", "paper"]
  lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
  for row in results:
    paper = ""
    if row["size"] == 41 and row["method"] != "mdm_prefix":
      paper = PAPER[row["K"]][row["method"] == "mdm_pinned"]
    cells = [f"{row['size']}x{row['size']}", row["K"], row["train_steps"]]
    cells.append(row["method"])
    cells += [
      f"{100 * row['success_by_steps'][steps]:.1f}" for steps in sampling_steps
    ]
    cells += [f"{row['length_error']:.2f}", paper]
    lines.append("| " + " | ".join(map(str, cells)) + " |")
  return "\n".join(lines) + "\n"


if __name__ == "__main__":
  cli.run(main)
