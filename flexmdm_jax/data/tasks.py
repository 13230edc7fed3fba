"""A task: what an experiment trains on and starts sampling from.

It joins a data set with the layout of a method: "flexmdm", or one of the
baselines that the data set offers.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from flexmdm_jax.data import brackets, layouts, mazes
from flexmdm_jax.data.finetune import FineTuneTask
from flexmdm_jax.data.task import (
  Task,
  data_folder,
  require_method,
  sequence_layout,
  stack_start,
)
from flexmdm_jax.data.text_task import TextTask
from flexmdm_jax.errors import InputError


class MazeTask(Task):
  """Maze planning: from subgoals to the path through them."""

  methods = ("flexmdm", "mdm_pinned", "mdm_prefix")

  def __init__(self, method: str, data: Mapping[str, Any]):
    from flexmdm_jax.data import builders

    self.method = require_method(method, self.methods)
    self._data = dict(data)
    self._config = builders.MazeConfig(
      size=data["size"],
      seed=data["maze_seed"],
      subgoals=data["subgoals"],
      max_length=data["max_length"],
      num_train=data["num_train"],
      num_eval=data["num_eval"],
    )
    self._pinned = data["pinned"]
    if self._pinned not in ("law", "even"):
      raise InputError(f"data.pinned={self._pinned!r} must be 'law' or 'even'.")
    self.vocab = mazes.maze_vocab(data["size"])
    prefix = data["subgoals"] if method == "mdm_prefix" else 0
    self.max_length = data["max_length"] + prefix
    self.maze = self._config.maze()

  def records(self, split):
    from flexmdm_jax.data import builders

    return builders.prepared_split(
      builders.Mazes(
        config=self._config, data_dir=data_folder(self._data["folder"])
      ),
      split,
    )

  @functools.cached_property
  def layout(self):
    room = self._data["max_length"]
    if self.method == "flexmdm":
      return layouts.AnchorLayout(self.vocab, room)
    if self.method == "mdm_prefix":
      return layouts.PrefixLayout(self.vocab, self._data["subgoals"], room)
    # Only a guess of the positions looks at the training paths; 2,000 of them
    # are a law.
    train = self.records("train")
    known = [train[i] for i in range(min(len(train), 2000))]
    if self._pinned == "law":
      pool = np.stack([record["subgoal_index"] for record in known])
      positions = layouts.LawPositions(pool)
    else:
      mean = np.mean([len(record["tokens"]) for record in known])
      positions = layouts.EvenPositions(round(float(mean)))
    return layouts.PinnedLayout(self.vocab, room, positions)

  def variants(self):
    if self.method != "mdm_pinned":
      return {"": self}
    return {
      pinned: MazeTask(self.method, {**self._data, "pinned": pinned})
      for pinned in ("law", "even")
    }

  def encode(self, record):
    return self.layout.encode(record["tokens"], record["subgoal_index"])

  def start(self, records):
    rng = np.random.default_rng(0)
    return stack_start(
      [self.layout.start(subgoals(record), rng) for record in records]
    )


class _SequenceTask(Task):
  """Unconditional sequences that a builder prepares.

  A subclass sets `vocab`, and `_make_builder`, which takes `data_dir`.
  """

  methods = ("flexmdm", "mdm", "autoregressive")
  _make_builder: Callable[..., Any]

  def __init__(self, method: str, data: Mapping[str, Any]):
    self.method = require_method(method, self.methods)
    self._data = dict(data)

  @property
  def max_length(self):
    return self.layout.max_length

  def records(self, split):
    from flexmdm_jax.data import builders

    folder = data_folder(self._data["folder"])
    return builders.prepared_split(self._make_builder(data_dir=folder), split)

  @functools.cached_property
  def layout(self):
    return sequence_layout(self.method, self.vocab, self._data["max_length"])

  def encode(self, record):
    return self.layout.encode(record["tokens"])

  def start(self, records):
    return stack_start([self.layout.start() for _ in records])


class BracketTask(_SequenceTask):
  """Balanced brackets, from nothing."""

  def __init__(self, method: str, data: Mapping[str, Any]):
    from flexmdm_jax.data import builders

    super().__init__(method, data)
    config = builders.BracketConfig(
      kinds=data["kinds"],
      seed=data["data_seed"],
      num_train=data["num_train"],
      num_eval=data["num_eval"],
    )
    self._make_builder = functools.partial(builders.Brackets, config=config)
    self.vocab = brackets.bracket_vocab(data["kinds"])


class MarkovTask(_SequenceTask):
  """A hidden Markov language, from nothing.

  Attributes:
    language: the law of the sequences.
  """

  def __init__(self, method: str, data: Mapping[str, Any]):
    from flexmdm_jax.data import builders

    super().__init__(method, data)
    config = builders.MarkovConfig(
      symbols=data["symbols"],
      phases=data["phases"],
      mean_length=data["mean_length"],
      max_length=data["max_length"],
      seed=data["seed"],
      num_train=data["num_train"],
      num_eval=data["num_eval"],
    )
    self._make_builder = functools.partial(builders.Markov, config=config)
    self.language = config.language()
    self.vocab = self.language.vocab


_TASKS: dict[str, Callable[[str, Mapping[str, Any]], Task]] = {
  "mazes": MazeTask,
  "brackets": BracketTask,
  "markov": MarkovTask,
  "text": TextTask,
  "gsm8k": FineTuneTask,
  "code": FineTuneTask,
}


def make_task(method: str, data: Mapping[str, Any]) -> Task:
  """The task of a method on the data set that `data` describes.

  Raises:
    InputError: unknown name, method or setting, or one out of range.
  """
  name = data.get("name")
  if name not in _TASKS:
    raise InputError(
      f"data.name={name!r} is unknown: choose one of {', '.join(_TASKS)}."
    )
  return _TASKS[name](method, data)


def subgoals(record: Mapping[str, np.ndarray]) -> list[int]:
  """The subgoals of a maze record, start and goal included."""
  return [int(token) for token in record["tokens"][record["subgoal_index"]]]
