"""Models solve problems: which rows fit, and what their answers depend on."""

import dataclasses

import pytest

from flexmdm_jax.data.tokenizers import CharTokenizer
from flexmdm_jax.errors import InputError
from flexmdm_jax.evaluation.infilling import Infilling
from flexmdm_jax.evaluation.problems import ProblemSet, plain_rows
from flexmdm_jax.evaluation.programs import Programs
from flexmdm_jax.evaluation.solving import (
  Answer,
  HoleTokens,
  Solver,
  scored_lines,
  summary,
)
from flexmdm_jax.inference import Model, PromptForm
from flexmdm_jax.tasks.finetune.formats import BOUNDARY
from tests.inference import tiny
from tests.tiny_model import L, tiny_model

TOKENIZER = CharTokenizer("ab=1 \n")
BEGIN, PAD = 4, TOKENIZER.vocab.pad


@pytest.fixture(scope="module")
def model():
  return tiny_model(TOKENIZER)


def holes(*rows, malformed="stop"):
  keys = ("prompt", "canonical_solution", "suffix")
  rows = [dict(zip(keys, row, strict=True)) for row in rows]
  return ProblemSet(Infilling(), plain_rows(enumerate(rows)), malformed)


def collect(batches):
  return {place: answers for batch in batches for place, answers in batch}


def test_answers_depend_on_their_place_and_the_seed_alone(model):
  found = holes(("a=", "1", "\n"), ("bb=", "1", ""), ("", "a", "=1 \n"))
  solver = Solver(model, model.way(), samples_per_row=3)
  ready = solver.prepare(found)
  whole = collect(solver.answers(ready, seed=5))
  assert set(whole) == {0, 1, 2}
  for batch_size in (2, 7):
    again = solver.answers(ready, seed=5, batch_size=batch_size)
    assert collect(again) == whole
  part = collect(solver.answers({2: ready[2]}, seed=5, batch_size=2))
  assert part == {2: whole[2]}
  assert collect(solver.answers(ready, seed=6)) != whole
  assert all(len(answers) == 3 for answers in whole.values())
  assert len({answer.text for x in whole.values() for answer in x}) > 1


def test_rows_that_do_not_fit_are_counted(model):
  solver = Solver(model, model.way())
  found = holes(("a" * 8, "b" * 4, "1" * 4), ("a" * 8, "b" * 5, "1" * 4))
  assert list(solver.prepare(found)) == [0]
  assert found.left_out == {"too_long": 1}
  formed = dataclasses.replace(model, form=PromptForm((BEGIN,), (PAD,)))
  with pytest.raises(InputError, match="no row fits this model's 16 tokens"):
    Solver(formed, model.way()).prepare(holes(("a" * 8, "b" * 4, "1" * 4)))


def test_a_text_that_holds_the_mask_stops_or_is_skipped(model, monkeypatch):
  def encode(self, text):
    if "M" in text:
      raise InputError("the text holds the mask: remove it.")
    return TOKENIZER.encode(text) if isinstance(text, str) else text

  monkeypatch.setattr(Model, "encode", encode)
  rows = [("aM", "1", ""), ("a", "1", "")]
  solver = Solver(model, model.way())
  with pytest.raises(InputError, match="row 0: the text holds the mask"):
    solver.prepare(holes(*rows))
  found = holes(*rows, malformed="skip")
  assert list(solver.prepare(found)) == [1]
  assert found.left_out == {"malformed": 1}


def test_models_that_cannot_are_refused(model):
  way = model.way()
  fixed = dataclasses.replace(model, method="mdm")
  causal = dataclasses.replace(model, method="autoregressive")
  with pytest.raises(InputError, match="no tokenizer"):
    Solver(dataclasses.replace(model, tokenizer=None), way)
  with pytest.raises(InputError, match="cannot decide how long a hole is"):
    Solver(fixed, way).prepare(holes(("a", "b", "")))
  with pytest.raises(InputError, match="which decides the length itself"):
    Solver(model, way, hole_tokens=HoleTokens.parse("8"))
  with pytest.raises(InputError, match="fills no holes"):
    Solver(causal, way).prepare(holes(("a", "b", "")))
  with pytest.raises(InputError, match="chat is of prompts"):
    Solver(model, way, chat=True).prepare(holes(("a", "b", "")))
  with pytest.raises(InputError, match="samples_per_row=0"):
    Solver(model, way, samples_per_row=0)


