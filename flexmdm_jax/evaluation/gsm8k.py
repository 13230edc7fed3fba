r"""Arithmetic word problems: is the number in the last \boxed{} the right one?

The right one stands behind "####" of a row's answer. Of both, commas, dollar
signs, white space at the ends and full stops at the end are removed; then the
package math-verify tells whether they are equal, so that 0.5 and 1/2 are.
"""

import dataclasses
import functools
import importlib.util
from typing import NamedTuple

from flexmdm_jax.errors import InputError
from flexmdm_jax.evaluation.equality import Equality
from flexmdm_jax.evaluation.judge import Given, Judge, row_id, text_of
from flexmdm_jax.schema import require, setting
from flexmdm_jax.tasks.finetune.formats import (
  clean_number,
  gsm8k_parts,
  last_box,
)

NO_BOX = "no box"
# A longer one is no number; what would be parsed is bounded by it too.
_MOST_CHARACTERS = 200


class WordProblem(NamedTuple):
  """A question whose answer is a number.

  Attributes:
    id: name that no other has.
    question: the question.
    solution: steps and result, as a fine-tuning learns them.
    result: the right number, cleaned.
  """

  id: str
  question: str
  solution: str
  result: str


class AnswerScore(NamedTuple):
  """What is known of an answer.

  Attributes:
    passes: whether its result is right.
    boxed: whether it has a box; one without is wrong.
    reason: "equal", "not equal", "no box", or "undecided" where a comparison
      took too much time or memory.
  """

  passes: bool
  boxed: bool
  reason: str


@dataclasses.dataclass(frozen=True)
class WordProblems(Judge):
  """Answers of word problems; rows are `question` and `answer`, as GSM8K's.

  Attributes:
    seconds: time for one comparison.

  Raises:
    InputError: `seconds` is out of range.
  """

  seconds: float = setting(10.0, above=0, most=86400)

  def __post_init__(self):
    require(self, "gsm8k")

  def problems(self, row, name):
    question = text_of(row, "question")
    result = clean_number(text_of(row, "answer").rpartition("####")[2])
    parts = gsm8k_parts(row)
    if not parts or not result:
      raise ValueError("'answer' has no result behind ####")
    return [WordProblem(row_id(row, name), question, parts[0].holes[0], result)]

  def given(self, problem):
    return Given(problem.question + "\n")

  def scores(self, problems, texts):
    """Scores answers, in order; see `AnswerScore`."""
    self.require()
    for problem, text in zip(problems, texts, strict=True):
      box = last_box(text)
      if box is None:
        yield AnswerScore(False, False, NO_BOX)
        continue
      found = clean_number(box)
      same: bool | None = False
      if len(found) <= _MOST_CHARACTERS:
        same = _equality(self.seconds).tell(problem.result, found)
      reason = {True: "equal", False: "not equal", None: "undecided"}[same]
      yield AnswerScore(same is True, True, reason)

  def require(self):
    if importlib.util.find_spec("math_verify") is None:
      raise InputError(
        "gsm8k needs the package math-verify: pip install 'flexmdm_jax[math]'."
      )


@functools.cache
def _equality(seconds: float) -> Equality:
  """Keeps one process: its start takes 1 to 2 s."""
  return Equality(seconds)
