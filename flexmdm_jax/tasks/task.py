"""Task: a data set in the layout of a method."""

import abc
import functools
import os
import pathlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from flexmdm_jax.errors import InputError
from flexmdm_jax.rows import Layout, Rows, sequence_layout, stack
from flexmdm_jax.schema import MAX_COUNT, Range, require_value
from flexmdm_jax.vocab import Vocab


class Task(abc.ABC):
  """A data set in the layout of a method.

  Attributes:
    methods: methods that can be trained on this data set.
    method: the method chosen.
    vocab: the id space.
    max_length: L, the positions of an example.
    buckets: lengths of sequences by which they may be batched; none if empty.
  """

  methods: tuple[str, ...]
  method: str
  vocab: Vocab
  max_length: int
  buckets: tuple[int, ...] = ()

  @property
  def inserts(self) -> bool:
    """Tells whether the model decides the length, by insertions."""
    return self.method == "flexmdm"

  @property
  def causal(self) -> bool:
    """Tells whether the model reads from left to right."""
    return self.method == "autoregressive"

  @functools.cached_property
  @abc.abstractmethod
  def layout(self) -> Layout:
    """Layout of `method`."""

  @abc.abstractmethod
  def records(self, split: str) -> Sequence[Mapping[str, Any]]:
    """Opens the records of a split; prepares the data set on first use."""

  @abc.abstractmethod
  def encode(self, record: Mapping[str, np.ndarray]) -> Rows:
    """Makes the training example of a record."""

  @abc.abstractmethod
  def start(self, records: Sequence[Mapping[str, np.ndarray]]) -> Rows:
    """Makes the rows that sampling starts from to solve, or match, records."""

  def variants(self) -> dict[str, "Task"]:
    """Lists the ways to start of one trained model; usually one, named ""."""
    return {"": self}

  def decode(self, tokens: np.ndarray, length: np.ndarray) -> list[list[int]]:
    """Reads the sequences of samples, without padding or prefix."""
    return [
      self.layout.decode(row, int(n))
      for row, n in zip(np.asarray(tokens), np.asarray(length), strict=True)
    ]

  def encode_text(self, text: str) -> list[int]:
    """Tokenises a prompt: here, reads ids separated by spaces."""
    return parse_ids(text)

  @property
  def around(self) -> tuple[list[int], list[int]]:
    """Ids before what is given of a row, and between that and an answer."""
    return [], []

  def to_text(self, tokens: Iterable[int]) -> str | None:
    """Decodes a sequence to text; None where tokens are no text."""
    del tokens
    return None


class SequenceTask(Task):
  """Task of unconditional sequences, which start from nothing.

  A subclass sets `vocab` and `records`.
  """

  methods = ("flexmdm", "mdm", "autoregressive")

  def __init__(self, method: str, data: Mapping[str, Any]):
    """Checks the method; `data` is the part of a config with that name."""
    self.method = require_method(method, self.methods)
    require_value("data.folder", data.get("folder"), str)
    most = Range(least=1, most=MAX_COUNT)
    require_value("data.max_length", data.get("max_length"), int, most)
    self._data = dict(data)

  @property
  def max_length(self):
    return self.layout.max_length

  @functools.cached_property
  def layout(self):
    return sequence_layout(self.method, self.vocab, self._data["max_length"])

  def encode(self, record):
    return self.layout.encode(record["tokens"])

  def start(self, records):
    return stack(self.layout.start() for _ in records)


def computed_records(
  make_builder: Callable[..., Any], data: Mapping[str, Any], split: str
) -> Sequence[Mapping[str, np.ndarray]]:
  """Opens a split of a computed data set, which is prepared on first use.

  Args:
    make_builder: makes its `SyntheticBuilder`, given `data_dir`.
    data: the settings, of which `folder` says where data sets are kept.
    split: see `synthetic.open_split`.

  Raises:
    InputError: as `synthetic.prepared_split`.
  """
  from flexmdm_jax.data.synthetic import prepared_split  # takes seconds

  folder = data_folder(data["folder"])
  return prepared_split(make_builder(data_dir=folder), split)


def parse_ids(text: str) -> list[int]:
  """Reads the ids in a text of numbers separated by spaces or commas."""
  try:
    return [int(word) for word in text.replace(",", " ").split()]
  except ValueError as error:
    raise InputError(
      f"{text!r} is not a list of token ids: separate integers by spaces."
    ) from error


def require_method(method: str, methods: Sequence[str]) -> str:
  """Returns `method` if it is one of `methods`, else raises InputError."""
  if method not in methods:
    raise InputError(
      f"method={method!r} is unknown for this data: choose one of"
      f" {', '.join(methods)}."
    )
  return method


def data_folder(folder: str) -> str:
  """Makes a folder of data sets absolute, with `~` expanded."""
  return str(pathlib.Path(os.path.expanduser(folder)).absolute())
