"""Tasks: data sets that runs train on and start sampling from.

A task joins a data set with the layout of a method: "flexmdm", or one of the
baselines that the data set offers.
"""

from collections.abc import Callable, Mapping
from typing import Any

from flexmdm_jax.schema import Range, require_value
from flexmdm_jax.tasks.brackets.task import BracketTask
from flexmdm_jax.tasks.finetune.task import FineTuneTask
from flexmdm_jax.tasks.markov.task import MarkovTask
from flexmdm_jax.tasks.maze.task import MazeTask
from flexmdm_jax.tasks.task import Task
from flexmdm_jax.tasks.text.task import TextTask

__all__ = [
  "BracketTask",
  "FineTuneTask",
  "MarkovTask",
  "MazeTask",
  "Task",
  "TextTask",
  "make_task",
]

_TASKS: dict[str, Callable[[str, Mapping[str, Any]], Task]] = {
  "mazes": MazeTask,
  "brackets": BracketTask,
  "markov": MarkovTask,
  "text": TextTask,
  "gsm8k": FineTuneTask,
  "code": FineTuneTask,
}


def make_task(method: str, data: Mapping[str, Any]) -> Task:
  """Makes the task of a method on the data set that `data` describes.

  Raises:
    InputError: unknown name, method or setting, or one out of range.
  """
  name = data.get("name")
  require_value("data.name", name, str, Range(among=_TASKS))
  return _TASKS[name](method, data)
