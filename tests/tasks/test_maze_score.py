"""Scores of paths through a maze, worked by hand."""

import json

import numpy as np
import pytest

from flexmdm_jax.tasks.maze import law
from flexmdm_jax.tasks.maze.score import score_paths

#  0  1  2  3  4
#  5  .  .  .  9
# 10 ## ##  . 14
# 15  .  .  . 19
# 20 21 22 23 24
GRID = np.zeros((5, 5), bool)
GRID[[1, 1, 1, 2, 3, 3, 3], [1, 2, 3, 3, 3, 2, 1]] = True
MAZE = law.Maze(GRID)


def record(*goals):
  path, index = MAZE.join(goals)
  return {"tokens": np.array(path), "subgoal_index": np.array(index)}


RECORDS = [record(6, 8), record(6, 13, 16), record(8, 18), record(16, 17)]
TRUTH = [x["tokens"].tolist() for x in RECORDS]


def test_subgoals_are_read_off_a_record():
  assert law.subgoals(RECORDS[1]) == [6, 13, 16]


def test_true_paths_are_perfect():
  score = score_paths(MAZE, RECORDS, TRUTH, np.zeros(4, bool), max_length=9)
  assert score.success == 1 and score.stderr == 0
  assert score.length_tv == score.length_error == score.truncated == 0
  assert score.positions == "" and score.paths == TRUTH
  summary = score.summary()
  assert "paths" not in summary and json.loads(json.dumps(summary)) == summary


def test_spoiled_paths_are_counted():
  # One stops a cell short of its goal, one jumps from start to goal.
  made = [TRUTH[0], TRUTH[1][:-1], [8, 18], TRUTH[3]]
  truncated = np.array([True, False, False, False])
  score = score_paths(
    MAZE, RECORDS, made, truncated, max_length=9, positions="law"
  )
  assert score.success == 0.5 and score.stderr == 0.25
  # True lengths 3, 7, 3, 2; generated 3, 6, 2, 2.
  assert score.length_error == 0.5
  assert score.length_tv == pytest.approx(0.5)
  assert score.truncated == 0.25 and score.positions == "law"
