"""An MDM and a FlexMDM from one parent, when no length is known."""

import dataclasses
import pathlib
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from flexmdm_jax import files
from flexmdm_jax.errors import InputError
from flexmdm_jax.evaluation import markdown
from flexmdm_jax.evaluation.gsm8k import WordProblems
from flexmdm_jax.evaluation.infilling import Infilling
from flexmdm_jax.evaluation.judge import Judge
from flexmdm_jax.evaluation.problems import ProblemSet, plain_rows
from flexmdm_jax.evaluation.solving import (
  HoleTokens,
  Solver,
  scored_lines,
  summary,
)
from flexmdm_jax.evaluation.train_once import train_once
from flexmdm_jax.inference import Model
from flexmdm_jax.models.parameters import num_parameters
from flexmdm_jax.runs import Run
from flexmdm_jax.tasks.finetune.formats import Cut
from flexmdm_jax.tasks.finetune.task import FineTuneTask
from flexmdm_jax.training.metrics import read_metrics

METHODS = ("mdm", "flexmdm")


@dataclasses.dataclass(frozen=True)
class Measurements:
  """Choice of what to measure of each method.

  Attributes:
    num: number of held-out problems; all there are if fewer.
    sampling_steps: numbers of network calls to sample with, ascending.
    lengths: rooms of the MDM's holes, as `HoleTokens.parse` takes them, at the
      most calls; at fewer, the first and the last of them. The FlexMDM is told
      no length.
    batch_size: rows at once.
    seed: seed of the samples.
  """

  num: int
  sampling_steps: tuple[int, ...]
  lengths: tuple[str, ...]
  batch_size: int = 100
  seed: int = 0

  def of(self, run: Run, model: Model) -> Iterator[dict[str, Any]]:
    """Measures a model; yields the summary of each way to sample it.

    Args:
      run: what was trained, on answers or on code.
      model: its model.
    """
    found = held_out_problems(run, self.num)
    holes = isinstance(found.judge, Infilling) and model.method == "mdm"
    for steps in self.sampling_steps:
      lengths: Sequence[str | None] = [None]
      if holes:
        last = steps == self.sampling_steps[-1]
        ends = dict.fromkeys([self.lengths[0], self.lengths[-1]])
        lengths = self.lengths if last else list(ends)
      for length in lengths:
        solver = Solver(
          model,
          model.way(steps=steps),
          hole_tokens=length and HoleTokens.parse(length),
        )
        yield {"length": length, **self._solve(solver, found), "steps": steps}

  def _solve(self, solver: Solver, found: ProblemSet) -> dict[str, Any]:
    begin = time.perf_counter()
    ready = solver.prepare(found)
    answers = [
      answer
      for batch in solver.answers(
        ready, seed=self.seed, batch_size=self.batch_size
      )
      for answer in batch
    ]
    seconds = time.perf_counter() - begin
    lines = dict(scored_lines(found.judge, found.problems, answers))
    written = [len(answer[0].text) for _, answer in answers]
    return {
      **summary([lines[place] for place in sorted(lines)], [1]),
      "characters": float(np.mean(written)),
      "sampling_seconds": seconds,
    }


def make_table(
  config: Mapping[str, Any],
  name: str,
  out: pathlib.Path,
  measurements: Measurements,
  *,
  overwrite: bool = False,
) -> Iterator[list[dict[str, Any]]]:
  """Trains both methods from one parent and measures them.

  What was trained before is not trained again.

  Args:
    config: settings of a fine-tuning, of which the method is set here.
    name: name of the config, with which the directories of the runs begin.
    out: folder of the runs.
    measurements: what to measure.
    overwrite: move runs with another config aside.

  Yields:
    The rows so far, one for each method, after each way to sample it.

  Raises:
    InputError: the config is of no fine-tuning; or as `Run`.
  """
  rows: list[dict[str, Any]] = []
  for method in METHODS:
    run = Run.from_config({**config, "method": method})
    if not isinstance(run.task, FineTuneTask):
      raise InputError(
        f"data.name={run.config['data']['name']!r} is no fine-tuning: set it to"
        " gsm8k or code."
      )
    workdir = out / f"{name}_{method}"
    denoiser, (_, losses) = train_once(run, workdir, overwrite=overwrite)
    row = {
      "method": method,
      "parameters": num_parameters(run.model),
      "train_steps": run.loop.num_steps,
      "train_loss": losses[-1],
      "positions": _positions(workdir),
      "samples": [],
    }
    rows.append(row)
    for found in measurements.of(run, run.model_with(denoiser)):
      row["samples"].append(found)
      yield rows


def _positions(workdir: pathlib.Path) -> float:
  """Counts the positions that a training has computed, in all."""
  lines = [line for line in read_metrics(workdir) if "tokens" in line]
  every = np.diff([0, *(line["step"] for line in lines)])
  return float(np.dot(every, [line["tokens"] for line in lines]))


def held_out_problems(run: Run, num: int) -> ProblemSet:
  """Makes the problems of a run's test rows, spread over them.

  Args:
    run: what was trained, on answers or on code.
    num: number of problems; all there are if fewer.
  """
  data = run.config["data"]
  judge: Judge = WordProblems()
  if data["name"] == "code":
    judge = Infilling(text_key=data["text_key"], cut=Cut(at=data["cut"]))
  rows = run.task.rows("test")
  numbers = sorted({record["row"] for record in run.task.records("test")})
  num = min(num, len(numbers))
  chosen = [numbers[i * len(numbers) // num] for i in range(num)]
  return ProblemSet(judge, plain_rows((i, rows[i]) for i in chosen))


def write(
  out: pathlib.Path, name: str, rows: Sequence[Mapping[str, Any]]
) -> None:
  """Writes NAME.json, NAME.md and NAME.png, success by calls, to a folder."""
  from flexmdm_jax.pictures import figures  # matplotlib: an extra

  files.write_json(
    out / f"{name}.json", {"rows": list(rows), "versions": files.versions()}
  )
  files.write_text(out / f"{name}.md", to_markdown(rows))
  curves: dict[str, dict[int, float]] = {}
  for row in rows:
    for found in row["samples"]:
      label = row["method"]
      if found["length"] is not None:
        label += f", {found['length']}"
      curves.setdefault(label, {})[found["steps"]] = _success(found)[0]
  figures.plot_success_by_steps(
    out / f"{name}.png",
    {label: curve for label, curve in curves.items() if len(curve) > 1}
    or curves,
    rows[0]["samples"][0]["rows"],
  )


def to_markdown(rows: Sequence[Mapping[str, Any]]) -> str:
  """Formats the rows that `make_table` yields, with standard errors."""
  code = "exact@1" in rows[0]["samples"][0]
  head = ["method", "length told", "calls"]
  head += (
    ["exact match", "edit similarity", "parses"]
    if code
    else ["right", "without a box"]
  )
  head += ["seconds"]
  lines = []
  for row in rows:
    for found in row["samples"]:
      cells = [row["method"], found["length"] or "none", found["steps"]]
      cells.append("{:.3f} +- {:.3f}".format(*_success(found)))
      if code:
        cells += [f"{found['similarity']:.3f}", f"{found['parses']:.3f}"]
      else:
        cells.append(f"{1 - found['boxed']:.3f}")
      lines.append([*cells, f"{found['sampling_seconds']:.0f}"])
  return markdown.table(head, lines)


def _success(found: Mapping[str, Any]) -> tuple[float, float]:
  """Returns the share of successes, and its standard error."""
  name = "exact@1" if "exact@1" in found else "pass@1"
  return found[name], found[f"{name}_stderr"]
