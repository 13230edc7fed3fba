"""Texts in holes; the scorer is shown to fail what is wrong."""

import pytest

from flexmdm_jax.evaluation.infilling import Infilling
from flexmdm_jax.evaluation.programs import Limits
from flexmdm_jax.tasks.finetune.formats import Cut

ROW = {
  "task_id": "double",
  "prompt": "def double(x):\n",
  "canonical_solution": "  y = 2 * x\n",
  "suffix": "  return y\n",
  "test": "def check(f):\n  assert f(3) == 6\n  assert f(0) == 0\n",
  "entry_point": "double",
}


def hole(**changes):
  row = {key: x for key, x in {**ROW, **changes}.items() if x is not None}
  (found,) = Infilling().problems(row, "line 1")
  return found


def test_the_solution_passes_and_others_do_not():
  texts = {
    "  y = 2 * x\n": "passed",
    "  y = x + x\n": "passed",
    "  y = x * x\n": "error: AssertionError",
    "": "error: NameError: name 'y' is not defined",
    "  while x: pass\n": "timeout",
    "  y = (\n": "does not parse",
  }
  judge = Infilling(Limits(seconds=2))
  scores = list(judge.scores([hole()] * len(texts), list(texts)))
  assert [score.reason for score in scores] == list(texts.values())
  assert [score.passes for score in scores] == [True] * 2 + [False] * 4
  assert [score.exact for score in scores] == [True] + [False] * 5
  assert [score.parses for score in scores] == [True] * 5 + [False]
  assert scores[0].similarity == 1 and scores[3].similarity == 0
  assert scores[1].similarity == pytest.approx(1 - 2 / 12)


def test_without_tests_nothing_passes_or_fails():
  score = Infilling().score(hole(test=None), "  y = 3\n")
  assert (score.passes, score.parses, score.exact) == (None, True, False)
  assert score.reason == "no tests"
  assert Infilling().score(hole(test=None), "(").passes is None


def test_a_text_of_code_has_the_holes_of_a_fine_tuning():
  code = "def f(x):\n  return x\n"
  judge = Infilling(cut=Cut(3))
  holes = judge.problems({"code": code}, "a:1")
  assert [hole.id for hole in holes] == ["a:1#0", "a:1#1", "a:1#2"]
  for found in holes:
    assert found.prefix + found.solution + found.suffix == code
  assert Infilling().given(hole()) == (ROW["prompt"], ROW["suffix"])


@pytest.mark.parametrize(
  ("changes", "why"),
  [
    ({"suffix": None}, "'suffix' is missing"),
    ({"prompt": 3}, "'prompt' must be a text"),
    ({"canonical_solution": None}, "'code' is missing"),
    ({"entry_point": None}, "'entry_point' is missing"),
    ({"entry_point": "f(); g"}, "no name"),
    ({"suffix": "\ud800"}, "surrogate"),
  ],
)
def test_malformed_rows_say_why(changes, why):
  with pytest.raises(ValueError, match=why):
    hole(**changes)
