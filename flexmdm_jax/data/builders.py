"""The toy tasks as TFDS data sets: prepared once, then read at random.

Importing this takes seconds (tensorflow_datasets); it needs no TensorFlow.
"""

import abc
import contextlib
import dataclasses
import io
import itertools
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import ClassVar

import numpy as np
import tensorflow_datasets as tfds

from flexmdm_jax.data import brackets, mazes
from flexmdm_jax.data.markov import MarkovLanguage
from flexmdm_jax.data.splits import SPLITS, require_split
from flexmdm_jax.errors import InputError

_SOURCE = "Any-Order Flexible Length Masked Diffusion, arXiv 2509.01025"


@dataclasses.dataclass(eq=False, kw_only=True)
class MazeConfig(tfds.core.BuilderConfig):
  """Settings of `Mazes`; the name, and so the folder, follows from them.

  Attributes:
    size: rows, and columns, of the maze; odd, at least 5.
    seed: of the maze, and of the order in which problems are drawn.
    subgoals: K, start and goal included; at least 2.
    max_length: tokens of the longest path kept.
    num_train: training problems, or all that exist if they are fewer.
    num_eval: validation problems, and test problems; likewise.

  Raises:
    InputError: a number is out of range.
  """

  name: str = dataclasses.field(default="", init=False)
  size: int = 41
  seed: int = 0
  subgoals: int = 2
  max_length: int = 256
  num_train: int = 100_000
  num_eval: int = 1000

  def __post_init__(self):
    _require_positive(self, "max_length", "num_train", "num_eval")
    # Raises if size, seed or subgoals are out of range.
    mazes.problems(self.maze(), self.subgoals, "train", self.seed)
    self.name = (
      f"size{self.size}_seed{self.seed}_subgoals{self.subgoals}"
      f"_length{self.max_length}_train{self.num_train}_eval{self.num_eval}"
    )

  def maze(self) -> mazes.Maze:
    """The maze of all the problems."""
    return mazes.Maze(mazes.make_maze(self.size, self.seed))


@dataclasses.dataclass(eq=False, kw_only=True)
class BracketConfig(tfds.core.BuilderConfig):
  """Settings of `Brackets`; the name, and so the folder, follows from them.

  Attributes:
    kinds: kinds of bracket, 2 to 4.
    seed: of the draws.
    num_train: training words.
    num_eval: validation words, and test words.

  Raises:
    InputError: a number is out of range.
  """

  name: str = dataclasses.field(default="", init=False)
  kinds: int = brackets.MAX_KINDS
  seed: int = 0
  num_train: int = 100_000
  num_eval: int = 1000

  def __post_init__(self):
    _require_positive(self, "num_train", "num_eval")
    brackets.words("train", self.seed, self.kinds)  # raises likewise
    self.name = (
      f"kinds{self.kinds}_seed{self.seed}"
      f"_train{self.num_train}_eval{self.num_eval}"
    )


@dataclasses.dataclass(eq=False, kw_only=True)
class MarkovConfig(tfds.core.BuilderConfig):
  """Settings of `Markov`; the name, and so the folder, follows from them.

  Attributes:
    symbols, phases, mean_length, max_length: of the `MarkovLanguage`.
    seed: of the language, and of the draws.
    num_train: training sequences.
    num_eval: validation sequences, and test sequences.

  Raises:
    InputError: a number is out of range.
  """

  name: str = dataclasses.field(default="", init=False)
  symbols: int = 8
  phases: int = 4
  mean_length: float = 40.0
  max_length: int = 96
  seed: int = 0
  num_train: int = 100_000
  num_eval: int = 1000

  def __post_init__(self):
    _require_positive(self, "num_train", "num_eval")
    self.language()  # raises likewise
    self.name = (
      f"symbols{self.symbols}_phases{self.phases}"
      f"_mean{float(self.mean_length)}_length{self.max_length}"
      f"_seed{self.seed}_train{self.num_train}_eval{self.num_eval}"
    )

  def language(self) -> MarkovLanguage:
    """The law of all the sequences."""
    return MarkovLanguage(
      symbols=self.symbols,
      phases=self.phases,
      mean_length=self.mean_length,
      max_length=self.max_length,
      seed=self.seed,
    )


def _require_positive(config, *names: str) -> None:
  """Raises InputError if one of the named settings is below 1."""
  for name in names:
    if getattr(config, name) < 1:
      raise InputError(f"{name}={getattr(config, name)} must be at least 1.")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
  """Keeps TFDS's progress bars and warnings off the terminal; not errors."""
  logger = logging.getLogger("absl")
  level = logger.level
  logger.setLevel(logging.ERROR)
  try:
    with (
      contextlib.redirect_stdout(io.StringIO()),
      contextlib.redirect_stderr(io.StringIO()),
    ):
      yield
  finally:
    logger.setLevel(level)


class _SyntheticBuilder(tfds.core.GeneratorBasedBuilder):
  """A data set that is computed, not downloaded."""

  VERSION = tfds.core.Version("1.0.0")
  # No checksums: in looking for their file, TFDS 4.9.10 imports
  # importlib_resources, which it does not install.
  url_infos = None

  def __init__(self, *, config: tfds.core.BuilderConfig, data_dir):
    """`data_dir` is the folder in which TFDS makes a folder a data set."""
    with _quiet():  # it warns of every config that is not in a fixed list
      super().__init__(config=config, data_dir=data_dir)


