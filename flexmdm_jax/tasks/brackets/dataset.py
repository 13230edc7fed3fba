"""Words of brackets as a TFDS data set: prepared once, then read at random.

Importing this takes seconds (tensorflow_datasets); it needs no TensorFlow.
"""

import dataclasses
import itertools
from typing import ClassVar

import tensorflow_datasets as tfds

from flexmdm_jax import schema
from flexmdm_jax.data.synthetic import (
  CITATION,
  SequenceBuilder,
)
from flexmdm_jax.schema import count, require, setting
from flexmdm_jax.tasks.brackets import law


@dataclasses.dataclass(eq=False, kw_only=True)
class BracketConfig(tfds.core.BuilderConfig):
  """Settings of `Brackets`; the name, and so the folder, follows from them.

  Attributes:
    kinds: number of kinds of bracket, 2 to 4.
    data_seed: seed of the draws.
    num_train: number of training words.
    num_eval: number of validation words, and of test words.

  Raises:
    InputError: a number is out of range.
  """

  name: str = dataclasses.field(default="", init=False)
  kinds: int = setting(law.MAX_KINDS, least=2, most=law.MAX_KINDS)
  data_seed: int = schema.seed(0)
  num_train: int = count(100_000)
  num_eval: int = count(1000)

  def __post_init__(self):
    require(self, "data")
    self.name = (
      f"kinds{self.kinds}_seed{self.data_seed}"
      f"_train{self.num_train}_eval{self.num_eval}"
    )


class Brackets(SequenceBuilder):
  """Balanced words of brackets; records hold `tokens` int32[n]."""

  about: ClassVar = dict(
    description="Balanced words of brackets of several kinds.",
    homepage="https://arxiv.org/abs/2509.01025",
    citation=CITATION,
  )

  def _sequences(self, split, count):
    config = self.builder_config
    words = law.words(split, config.data_seed, config.kinds)
    return itertools.islice(words, count)
