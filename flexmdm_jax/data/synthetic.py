"""Computed data sets for TFDS: prepared once, then read at random.

Each toy task has a builder of its own, in its folder of `tasks`.

Importing this takes seconds (tensorflow_datasets); it needs no TensorFlow.
"""

import abc
import contextlib
import io
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import ClassVar

import numpy as np
import tensorflow_datasets as tfds

from flexmdm_jax.data.splits import SPLITS, require_split
from flexmdm_jax.errors import InputError

CITATION = "Any-Order Flexible Length Masked Diffusion, arXiv 2509.01025"


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
  """Keeps TFDS's progress bars and warnings off the terminal, but no error."""
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


class SyntheticBuilder(tfds.core.GeneratorBasedBuilder):
  """Builder of a data set that is computed, not downloaded."""

  VERSION = tfds.core.Version("1.0.0")
  # No checksums: in looking for their file, TFDS 4.9.10 imports
  # importlib_resources, which it does not install.
  url_infos = None

  def __init__(self, *, config: tfds.core.BuilderConfig, data_dir):
    """Makes a builder; in `data_dir` each data set gets a folder."""
    with _quiet():  # it warns of every config that is not in a fixed list
      super().__init__(config=config, data_dir=data_dir)


class SequenceBuilder(SyntheticBuilder):
  """Builder of a data set of sequences; records hold `tokens` int32[n].

  Attributes:
    about: fields of `DatasetInfo` that describe the data set in words.
  """

  about: ClassVar[Mapping[str, str]]

  @abc.abstractmethod
  def _sequences(self, split: str, count: int) -> Iterable[np.ndarray]:
    """Computes the `count` sequences of a split, int32[n] each."""

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
    count = num_examples(self.builder_config, split)
    for key, tokens in enumerate(self._sequences(split, count)):
      yield key, {"tokens": tokens}


def num_examples(config: tfds.core.BuilderConfig, split: str) -> int:
  """Number of examples of a split that a config asks for."""
  return config.num_train if split == "train" else config.num_eval


def prepare(builder: tfds.core.GeneratorBasedBuilder) -> None:
  """Writes the data set to its folder unless it is there; prints nothing.

  TFDS writes beside the folder and renames at the end: what an interrupted
  preparation left is never read, the next one starts again, and of several
  processes at once the first to finish wins.

  Args:
    builder: a `SyntheticBuilder`.

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
    asked = num_examples(builder.builder_config, split)
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
  """Opens the records of a split, in an order that never changes, for Grain.

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
  """Opens the records of a split, after preparing the data set if needed.

  Raises:
    InputError: `prepare` or `open_split` refuses.
  """
  prepare(builder)
  return open_split(builder, split)


def _is_prepared(builder: tfds.core.GeneratorBasedBuilder) -> bool:
  with _quiet():
    return builder.is_prepared()
