"""Scores of generated paths: how many problems do they solve?

Source: arXiv 2509.01025, experiment "maze planning".
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from flexmdm_jax.metrics.lengths import total_variation
from flexmdm_jax.tasks.maze.law import Maze, is_solution, subgoals


class PlanningScore(NamedTuple):
  """Score of one path for each of some problems.

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
    """Returns all numbers without the paths, JSON-ready."""
    summary = self._asdict()
    del summary["paths"]
    return summary


def score_paths(
  maze: Maze,
  records: Sequence[Mapping[str, np.ndarray]],
  paths: Sequence[Sequence[int]],
  truncated: np.ndarray,
  *,
  max_length: int,
  positions: str = "",
) -> PlanningScore:
  """Scores generated paths against problems.

  Args:
    maze: the maze of the problems.
    records: N problems with their true paths.
    paths: N lists of tokens, any ints.
    truncated: bool[N], samples that ran out of room.
    max_length: tokens of the longest path, generated or true.
    positions: how a pinned baseline guessed its positions; else "".
  """
  solved = np.mean(
    [
      is_solution(maze, path, subgoals(record))
      for path, record in zip(paths, records, strict=True)
    ]
  )
  true = np.array([len(record["tokens"]) for record in records])
  made = np.array([len(path) for path in paths])
  return PlanningScore(
    success=float(solved),
    stderr=float(np.sqrt(solved * (1 - solved) / len(records))),
    length_tv=total_variation(true, made, max_length),
    length_error=float(np.abs(true - made).mean()),
    truncated=float(np.mean(truncated)),
    positions=positions,
    paths=paths,
  )
