"""Methods compared on one maze: the same trunk, data, steps and sampler."""

import dataclasses
import pathlib
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from flexmdm_jax.evaluation.planning import Planning, evaluate_planning
from flexmdm_jax.evaluation.samples import held_out
from flexmdm_jax.models.denoiser import ModelDenoiser
from flexmdm_jax.pictures.trace_html import Frames, Render, write_trace_html
from flexmdm_jax.runs import Run, num_parameters
from flexmdm_jax.sampling.loop import sample
from flexmdm_jax.tasks.maze.task import subgoals
from flexmdm_jax.training.metrics import read_metrics


@dataclasses.dataclass(frozen=True, eq=False)
class Contender:
  """A method, trained and scored.

  Attributes:
    run: what was trained.
    denoiser: its EMA parameters.
    records: the held-out problems.
    scores: by number of sampling steps.
    losses: (steps, losses) of the training.
    seconds: of training, unless it was done before, and scoring.
  """

  run: Run
  denoiser: ModelDenoiser
  records: Sequence[Mapping[str, np.ndarray]]
  scores: dict[int, Planning]
  losses: tuple[list[int], list[float]]
  seconds: float

  @property
  def best(self) -> Planning:
    """The score at the most sampling steps."""
    return self.scores[max(self.scores)]

  def summary(self) -> dict[str, Any]:
    """JSON-ready."""
    return {
      **self.best.summary(),
      "steps": max(self.scores),
      "seconds": self.seconds,
      "train_steps": self.run.loop.num_steps,
      "train_loss": self.losses[1][-1],
      "parameters": num_parameters(self.run.model),
      "success_by_steps": {s: p.success for s, p in self.scores.items()},
    }


def contend(
  config: Mapping[str, Any],
  method: str,
  workdir: pathlib.Path,
  *,
  num: int,
  sampling_steps: Sequence[int],
  overwrite: bool = False,
  batch_size: int = 256,
) -> Contender:
  """Trains `method` as `config` says, unless done before, and scores it.

  Args:
    config: of a maze run; its own `method` is not read.
    method: what to train.
    workdir: of the run.
    num: held-out problems; all there are if fewer.
    sampling_steps: numbers of network calls to score.
    overwrite: move a run with another config aside.
    batch_size: problems sampled at once.

  Raises:
    SystemExit: a SIGTERM stopped the training; its state is saved.
  """
  begin = time.perf_counter()
  run = Run.from_config({**config, "method": method})
  denoiser, losses = trained(run, workdir, overwrite=overwrite)
  records = held_out(run, num)
  scores = {
    steps: evaluate_planning(
      jax.random.key(0),
      run.with_sampler(steps=steps),
      denoiser,
      records,
      batch_size,
    )
    for steps in sampling_steps
  }
  seconds = time.perf_counter() - begin
  return Contender(run, denoiser, records, scores, losses, seconds)


def trained(
  run: Run, workdir: pathlib.Path, *, overwrite: bool = False
) -> tuple[ModelDenoiser, tuple[list[int], list[float]]]:
  """Trains to the end, unless done before.

  Args:
    run: what to train.
    workdir: of the run.
    overwrite: move a run with another config aside.

  Returns:
    The denoiser, and the (steps, losses) of the training.

  Raises:
    SystemExit: a SIGTERM stopped the training; its state is saved.
  """
  last = run.train(workdir, overwrite=overwrite)
  if last["step"] < run.loop.num_steps:
    raise SystemExit(0)  # half a training has no score
  _, denoiser = run.restore(workdir)
  lines = read_metrics(workdir)
  return denoiser, ([x["step"] for x in lines], [x["loss"] for x in lines])


def draw(folder: pathlib.Path, contenders: Mapping[str, Contender]) -> None:
  """Writes the plots of the contenders, by name, and a trace of the first.

  Args:
    folder: where loss.png, lengths.png, success.png, mazes.png and trace.html
      go.
    contenders: scored on the same problems; the first inserts.
  """
  from flexmdm_jax.pictures import figures  # matplotlib: an extra
  from flexmdm_jax.tasks.maze import plots

  first = next(iter(contenders.values()))
  records = first.records
  paths = {name: x.best.paths for name, x in contenders.items()}
  figures.plot_loss(
    folder / "loss.png",
    {name: x.losses for name, x in contenders.items()},
    ylabel="loss (nats a token slot)",
  )
  figures.plot_length_law(
    folder / "lengths.png",
    [len(record["tokens"]) for record in records],
    {name: [len(path) for path in made] for name, made in paths.items()},
  )
  figures.plot_success_by_steps(
    folder / "success.png",
    {
      name: {steps: p.success for steps, p in x.scores.items()}
      for name, x in contenders.items()
    },
    trials=len(records),
  )
  plots.plot_mazes(
    folder / "mazes.png",
    ~first.run.task.maze.grid,
    [
      (
        subgoals(record),
        [int(token) for token in record["tokens"]],
        {name: made[i] for name, made in paths.items()},
      )
      for i, record in enumerate(records[:4])
    ],
  )
  draw_trace(folder / "trace.html", first)


def draw_trace(path: pathlib.Path, contender: Contender) -> None:
  """Plays how the sample of the first held-out problem comes about."""
  run = contender.run
  start = run.task.start(contender.records[:1])
  config = dataclasses.replace(run.sampler, steps=max(contender.scores))
  samples = sample(
    jax.random.key(0),
    run.on_path(contender.denoiser),
    start,
    run.path,
    run.task.vocab,
    config,
    trace=True,
  )
  write_trace_html(
    path,
    "A path grows between its subgoals",
    Frames(
      np.asarray(samples.trace.tokens[:, 0]),
      np.asarray(samples.trace.length[:, 0]),
      np.asarray(start.frozen[0]),
      run.task.vocab.mask,
    ),
    config.times(),
    Render(walls=~run.task.maze.grid),
  )
