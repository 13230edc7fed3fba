"""Files of problems and answers: what is read, skipped and refused."""

import gzip
import json

import pytest

from flexmdm_jax.errors import InputError
from flexmdm_jax.evaluation.infilling import Infilling
from flexmdm_jax.evaluation.problems import (
  ProblemSet,
  file_rows,
  given_answers,
  plain_rows,
  require_ks,
)
from flexmdm_jax.evaluation.programs import Programs

ROWS = [
  {"prompt": "a = ", "canonical_solution": "1", "suffix": "\n"},
  {"task_id": "b", "prompt": "b", "canonical_solution": "", "suffix": ""},
]


def write(path, lines):
  text = "".join(
    (line if isinstance(line, str) else json.dumps(line)) + "\n"
    for line in lines
  )
  opened = gzip.open if path.suffix == ".gz" else open
  with opened(path, "wt") as file:
    file.write(text)
  return str(path)


def read(path, malformed="stop"):
  return ProblemSet(Infilling(), file_rows(path), malformed)


def test_rows_of_files_become_problems(tmp_path):
  path = write(tmp_path / "a.jsonl.gz", [ROWS[0], "", ROWS[1]])
  found = read(path)
  assert [problem.id for problem in found.problems] == ["a.jsonl.gz:1", "b"]
  assert not found.left_out
  plain = read(write(tmp_path / "b.jsonl", [ROWS[1]]))
  assert plain.digest() != found.digest()
  assert read(path).digest() == found.digest()


@pytest.mark.parametrize(
  ("line", "why"),
  [
    ("{", "not_json"),
    ("[1]", "no_text"),
    ({**ROWS[0], "suffix": None}, "'suffix' must be a text, not NoneType"),
    (ROWS[1], "the id 'b' comes twice"),
    ({**ROWS[0], "id": "x" * 201}, "longer than 200"),
  ],
)
def test_a_malformed_row_stops_or_is_skipped(tmp_path, line, why):
  path = write(tmp_path / "a.jsonl", [*ROWS, line])
  with pytest.raises(InputError, match="line 3: ") as error:
    read(path)
  assert why in str(error.value) and "malformed=skip" in str(error.value)
  found = read(path, "skip")
  assert len(found.problems) == 2
  assert found.left_out["malformed"] == 1


def test_files_without_problems_are_refused(tmp_path):
  with pytest.raises(InputError, match="no file matches"):
    read(str(tmp_path / "none.jsonl"))
  path = write(tmp_path / "a.jsonl", ["{"])
  with pytest.raises(InputError, match="no problem among the rows"):
    read(path, "skip")
  with pytest.raises(InputError, match="malformed='drop' must be one of"):
    read(path, "drop")


def test_answers_are_found_by_id(tmp_path):
  found = read(write(tmp_path / "a.jsonl", ROWS))
  path = write(
    tmp_path / "answers.jsonl", [{"id": "b", "texts": ["x", "y", "z"]}]
  )
  assert given_answers(found, path, 2) == {1: ["x", "y"]}
  assert found.left_out["unanswered"] == 1
  assert given_answers(found, "empty", 1) == {0: [""], 1: [""]}
  assert given_answers(found, "reference", 2) == {0: ["1"] * 2, 1: [""] * 2}
  row = {"prompt": "a", "test": "b", "entry_point": "c"}
  unsolved = ProblemSet(Programs(), plain_rows([(7, row)]))
  with pytest.raises(InputError, match="row 7 has no reference"):
    given_answers(unsolved, "reference", 1)


@pytest.mark.parametrize(
  ("lines", "why"),
  [
    ([], "is empty"),
    ([{"id": "c", "texts": ["x"]}], "line 1 is of 'c', which is no row's id"),
    ([{"id": "b", "texts": ["x"]}] * 2, "line 2 is of 'b', which comes twice"),
    ([{"id": "b", "texts": []}], "line 1 has 0 texts"),
    ([{"id": "b", "texts": [3]}], "line 1 has texts that are none"),
    ([{"id": "b"}], "line 1: the key 'texts' is missing"),
  ],
)
def test_wrong_answers_are_refused(tmp_path, lines, why):
  found = read(write(tmp_path / "a.jsonl", ROWS))
  with pytest.raises(InputError, match=why):
    given_answers(found, write(tmp_path / "answers.jsonl", lines), 1)


def test_k_needs_as_many_samples():
  require_ks([1, 10], 10)
  with pytest.raises(InputError, match="k=10 needs as many samples of a row"):
    require_ks([1, 10], 9)
