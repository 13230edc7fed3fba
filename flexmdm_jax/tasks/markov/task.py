"""The task of a hidden Markov language, from nothing."""

import functools
from collections.abc import Mapping
from typing import Any

from flexmdm_jax.tasks.task import SequenceTask, computed_records


class MarkovTask(SequenceTask):
  """Sequences of a hidden Markov language.

  Attributes:
    language: the law of the sequences.
  """

  def __init__(self, method: str, data: Mapping[str, Any]):
    """Checks the settings: those of `MarkovConfig`, by its names."""
    from flexmdm_jax.tasks.markov import dataset  # takes seconds

    super().__init__(method, data)
    config = dataset.MarkovConfig(
      symbols=data["symbols"],
      phases=data["phases"],
      mean_length=data["mean_length"],
      max_length=data["max_length"],
      seed=data["seed"],
      num_train=data["num_train"],
      num_eval=data["num_eval"],
    )
    self._make_builder = functools.partial(dataset.Markov, config=config)
    self.language = config.language()
    self.vocab = self.language.vocab

  def records(self, split):
    return computed_records(self._make_builder, self._data, split)
