"""Methods on one maze: trained, scored and drawn.

They have the same trunk, data, steps and sampler.
"""

import dataclasses
import pathlib
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from flexmdm_jax.evaluation.maze import MazePlanning
from flexmdm_jax.evaluation.samples import Records, held_out, sequences_of
from flexmdm_jax.evaluation.train_once import train_once
from flexmdm_jax.models.denoiser import ModelDenoiser
from flexmdm_jax.models.parameters import num_parameters
from flexmdm_jax.pictures.trace_html import Frames, Render, write_trace_html
from flexmdm_jax.runs import Run
from flexmdm_jax.tasks.maze.law import subgoals
from flexmdm_jax.tasks.maze.score import PlanningScore


@dataclasses.dataclass(frozen=True, eq=False)
class TrainedMethod:
  """Method that was trained and scored.

  Attributes:
    run: what was trained.
    denoiser: EMA parameters of the run.
    records: the held-out problems.
    scores: scores by number of sampling steps.
    losses: (steps, losses) of the training.
    seconds: time of training, unless it was done before, and of scoring.
  """

  run: Run
  denoiser: ModelDenoiser
  records: Records
  scores: dict[int, PlanningScore]
  losses: tuple[list[int], list[float]]
  seconds: float

  @property
  def best(self) -> PlanningScore:
    """Score at the most sampling steps."""
    return self.scores[max(self.scores)]

  def summary(self) -> dict[str, Any]:
    """Returns the numbers of the method, JSON-ready."""
    return {
      **self.best.summary(),
      "steps": max(self.scores),
      "seconds": self.seconds,
      "train_steps": self.run.loop.num_steps,
      "train_loss": self.losses[1][-1],
      "parameters": num_parameters(self.run.model),
      "success_by_steps": {s: p.success for s, p in self.scores.items()},
    }


def train_and_score(
  config: Mapping[str, Any],
  method: str,
  workdir: pathlib.Path,
  *,
  num: int,
  sampling_steps: Sequence[int],
  overwrite: bool = False,
  batch_size: int = 256,
) -> TrainedMethod:
  """Trains `method` as `config` says, unless done before, and scores it.

  Args:
    config: settings of a maze run; their own `method` is not read.
    method: what to train.
    workdir: directory of the run.
    num: number of held-out problems; all there are if fewer.
    sampling_steps: numbers of network calls to score.
    overwrite: move a run with another config aside.
    batch_size: problems sampled at once.

  Raises:
    SystemExit: a SIGTERM stopped the training; its state is saved.
  """
  begin = time.perf_counter()
  run = Run.from_config({**config, "method": method})
  denoiser, losses = train_once(run, workdir, overwrite=overwrite)
  records = held_out(run, num)
  scores = {
    steps: MazePlanning().measure(
      run.with_sampler(steps=steps),
      denoiser,
      records,
      jax.random.key(0),
      batch_size,
    )
    for steps in sampling_steps
  }
  seconds = time.perf_counter() - begin
  return TrainedMethod(run, denoiser, records, scores, losses, seconds)


def draw(folder: pathlib.Path, methods: Mapping[str, TrainedMethod]) -> None:
  """Writes the plots of methods, and a trace of the first.

  Args:
    folder: where loss.png, lengths.png, success.png, mazes.png and trace.html
      go.
    methods: by name, scored on the same problems; the first inserts.
  """
  from flexmdm_jax.pictures import figures  # matplotlib: an extra
  from flexmdm_jax.tasks.maze import plots

  first = next(iter(methods.values()))
  records = first.records
  truth = sequences_of(records)
  paths = {name: x.best.paths for name, x in methods.items()}
  figures.plot_loss(
    folder / "loss.png",
    {name: x.losses for name, x in methods.items()},
    ylabel="loss (nats a token slot)",
  )
  figures.plot_length_law(
    folder / "lengths.png",
    [len(path) for path in truth],
    {name: [len(path) for path in made] for name, made in paths.items()},
  )
  figures.plot_success_by_steps(
    folder / "success.png",
    {
      name: {steps: p.success for steps, p in x.scores.items()}
      for name, x in methods.items()
    },
    trials=len(records),
  )
  plots.plot_mazes(
    folder / "mazes.png",
    ~first.run.task.maze.grid,
    [
      (
        subgoals(record),
        truth[i],
        {name: made[i] for name, made in paths.items()},
      )
      for i, record in enumerate(records[:4])
    ],
  )
  _draw_trace(folder / "trace.html", first)


def _draw_trace(path: pathlib.Path, method: TrainedMethod) -> None:
  """Plays how the sample of the first held-out problem comes about."""
  run = method.run.with_sampler(steps=max(method.scores))
  start = run.task.start(method.records[:1])
  trace = run.trace(jax.random.key(0), method.denoiser, start)
  write_trace_html(
    path,
    "A path grows between its subgoals",
    Frames(
      trace.tokens[:, 0],
      trace.length[:, 0],
      np.asarray(start.frozen[0]),
      run.task.vocab.mask,
    ),
    np.append(0.0, run.sampler.plan(run.path).end),
    Render(walls=~run.task.maze.grid),
  )
