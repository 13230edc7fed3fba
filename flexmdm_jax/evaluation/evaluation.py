"""Evaluations: measurements of a trained run on held-out records.

Each is a small frozen dataclass, which holds its own options and is called on
a run. Another is another subclass of `Evaluation`.
"""

import abc
from typing import Any

import jax
from jaxtyping import Array, Key

from flexmdm_jax.data.splits import require_split
from flexmdm_jax.errors import InputError
from flexmdm_jax.evaluation.samples import Records, held_out
from flexmdm_jax.models.denoiser import ModelDenoiser
from flexmdm_jax.runs import Run
from flexmdm_jax.tasks import Task


class Evaluation(abc.ABC):
  """Measurement with its options."""

  @abc.abstractmethod
  def __call__(
    self,
    run: Run,
    denoiser: ModelDenoiser | None,
    records: Records,
    key: Key[Array, ""],
    batch_size: int,
  ) -> dict[str, Any]:
    """Measures a run, and returns the numbers JSON-ready.

    Args:
      run: what was trained, and how to sample.
      denoiser: the EMA parameters of the run; None where the samples of a file
        are judged.
      records: held-out records.
      key: one key, of all that is random.
      batch_size: rows at once; changes nothing but the memory and the speed.

    Raises:
      InputError: the run or the records do not allow it.
    """


def evaluate(
  evaluation: Evaluation,
  run: Run,
  denoiser: ModelDenoiser | None,
  *,
  num: int,
  split: str = "test",
  seed: int = 0,
  batch_size: int = 256,
) -> dict[str, Any]:
  """Evaluates a trained model on held-out records.

  Args:
    evaluation: what to measure.
    run: what was trained, and how to sample.
    denoiser: EMA parameters of the run; None where the samples of a file are
      judged.
    num: number of records, or of samples to make; all there are if fewer.
    split: the split that records are from; "test/NAME" is a source's of a
      mixture.
    seed: seed of the key.
    batch_size: rows at once; changes nothing but the memory and the speed.

  Returns:
    What the evaluation returns, with `split` and the `num` of records.

  Raises:
    InputError: num < 1, an unknown split, or as `evaluation`.
  """
  if num < 1:
    raise InputError(f"num={num} must be at least 1.")
  require_split(split.partition("/")[0])
  records = held_out(run, num, split)
  key = jax.random.key(seed)
  return {
    "split": split,
    "num": len(records),
    **evaluation(run, denoiser, records, key, batch_size),
  }


def require_task(run: Run, kind: type[Task], name: str, what: str) -> None:
  """Refuses a run on data that an evaluation cannot measure.

  Args:
    run: the run.
    kind: class that its task must have.
    name: name of the evaluation.
    what: the data that it needs, in words.

  Raises:
    InputError: the run's task is of another class.
  """
  if not isinstance(run.task, kind):
    raise InputError(
      f"{name} needs {what}, but this run is on {run.config['data']['name']}."
    )
