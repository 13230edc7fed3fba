"""Word problems whose steps can be checked."""

import re

from flexmdm_jax.data.word_problems import word_problems


def test_every_step_is_right_and_leads_to_the_result():
  problems = list(word_problems(400, seed=3, most_steps=3, largest=40))
  for problem in problems:
    *steps, result = problem["answer"].split("\n")
    for step in steps:
      a, sign, b, c = re.fullmatch(r"(\d+)(.)(\d+)=(\d+)", step).groups()
      value = {"+": int.__add__, "-": int.__sub__, "*": int.__mul__}.get(
        sign, lambda x, y: x / y
      )(int(a), int(b))
      assert value == int(c) and 0 <= int(c) <= 40
    assert result == f"#### {c}"
    # The numbers that steps begin with were told, or were found before.
    known = set(re.findall(r"\d+", problem["question"])) | {"2", "3"}
    for step in steps:
      a, b, c = re.findall(r"\d+", step)
      assert {a, b} <= known
      known.add(c)


def test_a_problem_depends_on_the_seed_and_its_number():
  few, many = list(word_problems(5, seed=1)), list(word_problems(50, seed=1))
  assert few == many[:5]
  assert few != list(word_problems(5, seed=2))
  assert len({problem["question"] for problem in many}) == 50
  steps = [x["answer"].count("\n") for x in word_problems(100, most_steps=1)]
  assert set(steps) == {1, 2}  # boxes are counted first
