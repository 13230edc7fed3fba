"""The task of balanced brackets, from nothing."""

import functools
from collections.abc import Mapping
from typing import Any

from flexmdm_jax.tasks.brackets import law
from flexmdm_jax.tasks.task import SequenceTask, computed_records


class BracketTask(SequenceTask):
  """Balanced words of brackets.

  Attributes:
    kinds: number of kinds of bracket.
  """

  def __init__(self, method: str, data: Mapping[str, Any]):
    """Checks the settings: `kinds`, `data_seed`, `num_train`, `num_eval`."""
    from flexmdm_jax.tasks.brackets import dataset  # takes seconds

    super().__init__(method, data)
    self.kinds = data["kinds"]
    config = dataset.BracketConfig(
      kinds=data["kinds"],
      data_seed=data["data_seed"],
      num_train=data["num_train"],
      num_eval=data["num_eval"],
    )
    self._make_builder = functools.partial(dataset.Brackets, config=config)
    self.vocab = law.bracket_vocab(data["kinds"])

  def records(self, split):
    return computed_records(self._make_builder, self._data, split)
