import pytest

from flexmdm_jax.errors import InputError
from flexmdm_jax.evaluation import programs
from flexmdm_jax.evaluation.programs import (
  HUMANEVAL_STOPS,
  Limits,
  Programs,
  cut_at,
  parses,
)

HUMANEVAL = {
  "task_id": "HumanEval/0",
  "prompt": 'def double(x):\n  """Doubles."""\n',
  "canonical_solution": "  return 2 * x\n",
  "test": "def check(f):\n  assert f(2) == 4\n",
  "entry_point": "double",
}
MBPP = {
  "task_id": 7,
  "text": "Write a function to double.",
  "code": "def double(x):\n  return TWO * x",
  "test_list": ["assert double(2) == 4", "assert double(0) == 0"],
  "test_setup_code": "TWO = 2",
}


def test_solutions_pass_and_others_do_not():
  judge = Programs()
  pairs = []
  for row in (HUMANEVAL, MBPP):
    (problem,) = judge.problems(row, "line 1")
    tail = "\nprint(1 / 0)\n"  # is cut
    pairs += [(problem, problem.solution + tail), (problem, "")]
  scores = list(judge.scores(*zip(*pairs, strict=True)))
  assert [score.passes for score in scores] == [True, False, True, False]
  assert scores[0].reason == "passed"
  assert scores[3].reason.startswith("error: NameError")


def test_rows_become_problems():
  (problem,) = Programs().problems(HUMANEVAL, "x")
  assert problem.id == "HumanEval/0"
  assert Programs().given(problem) == (HUMANEVAL["prompt"], None)
  (problem,) = Programs().problems(MBPP, "x")
  assert problem.id == "7"
  prompt = '"""\nWrite a function to double.\nassert double(2) == 4\n"""\n'
  assert Programs().given(problem) == (prompt, None)
  for row, why in [
    ({**HUMANEVAL, "test": " "}, "'test' is blank"),
    ({**HUMANEVAL, "entry_point": "1"}, "no name"),
    ({**MBPP, "test_list": []}, "must be a list of texts"),
    ({**MBPP, "text": None}, "'text' must be a text"),
    ({**MBPP, "test_setup_code": 3}, "'test_setup_code' must be"),
  ]:
    with pytest.raises(ValueError, match=why):
      Programs().problems(row, "x")


def test_a_text_is_cut_before_its_first_stop():
  assert cut_at("  return\ndef f", HUMANEVAL_STOPS) == "  return"
  assert cut_at("a\nprint\nclass", HUMANEVAL_STOPS) == "a"
  assert cut_at("  def f", HUMANEVAL_STOPS) == "  def f"


def test_odd_texts_do_not_parse():
  assert parses("") and parses("'\\d'")
  for text in ("a b", "\0", "(" * 10_000, "-" * 200_000 + "1"):
    assert not parses(text)


def test_a_machine_that_cannot_shut_programs_in_is_refused(monkeypatch):
  def refuse(program, *, unsafe, **_):
    if not unsafe:
      raise InputError("this machine cannot shut a program in")

  monkeypatch.setattr(programs, "run_program", refuse)
  Programs(Limits(unsafe=True)).require()
  with pytest.raises(InputError, match="cannot shut a program in"):
    Programs().require()
  with pytest.raises(InputError, match=r"limits\.seconds=0 must be above 0"):
    Limits(seconds=0)
