r"""Judges: from rows to problems, and from a model's texts to scores.

Each is a small frozen dataclass that holds its options, and needs no model:

  judge = Infilling()
  (hole,) = judge.problems(row, "row 1")
  judge.score(hole, "    return x\n")
"""

import abc
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol


class Problem(Protocol):
  """What a model is to solve.

  Attributes:
    id: name that no other problem of the same rows has.
    solution: text that solves it; None where none is known.
  """

  id: str
  solution: str | None


class Score(Protocol):
  """What is known of one text; a named tuple, whose other fields are measures.

  Attributes:
    passes: whether it solves the problem; None where nothing can tell.
    reason: why, in words that can be counted.
  """

  passes: bool | None
  reason: str


class Given(NamedTuple):
  """What a model is shown of a problem.

  Attributes:
    prefix: the text before what it writes.
    suffix: the text behind it; None where it decides the end.
  """

  prefix: str
  suffix: str | None = None


class Judge(abc.ABC):
  """Way to make problems of rows, and to score texts."""

  @abc.abstractmethod
  def problems(self, row: Mapping[str, Any], name: str) -> list[Problem]:
    """Makes the problems of a row.

    Args:
      row: the row, as JSON has it.
      name: id of the problem, unless the row has a `task_id` or an `id`.

    Raises:
      ValueError: the row is malformed; says how.
    """

  @abc.abstractmethod
  def given(self, problem: Problem) -> Given:
    """Returns what a model is shown of a problem."""

  @abc.abstractmethod
  def scores(
    self, problems: Sequence[Problem], texts: Sequence[str]
  ) -> Iterator[Score]:
    """Scores a text of each problem, in order.

    Args:
      problems: N problems, of which some may be the same.
      texts: N texts that a model wrote, without what it was shown.

    Raises:
      InputError: this machine cannot judge.
    """

  @abc.abstractmethod
  def require(self) -> None:
    """Refuses, before any work, a machine that cannot judge.

    Raises:
      InputError: it says what is missing.
    """

  def score(self, problem: Problem, text: str) -> Score:
    """Scores one text; see `scores`."""
    (found,) = self.scores([problem], [text])
    return found


def row_id(row: Mapping[str, Any], name: str) -> str:
  """Returns a row's own `task_id` or `id`, or else `name`."""
  for key in ("task_id", "id"):
    if isinstance(row.get(key), str | int):
      return str(row[key])
  return name


def text_of(row: Mapping[str, Any], key: str, *, empty: bool = False) -> str:
  """Returns a text of a row.

  Args:
    row: the row.
    key: the text's key.
    empty: whether it may be blank.

  Raises:
    ValueError: it is missing, no text, blank, or holds half a character.
  """
  if key not in row:
    raise ValueError(f"the key {key!r} is missing")
  text = row[key]
  if not isinstance(text, str):
    raise ValueError(f"{key!r} must be a text, not {type(text).__name__}")
  if not empty and not text.strip():
    raise ValueError(f"{key!r} is blank")
  try:
    text.encode()
  except UnicodeError as error:
    raise ValueError(f"{key!r} holds half of a surrogate pair") from error
  return text
