"""Maze planning: how many held-out problems does a model solve?

Source: arXiv 2509.01025, experiment "maze planning".
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Array, Key

from flexmdm_jax.metrics.lengths import total_variation
from flexmdm_jax.models.denoiser import ModelDenoiser
from flexmdm_jax.runs import Run
from flexmdm_jax.tasks.maze.law import is_solution
from flexmdm_jax.tasks.maze.task import subgoals


class Planning(NamedTuple):
  """What a model did with a set of problems.

  Attributes:
    success: share of problems solved: a legal path through the subgoals in
      order.
    stderr: binomial standard error of `success`.
    length_tv: total variation between the laws of the lengths of generated and
      of true paths.
    length_error: mean absolute difference, in tokens, between the length of a
      generated path and of the true path of the same problem.
    truncated: share of samples that ran out of room.
    positions: how a pinned baseline guessed its positions; else "".
    paths: the generated paths.
  """

  success: float
  stderr: float
  length_tv: float
  length_error: float
  truncated: float
  positions: str
  paths: list[list[int]]

  def summary(self) -> dict[str, Any]:
    """All but the paths, JSON-ready."""
    summary = self._asdict()
    del summary["paths"]
    return summary


def evaluate_planning(
  key: Key[Array, ""],
  run: Run,
  denoiser: ModelDenoiser,
  records: Sequence[Mapping[str, np.ndarray]],
  batch_size: int = 256,
) -> Planning:
  """Samples one path for each problem and scores it.

  A pinned baseline tries both ways of guessing its positions and keeps the
  better.

  Args:
    key: a PRNG key.
    run: what was trained, on a maze, and how to sample.
    denoiser: its EMA parameters.
    records: held-out problems with their true paths.
    batch_size: problems sampled at once; changes nothing but the memory.
  """
  task = run.task
  tried = []
  for name, variant in task.variants().items():
    start = variant.start(records)
    samples = run.sample(key, denoiser, start, batch_size)
    paths = variant.decode(samples.tokens, samples.length)
    tried.append(_score(task, records, paths, samples.truncated, name))
  return max(tried, key=lambda planning: planning.success)


def _score(task, records, paths, truncated, positions) -> Planning:
  solved = np.mean(
    [
      is_solution(task.maze, path, subgoals(record))
      for path, record in zip(paths, records, strict=True)
    ]
  )
  true = np.array([len(record["tokens"]) for record in records])
  made = np.array([len(path) for path in paths])
  return Planning(
    success=float(solved),
    stderr=float(np.sqrt(solved * (1 - solved) / len(records))),
    length_tv=total_variation(true, made, task.max_length),
    length_error=float(np.abs(true - made).mean()),
    truncated=float(np.mean(truncated)),
    positions=positions,
    paths=paths,
  )
