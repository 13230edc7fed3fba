"""The table of mazes: success of every method on several of them."""

import dataclasses
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from flexmdm_jax import files
from flexmdm_jax.evaluation import markdown
from flexmdm_jax.evaluation.maze_methods import train_and_score
from flexmdm_jax.tasks import MazeTask

# Success in percent, FlexMDM's and the MDM baseline's, by subgoals on 41x41.
_PAPER = {2: (92.3, 68.4), 7: (90.4, 29.3), 12: (90.0, 24.2)}


@dataclasses.dataclass(frozen=True)
class Case:
  """One problem of the table: a maze, its subgoals and a training.

  Attributes:
    size: rows, and columns, of the maze.
    subgoals: K, start and goal included.
    train_steps: number of training steps.
    max_length: room for the longest path.
    num_train: number of training problems.
  """

  size: int
  subgoals: int
  train_steps: int
  max_length: int
  num_train: int

  def config(self, base: Mapping[str, Any], folder: str) -> dict[str, Any]:
    """Puts the case into a config.

    Args:
      base: settings of a maze run.
      folder: where the data are kept.
    """
    warmup = min(base["optimizer"]["warmup_steps"], self.train_steps // 4)
    return {
      **base,
      "data": {
        **base["data"],
        "size": self.size,
        "subgoals": self.subgoals,
        "max_length": self.max_length,
        "num_train": self.num_train,
        "folder": folder,
      },
      "train": {**base["train"], "num_steps": self.train_steps},
      "optimizer": {**base["optimizer"], "warmup_steps": warmup},
    }


def make_rows(
  base: Mapping[str, Any],
  cases: Sequence[Case],
  out: pathlib.Path,
  *,
  num: int,
  sampling_steps: Sequence[int],
  overwrite: bool = False,
) -> Iterator[dict[str, Any]]:
  """Trains and scores every method on every case; yields a row for each.

  What was trained before is not trained again.

  Args:
    base: settings of a maze run, of which the case and the method are set here.
    cases: the problems.
    out: folder of the data and the runs.
    num: number of held-out problems; all there are if fewer.
    sampling_steps: numbers of network calls to score.
    overwrite: move runs with another config aside.
  """
  for case in cases:
    config = case.config(base, str(out / "data"))
    for method in MazeTask.methods:
      row = {
        "size": case.size,
        "K": case.subgoals,
        "train_steps": case.train_steps,
        "method": method,
      }
      trained = train_and_score(
        config,
        method,
        out / name(row),
        num=num,
        sampling_steps=sampling_steps,
        overwrite=overwrite,
      )
      yield {**row, "num": len(trained.records), **trained.summary()}


def name(row: Mapping[str, Any]) -> str:
  """Names a row, and so the directory of its run."""
  return "size{size}_K{K}_steps{train_steps}_{method}".format(**row)


def write(out: pathlib.Path, rows: Sequence[Mapping[str, Any]]) -> None:
  """Writes table.json and table.md to a folder."""
  files.write_json(
    out / "table.json", {"rows": rows, "versions": files.versions()}
  )
  files.write_text(out / "table.md", to_markdown(rows))


def to_markdown(rows: Sequence[Mapping[str, Any]]) -> str:
  """Formats the table: success in percent, by network calls.

  Args:
    rows: what `make_rows` yields, of at least one row.
  """
  sampling_steps = list(rows[0]["success_by_steps"])
  head = ["maze", "K", "training steps", "method"]
  head += [f"{steps} calls" for steps in sampling_steps]
  head += ["length error", "paper"]
  lines = []
  for row in rows:
    paper = ""
    if row["size"] == 41 and row["method"] != "mdm_prefix":
      paper = _PAPER[row["K"]][row["method"] == "mdm_pinned"]
    cells = [f"{row['size']}x{row['size']}", row["K"], row["train_steps"]]
    cells.append(row["method"])
    cells += [
      f"{100 * row['success_by_steps'][steps]:.1f}" for steps in sampling_steps
    ]
    cells += [f"{row['length_error']:.2f}", paper]
    lines.append(cells)
  return markdown.table(head, lines)