class Mazes(_SyntheticBuilder):
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
      citation=_SOURCE,
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

  def _generate_examples(self, maze: mazes.Maze, split: str):
    config = self.builder_config
    plans = mazes.FittingPlans(
      maze,
      mazes.problems(maze, config.subgoals, split, config.seed),
      max_length=config.max_length,
      count=_count(config, split),
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


class _SequenceBuilder(_SyntheticBuilder):
  """Sequences and nothing else; records hold `tokens` int32[n].

  Attributes:
    about: what `DatasetInfo` tells in words.
  """

  about: ClassVar[Mapping[str, str]]

  @abc.abstractmethod
  def _sequences(self, split: str, count: int) -> Iterable[np.ndarray]:
    """The `count` sequences of a split, int32[n] each."""

  def _info(self) -> tfds.core.DatasetInfo:
    return tfds.core.DatasetInfo(
      builder=self,
      features=tfds.features.FeaturesDict(
        {"tokens": tfds.features.Tensor(shape=(None,), dtype=np.int32)}
      ),
      **self.about,
    )

  def _split_generators(self, dl_manager):
    return {split: self._generate_examples(split) for split in SPLITS}

  def _generate_examples(self, split: str):
    count = _count(self.builder_config, split)
    for key, tokens in enumerate(self._sequences(split, count)):
      yield key, {"tokens": tokens}


class Brackets(_SequenceBuilder):
  """Balanced words of brackets; records hold `tokens` int32[n]."""

  about: ClassVar = dict(
    description="Balanced words of brackets of several kinds.",
    homepage="https://arxiv.org/abs/2509.01025",
    citation=_SOURCE,
  )

  def _sequences(self, split, count):
    config = self.builder_config
    words = brackets.words(split, config.seed, config.kinds)
    return itertools.islice(words, count)


class Markov(_SequenceBuilder):
  """Sequences of a hidden Markov language; records hold `tokens` int32[n].

  Splits are independent draws, so that each has the law of the language. They
  may share short sequences: apart by content, none would have that law.
  """

  about: ClassVar = dict(description="Sequences of a hidden Markov language.")

  def _sequences(self, split, count):
    # Seed 0 is left to `MarkovLanguage.entropy`.
    return self.builder_config.language().draw(count, 1 + SPLITS.index(split))


def _count(
  config: MazeConfig | BracketConfig | MarkovConfig, split: str
) -> int:
  return config.num_train if split == "train" else config.num_eval


def prepare(builder: tfds.core.GeneratorBasedBuilder) -> None:
  """Writes the data set to its folder unless it is there; prints nothing.

  TFDS writes beside the folder and renames at the end: what an interrupted
  preparation left is never read, the next one starts again, and of several
  processes at once the first to finish wins.

  Args:
    builder: a `Mazes`, `Brackets` or `Markov`.

  Raises:
    InputError: the folder cannot be written or is damaged, or hardly any
      problem fits.
  """
  if _is_prepared(builder):
    return
  logging.info("preparing %s", builder.data_dir)
  try:
    with _quiet():
      builder.download_and_prepare(
        download_config=tfds.download.DownloadConfig(try_download_gcs=False),
        file_format="array_record",
      )
  except (OSError, RuntimeError) as error:  # array_record raises the latter
    if _is_prepared(builder):  # by another process, meanwhile
      return
    reason = getattr(error, "strerror", None) or str(error).split(";")[0]
    raise InputError(
      f"cannot write the data set to {builder.data_dir} ({reason}): choose a"
      " data directory that you may write to, with free space."
    ) from error
  if not _is_prepared(builder):
    raise InputError(
      f"the data set in {builder.data_dir} is damaged: remove that folder."
    )
  for split, info in builder.info.splits.items():
    asked = _count(builder.builder_config, split)
    if info.num_examples < asked:
      logging.warning(
        "%s: only %d of %d %s examples exist.",
        builder.name,
        info.num_examples,
        asked,
        split,
      )


def open_split(
  builder: tfds.core.GeneratorBasedBuilder, split: str
) -> Sequence[dict[str, np.ndarray]]:
  """The records of a split, in an order that never changes, for Grain.

  Args:
    builder: a builder whose data set is prepared.
    split: "train", "validation", "test", or a slice: "validation[:50%]".

  Returns:
    A random-access source of dicts of arrays.

  Raises:
    InputError: the data set is not prepared, or has no such split.
  """
  if not _is_prepared(builder):
    raise InputError(
      f"there is no data set in {builder.data_dir}: call prepare first."
    )
  require_split(split.partition("[")[0])
  # Read from the folder: `builder` does not know what another process wrote.
  with _quiet():
    stored = tfds.builder_from_directory(builder.data_dir)
  return stored.as_data_source(split=split)


def prepared_split(
  builder: tfds.core.GeneratorBasedBuilder, split: str
) -> Sequence[dict[str, np.ndarray]]:
  """As `open_split`, after `prepare`; raises as both do."""
  prepare(builder)
  return open_split(builder, split)


def _is_prepared(builder: tfds.core.GeneratorBasedBuilder) -> bool:
  with _quiet():
    return builder.is_prepared()
