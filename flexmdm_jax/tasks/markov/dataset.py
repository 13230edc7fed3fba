"""Sequences of a hidden Markov language as a TFDS data set.

Importing this takes seconds (tensorflow_datasets); it needs no TensorFlow.
"""

import dataclasses
from typing import ClassVar

import tensorflow_datasets as tfds

from flexmdm_jax import schema
from flexmdm_jax.data.splits import SPLITS
from flexmdm_jax.data.synthetic import SequenceBuilder
from flexmdm_jax.schema import count, require, setting
from flexmdm_jax.tasks.markov.law import MarkovLanguage


@dataclasses.dataclass(eq=False, kw_only=True)
class MarkovConfig(tfds.core.BuilderConfig):
  """Settings of `Markov`; the name, and so the folder, follows from them.

  Attributes:
    symbols, phases, mean_length, max_length: settings of `MarkovLanguage`.
    seed: seed of the language, and of the draws.
    num_train: number of training sequences.
    num_eval: number of validation sequences, and of test sequences.

  Raises:
    InputError: a number is out of range.
  """

  name: str = dataclasses.field(default="", init=False)
  symbols: int = count(8)
  phases: int = count(4)
  mean_length: float = setting(40.0, above=0)
  max_length: int = count(96, least=2)
  seed: int = schema.seed(0)
  num_train: int = count(100_000)
  num_eval: int = count(1000)

  def __post_init__(self):
    require(self, "data")
    self.language()  # raises likewise
    self.name = (
      f"symbols{self.symbols}_phases{self.phases}"
      f"_mean{float(self.mean_length)}_length{self.max_length}"
      f"_seed{self.seed}_train{self.num_train}_eval{self.num_eval}"
    )

  def language(self) -> MarkovLanguage:
    """Makes the law of all the sequences."""
    return MarkovLanguage(
      symbols=self.symbols,
      phases=self.phases,
      mean_length=self.mean_length,
      max_length=self.max_length,
      seed=self.seed,
    )


class Markov(SequenceBuilder):
  """Sequences of a hidden Markov language; records hold `tokens` int32[n].

  Splits are independent draws, so that each has the law of the language. They
  may share short sequences: apart by content, none would have that law.
  """

  about: ClassVar = dict(description="Sequences of a hidden Markov language.")

  def _sequences(self, split, count):
    # Seed 0 is left to `MarkovLanguage.entropy`.
    return self.builder_config.language().draw(count, 1 + SPLITS.index(split))
