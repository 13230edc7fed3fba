"""Maze planning: how many held-out problems does a model solve?

Source: arXiv 2509.01025, experiment "maze planning".
"""

import dataclasses

from jaxtyping import Array, Key

from flexmdm_jax.evaluation.evaluation import Evaluation, require_task
from flexmdm_jax.evaluation.samples import Records
from flexmdm_jax.models.denoiser import ModelDenoiser
from flexmdm_jax.runs import Run
from flexmdm_jax.tasks import MazeTask
from flexmdm_jax.tasks.maze.score import PlanningScore, score_paths


@dataclasses.dataclass(frozen=True)
class MazePlanning(Evaluation):
  """Success rate and path lengths; see `PlanningScore`."""

  def __call__(self, run, denoiser, records, key, batch_size=256):
    return self.measure(run, denoiser, records, key, batch_size).summary()

  def measure(
    self,
    run: Run,
    denoiser: ModelDenoiser,
    records: Records,
    key: Key[Array, ""],
    batch_size: int = 256,
  ) -> PlanningScore:
    """Samples one path for each problem and scores it.

    A pinned baseline tries both ways of guessing its positions and keeps the
    better.

    Takes what an `Evaluation` is called with.

    Raises:
      InputError: the run is not on a maze, or batch_size < 1.
    """
    require_task(run, MazeTask, "maze", "mazes")
    task, tried = run.task, []
    for name, variant in task.variants().items():
      start = variant.start(records)
      samples = run.sample(key, denoiser, start, batch_size)
      tried.append(
        score_paths(
          task.maze,
          records,
          variant.decode(samples.tokens, samples.length),
          samples.truncated,
          max_length=task.max_length,
          positions=name,
        )
      )
    return max(tried, key=lambda score: score.success)
