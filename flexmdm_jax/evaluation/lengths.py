"""Lengths: the law of the samples' against that of the data's."""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from types import ModuleType

import numpy as np

from flexmdm_jax.errors import InputError
from flexmdm_jax.evaluation.evaluation import Evaluation
from flexmdm_jax.evaluation.samples import read_or_make, sequences_of
from flexmdm_jax.metrics.lengths import length_report
from flexmdm_jax.tasks import BracketTask
from flexmdm_jax.tasks.brackets.law import is_balanced


@dataclasses.dataclass(frozen=True)
class LengthLaw(Evaluation):
  """Length law of samples against that of the data; see `length_report`.

  Of brackets it also tells `balanced`, the share of samples that are.

  Attributes:
    samples: a file that `experiments.sample` wrote, to be judged whole in place
      of new samples; None makes one for each record.
    plots: folder in which to draw lengths.png; None draws nothing.
  """

  samples: str | pathlib.Path | None = None
  plots: str | pathlib.Path | None = None

  def __call__(self, run, denoiser, records, key, batch_size=256):
    task = run.task
    made, truncated = read_or_make(
      self.samples, run, denoiser, records, key, batch_size
    )
    true = sequences_of(records)
    result = {
      "num_samples": len(made),
      **length_report(lengths_of(made), lengths_of(true), task.max_length),
      "truncated": truncated,
    }
    if isinstance(task, BracketTask):
      result["balanced"] = float(
        np.mean([is_balanced(sequence, task.kinds) for sequence in made])
      )
    if self.plots is not None:
      draw_lengths(self.plots, true, {task.method: made})
    return result


def lengths_of(sequences: Sequence[Sequence[int]]) -> list[int]:
  """Returns the length of each sequence."""
  return [len(sequence) for sequence in sequences]


def draw_lengths(
  folder: str | pathlib.Path,
  true: Sequence[Sequence[int]],
  made: Mapping[str, Sequence[Sequence[int]]],
) -> None:
  """Draws the laws of the lengths to lengths.png.

  Args:
    folder: folder of the picture.
    true: sequences of the data.
    made: samples, by name of the model.
  """
  import_figures().plot_length_law(
    pathlib.Path(folder) / "lengths.png",
    np.array(lengths_of(true)),
    {name: np.array(lengths_of(sequences)) for name, sequences in made.items()},
  )


def import_figures() -> ModuleType:
  """Imports `pictures.figures`, which needs Matplotlib, an extra.

  Raises:
    InputError: a package is missing.
  """
  try:
    from flexmdm_jax.pictures import figures
  except ImportError as error:
    raise InputError(
      f"plots need the package {error.name}: pip install 'flexmdm_jax[plots]'."
    ) from error
  return figures
