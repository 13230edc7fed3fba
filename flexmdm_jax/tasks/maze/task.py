"""The task of planning in a maze: from subgoals to the path through them."""

import functools
from collections.abc import Mapping
from typing import Any

import numpy as np

from flexmdm_jax.errors import InputError
from flexmdm_jax.rows import AnchorLayout, stack
from flexmdm_jax.schema import require_value
from flexmdm_jax.tasks.maze import law, layouts
from flexmdm_jax.tasks.task import Task, computed_records, require_method


class MazeTask(Task):
  """Maze planning: from subgoals to the path through them."""

  methods = ("flexmdm", "mdm_pinned", "mdm_prefix")

  def __init__(self, method: str, data: Mapping[str, Any]):
    from flexmdm_jax.tasks.maze import dataset  # takes seconds

    self.method = require_method(method, self.methods)
    require_value("data.folder", data.get("folder"), str)
    self._data = dict(data)
    config = dataset.MazeConfig(
      size=data["size"],
      maze_seed=data["maze_seed"],
      subgoals=data["subgoals"],
      max_length=data["max_length"],
      num_train=data["num_train"],
      num_eval=data["num_eval"],
    )
    self._pinned = data["pinned"]
    if self._pinned not in ("law", "even"):
      raise InputError(f"data.pinned={self._pinned!r} must be 'law' or 'even'.")
    self.vocab = law.maze_vocab(data["size"])
    prefix = data["subgoals"] if method == "mdm_prefix" else 0
    self.max_length = data["max_length"] + prefix
    self.maze = config.maze()
    self._make_builder = functools.partial(dataset.Mazes, config=config)

  def records(self, split):
    return computed_records(self._make_builder, self._data, split)

  @functools.cached_property
  def layout(self):
    room = self._data["max_length"]
    if self.method == "flexmdm":
      return AnchorLayout(self.vocab, room)
    if self.method == "mdm_prefix":
      return layouts.PrefixLayout(self.vocab, room, self._data["subgoals"])
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
    start = self.layout.start
    if self.method == "mdm_pinned":
      start = functools.partial(start, rng=np.random.default_rng(0))
    return stack(start(law.subgoals(record)) for record in records)
