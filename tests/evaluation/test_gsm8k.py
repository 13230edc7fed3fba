import pytest

from flexmdm_jax.errors import InputError
from flexmdm_jax.evaluation import gsm8k
from flexmdm_jax.evaluation.gsm8k import WordProblems

ROW = {"question": "How many?", "answer": "500+518 = <<1>>1018.\n#### 1,018"}


def problem():
  (found,) = WordProblems().problems(ROW, "line 3")
  return found


def test_rows_become_problems():
  found = problem()
  assert (found.id, found.result) == ("line 3", "1018")
  assert WordProblems().given(found) == ("How many?\n", None)
  assert "\\boxed{1018}" in found.solution
  for row, why in [
    ({}, "'question' is missing"),
    ({**ROW, "question": 3}, "'question' must be a text"),
    ({**ROW, "answer": "42"}, "no result behind ####"),
    ({**ROW, "answer": "so #### "}, "no result behind ####"),
  ]:
    with pytest.raises(ValueError, match=why):
      WordProblems().problems(row, "x")


def test_equal_numbers_pass_and_others_do_not():
  pytest.importorskip("math_verify")
  texts = {
    problem().solution: "equal",
    "\\boxed{7} or \\boxed{$1,018.00.}": "equal",
    "\\boxed{\\frac{2036}{2}}": "equal",
    "\\boxed{1019}": "not equal",
    "\\boxed{what}": "not equal",
    f"\\boxed{{{'9' * 300}}}": "not equal",
    "1018": "no box",
    "": "no box",
  }
  scores = list(WordProblems().scores([problem()] * len(texts), list(texts)))
  assert [score.reason for score in scores] == list(texts.values())
  assert [score.passes for score in scores] == [
    reason == "equal" for reason in texts.values()
  ]
  assert [score.boxed for score in scores] == [
    reason != "no box" for reason in texts.values()
  ]


def test_without_the_package_it_says_so(monkeypatch):
  monkeypatch.setattr(gsm8k.importlib.util, "find_spec", lambda _: None)
  with pytest.raises(InputError, match=r"pip install 'flexmdm_jax\[math\]'"):
    WordProblems().score(problem(), "")
