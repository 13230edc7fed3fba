"""Files of problems, and of answers to them."""

import hashlib
import json
import pathlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from flexmdm_jax import schema
from flexmdm_jax.data.documents import Files
from flexmdm_jax.errors import InputError, first_line
from flexmdm_jax.evaluation.judge import Judge, Problem
from flexmdm_jax.reading import read_json_lines
from flexmdm_jax.schema import Range, require_value

MALFORMED = ("stop", "skip")
# Names of rows in files are short; these are shown in errors.
_ID_CHARACTERS = 200

# Place of a row for errors, its name, the row, and what is wrong with its line.
_Rows = Iterable[tuple[str, str, Mapping[str, Any], str | None]]


class ProblemSet:
  """Problems of a judge, none of which is named twice.

  Attributes:
    judge: the judge.
    problems: the problems.
    left_out: numbers of rows that were left out, by the reason.
  """

  def __init__(self, judge: Judge, rows: _Rows, malformed: str = "stop"):
    """Makes the problems of rows.

    Args:
      judge: the judge.
      rows: rows with their places, as `file_rows` and `plain_rows` make them.
      malformed: "stop" refuses a malformed row, "skip" leaves it out.

    Raises:
      InputError: a row is malformed, or there is no row.
    """
    require_value("malformed", malformed, str, Range(among=MALFORMED))
    self.judge = judge
    self.malformed = malformed
    self.problems: list[Problem] = []
    self.left_out: Counter[str] = Counter()
    names = set()
    for place, name, row, fault in rows:
      try:
        if fault:
          raise ValueError(f"no row ({fault})")
        found = judge.problems(row, name)
        for problem in found:
          if len(problem.id) > _ID_CHARACTERS:
            raise ValueError(f"its id is longer than {_ID_CHARACTERS}")
          if problem.id in names:
            raise ValueError(f"the id {problem.id!r} comes twice")
          names.add(problem.id)
        self.problems += found
      except ValueError as error:
        self.refuse(place, error)
    if not self.problems:
      raise InputError(
        f"there is no problem among the rows ({dict(self.left_out)}): give rows"
        " of the task."
      )

  def refuse(self, place: str, why: Exception) -> None:
    """Refuses a malformed row, or counts it where such rows are skipped.

    Raises:
      InputError: such rows are not skipped.
    """
    if self.malformed == "stop":
      raise InputError(
        f"{place}: {first_line(why).rstrip('.')}: put it right, or leave such"
        " rows out by malformed=skip."
      ) from why
    self.left_out["malformed"] += 1

  def digest(self) -> str:
    """Hashes all problems."""
    return _hash([list(problem) for problem in self.problems])


def file_rows(patterns: str) -> _Rows:
  """Reads rows of JSONL files, compressed ones too.

  Args:
    patterns: paths and glob patterns, separated by commas.

  Raises:
    InputError: no file matches, or one cannot be read.
  """
  for path, number, row, fault in Files.find(patterns).numbered():
    yield f"{path}: line {number}", f"{path.name}:{number}", row, fault


def plain_rows(rows: Iterable[tuple[int, Mapping[str, Any]]]) -> _Rows:
  """Names rows by their numbers."""
  for number, row in rows:
    yield f"row {number}", str(number), row, None


def given_answers(
  found: ProblemSet, source: str, samples_per_row: int
) -> dict[int, list[str]]:
  """Finds answers that no model makes now.

  Args:
    found: the problems.
    source: "reference" for the solutions, "empty" for empty texts, or a JSONL
      file, whose lines have the `id` of a problem and `texts`, as the file of
      rows that an evaluation writes.
    samples_per_row: n, the number of texts of each; more of them are left out.

  Returns:
    n texts of each problem that has some, by its place among the problems.

  Raises:
    InputError: a problem has no reference; or the file cannot be read, names a
      problem that is none, or one twice, or has too few texts of one.
  """
  problems = found.problems
  if source == "empty":
    return {i: [""] * samples_per_row for i in range(len(problems))}
  if source == "reference":
    for problem in problems:
      if problem.solution is None:
        raise InputError(
          f"row {problem.id} has no reference solution: give texts."
        )
    return {i: [x.solution] * samples_per_row for i, x in enumerate(problems)}
  places = {problem.id: i for i, problem in enumerate(problems)}
  answers: dict[int, list[str]] = {}
  for place, id_, texts in _answer_lines(source):
    if id_ not in places:
      raise InputError(f"{place} is of {id_!r:.60}, which is no row's id.")
    if places[id_] in answers:
      raise InputError(f"{place} is of {id_!r:.60}, which comes twice.")
    if len(texts) < samples_per_row:
      raise InputError(
        f"{place} has {len(texts)} texts, but samples_per_row="
        f"{samples_per_row}: give as many."
      )
    answers[places[id_]] = texts[:samples_per_row]
  found.left_out["unanswered"] += len(problems) - len(answers)
  if not answers:
    raise InputError(f"{source} is empty: give the texts of a row a line.")
  return answers


def require_ks(ks: Sequence[int], samples_per_row: int) -> None:
  """Refuses a k of pass@k for which there are too few samples.

  Raises:
    InputError: it is above `samples_per_row`, or below 1.
  """
  for k in ks:
    schema.require_value("k", k, int, Range(least=1))
    if k > samples_per_row:
      raise InputError(
        f"k={k} needs as many samples of a row, but samples_per_row="
        f"{samples_per_row}: set it to {k} at least."
      )


def _answer_lines(source: str) -> Iterator[tuple[str, str, list[str]]]:
  keys = {"id": str, "texts": list}
  fix = "give lines with id and texts, as an evaluation writes them"
  for number, line in read_json_lines(pathlib.Path(source), keys, fix):
    place = f"{source}: line {number}"
    if not all(isinstance(text, str) for text in line["texts"]):
      raise InputError(f"{place} has texts that are none: {fix}.")
    yield place, line["id"], line["texts"]


def answers_digest(answers: Mapping[int, Sequence[str]]) -> str:
  """Hashes answers."""
  return _hash(sorted(answers.items()))


def _hash(content: Any) -> str:
  return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]
