"""Maze problems as a TFDS data set: prepared once, then read at random.

Importing this takes seconds (tensorflow_datasets); it needs no TensorFlow.
"""

import dataclasses

import numpy as np
import tensorflow_datasets as tfds

from flexmdm_jax import schema
from flexmdm_jax.data.splits import SPLITS
from flexmdm_jax.data.synthetic import (
  CITATION,
  SyntheticBuilder,
  num_examples,
)
from flexmdm_jax.errors import InputError
from flexmdm_jax.schema import count, require, setting
from flexmdm_jax.tasks.maze import law


@dataclasses.dataclass(eq=False, kw_only=True)
class MazeConfig(tfds.core.BuilderConfig):
  """Settings of `Mazes`; the name, and so the folder, follows from them.

  Attributes:
    size: rows, and columns, of the maze; odd, at least 5.
    maze_seed: seed of the maze, and of the order in which problems are drawn.
    subgoals: K, start and goal included; at least 2.
    max_length: tokens of the longest path kept.
    num_train: training problems, or all that exist if they are fewer.
    num_eval: validation problems, and test problems; likewise.

  Raises:
    InputError: a number is out of range.
  """

  name: str = dataclasses.field(default="", init=False)
  size: int = setting(41, least=5, most=501)
  maze_seed: int = schema.seed(0)
  subgoals: int = count(2, least=2)
  max_length: int = count(256)
  num_train: int = count(100_000)
  num_eval: int = count(1000)

  def __post_init__(self):
    require(self, "data")
    # Raises if the size is even, or there are fewer cells than subgoals.
    law.problems(self.maze(), self.subgoals, "train", self.maze_seed)
    self.name = (
      f"size{self.size}_seed{self.maze_seed}_subgoals{self.subgoals}"
      f"_length{self.max_length}_train{self.num_train}_eval{self.num_eval}"
    )

  def maze(self) -> law.Maze:
    """Makes the maze of all the problems."""
    return law.Maze(law.make_maze(self.size, self.maze_seed))


class Mazes(SyntheticBuilder):
  """Maze problems and their shortest paths.

  Records hold `tokens` int32[n], the path, and `subgoal_index` int32[K], the
  positions in it of the subgoals. `info.metadata["skipped"]` tells how many
  problems of each split were longer than `max_length`.
  """

  def _info(self) -> tfds.core.DatasetInfo:
    return tfds.core.DatasetInfo(
      builder=self,
      description="Shortest paths through subgoals in one perfect maze.",
      homepage="https://arxiv.org/abs/2509.01025",
      citation=CITATION,
      features=tfds.features.FeaturesDict(
        {
          "tokens": tfds.features.Tensor(shape=(None,), dtype=np.int32),
          "subgoal_index": tfds.features.Tensor(
            shape=(self.builder_config.subgoals,), dtype=np.int32
          ),
        }
      ),
      metadata=tfds.core.MetadataDict(skipped={}),
    )

  def _split_generators(self, dl_manager):
    maze = self.builder_config.maze()
    return {split: self._generate_examples(maze, split) for split in SPLITS}

  def _generate_examples(self, maze: law.Maze, split: str):
    config = self.builder_config
    plans = law.FittingPlans(
      maze,
      law.problems(maze, config.subgoals, split, config.maze_seed),
      max_length=config.max_length,
      count=num_examples(config, split),
    )
    key = -1
    for key, plan in enumerate(plans):
      yield (
        key,
        {
          "tokens": np.array(plan.path, np.int32),
          "subgoal_index": np.array(plan.index, np.int32),
        },
      )
    if key < 0:
      raise InputError(
        f"no {split} problem has a path of at most max_length="
        f"{config.max_length}: raise it."
      )
    self.info.metadata["skipped"][split] = plans.skipped