def test_a_model_of_code_is_shown_boundaries(model):
  trained = dataclasses.replace(model, about={"training": {"data": "code"}})
  for one, boundary, shown in [
    (model, None, False),
    (trained, None, True),
    (trained, False, False),
    (model, True, True),
  ]:
    solver = Solver(one, model.way(), boundary=boundary)
    if not shown:
      (request,) = solver.prepare(holes(("a", "b", "1"))).values()
      assert (request.start.length, request.cuts) == (2, (1,))
    else:  # they are longer than this model
      assert len(BOUNDARY) > L
      with pytest.raises(InputError, match="no row fits"):
        solver.prepare(holes(("a", "b", "1")))


@pytest.mark.parametrize(
  ("text", "numbers"), [("oracle", [1, 4]), ("x1.5", [2, 6]), ("3", [3, 3])]
)
def test_a_fixed_length_model_fills_so_many_tokens(text, numbers):
  model = tiny.model("mdm")
  found = holes(("a", "b", "c"), ("aa", "b" * 4, "bc"), ("a" * 8, "b" * 8, ""))
  solver = Solver(model, model.way(), 2, hole_tokens=HoleTokens.parse(text))
  ready = solver.prepare(found)
  assert ready.keys() == ({0, 1, 2} if text == "3" else {0, 1})
  for place, number in enumerate(numbers):
    masks = ready[place].start.tokens == model.vocab.mask
    assert masks.sum() == number
  answers = collect(solver.answers(ready))
  for place, number in enumerate(numbers):
    assert all(len(answer.text) <= number for answer in answers[place])


def test_a_fixed_length_model_has_all_the_room_after_a_prompt():
  model = tiny.model("mdm")
  row = {"prompt": "a", "entry_point": "a", "test": "1"}
  found = ProblemSet(Programs(), plain_rows([(0, row)]))
  for text, number in (("3", 3), (None, model.max_length - 1)):
    solver = Solver(
      model, model.way(), hole_tokens=text and HoleTokens.parse(text)
    )
    start = solver.prepare(found)[0].start
    assert (start.tokens == model.vocab.mask).sum() == number


@pytest.mark.parametrize("text", ["", "x", "x0", "0", "-1", "1.5", "oracle2"])
def test_other_numbers_of_tokens_are_refused(text):
  with pytest.raises(InputError, match=r"must be oracle, a factor .* or a num"):
    HoleTokens.parse(text)


def test_lines_and_what_they_come_to():
  found = holes(("a=", "1", "\n"), ("b=", "1", "\n"))
  answers = [
    (0, [Answer("1", False, 4), Answer("b(", True, 8)]),
    (1, [Answer("", False, 4), Answer("", False, 4)]),
  ]
  lines = [
    line for _, line in scored_lines(found.judge, found.problems, answers)
  ]
  assert lines[0]["id"] == "0" and lines[0]["texts"] == ["1", "b("]
  assert lines[0]["scores"][0]["exact"] and not lines[1]["scores"][0]["exact"]
  result = summary(lines, [1, 2])
  assert (result["rows"], result["samples"], result["tested_rows"]) == (2, 4, 0)
  assert (result["exact@1"], result["exact@2"]) == (0.25, 0.5)
  assert result["exact@2_stderr"] == 0.5
  assert result["parses"] == 0.25
  assert result["similarity"] == 0.25
  assert (result["truncated"], result["calls"]) == (1, 5)
  assert result["reasons"] == {"does not parse": 3, "no tests": 1}
  assert "pass@1" not in result


def test_reasons_are_counted_by_their_kind():
  def line(passes, reason):
    score = {"passes": passes, "reason": reason}
    return {"truncated": [None], "calls": [None], "scores": [score]}

  lines = [
    line(True, "passed"),
    line(False, "error: NameError: x: y"),
    line(False, "exited early (status 0)"),
  ]
  result = summary(lines, [1])
  assert result["reasons"] == {"passed": 1, "error": 1, "exited early": 1}
  assert result["pass@1"] == pytest.approx(1 / 3)
  assert result["calls"] is None
