"""Records to evaluate on, and the samples that an evaluation judges."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Array, Key

from flexmdm_jax.errors import InputError
from flexmdm_jax.models.denoiser import ModelDenoiser
from flexmdm_jax.reading import read_json_lines
from flexmdm_jax.runs import Run
from flexmdm_jax.vocab import Vocab

# Held-out records of a data set, as `Task.records` has them.
Records = Sequence[Mapping[str, Any]]


def held_out(
  run: Run, num: int, split: str = "test"
) -> list[Mapping[str, Any]]:
  """Takes `num` records of a split, or all there are if fewer.

  They are spread evenly over it, as its order may mean something.
  """
  source = run.task.records(split)
  num = min(num, len(source))
  return [source[i * len(source) // num] for i in range(num)]


def sequences_of(records: Records) -> list[list[int]]:
  """Returns the tokens of each record."""
  return [[int(token) for token in record["tokens"]] for record in records]


def read_or_make(
  path: str | pathlib.Path | None,
  run: Run,
  denoiser: ModelDenoiser | None,
  records: Records,
  key: Key[Array, ""],
  batch_size: int,
) -> tuple[list[list[int]], float | None]:
  """Reads the samples of a file, or makes them where there is none.

  Args:
    path: file to read, as for `read_samples`; None makes samples.
    run: what was trained, and how to sample.
    denoiser: EMA parameters of the run; None where a file is read.
    records: held-out records; one sample is made for each.
    key: one key.
    batch_size: rows at once.

  Returns:
    The sequences, and the share of them that ran out of room.

  Raises:
    InputError: as `read_samples` and `make_samples`.
  """
  if path is not None:
    return read_samples(path, run.task.vocab)
  return make_samples(run, denoiser, records, key, batch_size)


def make_samples(
  run: Run,
  denoiser: ModelDenoiser,
  records: Records,
  key: Key[Array, ""],
  batch_size: int,
) -> tuple[list[list[int]], float]:
  """Makes one sample for each record.

  Args:
    run: what was trained, and how to sample.
    denoiser: EMA parameters of the run.
    records: held-out records; what a task takes from them, it starts from.
    key: one key.
    batch_size: rows at once.

  Returns:
    The sequences, and the share of them that ran out of room.

  Raises:
    InputError: batch_size < 1.
  """
  task = run.task
  samples = run.sample(key, denoiser, task.start(records), batch_size)
  sequences = task.decode(samples.tokens, samples.length)
  return sequences, float(np.mean(samples.truncated))


def read_samples(
  path: str | pathlib.Path, vocab: Vocab
) -> tuple[list[list[int]], float | None]:
  """Reads a file that `experiments.sample` wrote.

  Args:
    path: JSON lines, each with "tokens" and perhaps "truncated".
    vocab: the id space.

  Returns:
    The sequences, and the share of them that ran out of room; None if a line
    does not say.

  Raises:
    InputError: the file cannot be read or is empty, or a line does not hold
      ids of the vocabulary.
  """
  keys = {"tokens": list, "truncated": (bool, type(None))}
  fix = "give samples of experiments.sample"
  sequences, truncated = [], []
  for number, row in read_json_lines(path, keys, fix):
    for token in row["tokens"]:
      if type(token) is not int or not 0 <= token < vocab.size:
        raise InputError(
          f"samples={path}: line {number} has the token {token!r}, which is no"
          f" id in [0, {vocab.size - 1}]: {fix} on the same data."
        )
    sequences.append(row["tokens"])
    truncated.append(row.get("truncated"))
  if not sequences:
    raise InputError(f"samples={path} is empty: give at least one sample.")
  share = None if None in truncated else float(np.mean(truncated))
  return sequences, share
