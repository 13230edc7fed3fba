"""Holes in code: exact match, edit similarity, and whether the whole works."""

import dataclasses
from typing import NamedTuple

from flexmdm_jax.errors import InputError
from flexmdm_jax.evaluation.judge import Given, Judge, row_id, text_of
from flexmdm_jax.evaluation.programs import Limits, check_call
from flexmdm_jax.metrics.edit_similarity import edit_similarity
from flexmdm_jax.tasks.finetune.formats import BOUNDARY, Cut, code_parts


class Hole(NamedTuple):
  """A hole in a text of code.

  Attributes:
    id: name that no other has.
    prefix: the text before it.
    solution: the text that was in it.
    suffix: the text behind it.
    tests: code that stands behind the whole, and raises where it is wrong;
      empty without tests.
  """

  id: str
  prefix: str
  solution: str
  suffix: str
  tests: str = ""


class HoleScore(NamedTuple):
  """What is known of a text in a hole.

  Attributes:
    passes: whether the whole ran to the end of its tests; None without tests.
    exact: whether it is what was there, to the character.
    similarity: edit similarity to what was there, see `edit_similarity`.
    parses: whether the whole is Python, without its tests.
    reason: why it passes or not, as the sandbox says it.
  """

  passes: bool | None
  exact: bool
  similarity: float
  parses: bool
  reason: str


@dataclasses.dataclass(frozen=True)
class Infilling(Judge):
  """Holes that are filled.

  A row has `prompt`, `canonical_solution` and `suffix`, and perhaps `test` and
  `entry_point` (HumanEval-Infilling); or a text of code, whose holes are those
  that a fine-tuning on it learns.

  Attributes:
    limits: limits of the programs.
    text_key: key of a text of code.
    cut: how holes are cut into a text of code: problems have one hole each.

  Raises:
    InputError: problems would have several holes.
  """

  limits: Limits = dataclasses.field(default_factory=Limits)
  text_key: str = "code"
  cut: Cut = dataclasses.field(default_factory=Cut)

  def __post_init__(self):
    if self.cut.most_holes != 1:
      raise InputError(
        f"most_holes={self.cut.most_holes} of a problem must be 1: holes are"
        " scored one by one."
      )

  def problems(self, row, name):
    name = row_id(row, name)
    if "canonical_solution" not in row:
      text_of(row, self.text_key)
      parts = code_parts(row, self.text_key, self.cut)
      return [
        Hole(
          name if self.cut.examples == 1 else f"{name}#{k}",
          prefix.removesuffix(BOUNDARY),
          hole,
          suffix.removeprefix(BOUNDARY),
        )
        for k, ((prefix, suffix), (hole,)) in enumerate(parts)
      ]
    tests = ""
    if "test" in row:
      entry_point = text_of(row, "entry_point")
      if not entry_point.isidentifier():
        raise ValueError(f"'entry_point' is {entry_point!r:.40}, no name")
      tests = check_call(text_of(row, "test"), entry_point)
    keys = ("prompt", "canonical_solution", "suffix")
    texts = (text_of(row, key, empty=True) for key in keys)
    return [Hole(name, *texts, tests)]

  def given(self, problem):
    return Given(problem.prefix, problem.suffix)

  def scores(self, problems, texts):
    """Scores texts in holes, in order; see `HoleScore`."""
    pairs = list(zip(problems, texts, strict=True))
    wholes = [hole.prefix + text + hole.suffix for hole, text in pairs]
    programs = [
      f"{whole}\n{hole.tests}" if hole.tests else None
      for whole, (hole, _) in zip(wholes, pairs, strict=True)
    ]
    judged = self.limits.judge(wholes, programs)
    for (hole, text), found in zip(pairs, judged, strict=True):
      good, passes, reason = found
      yield HoleScore(
        passes=passes,
        exact=text == hole.solution,
        similarity=edit_similarity(text, hole.solution),
        parses=good,
        reason=reason,
      )

  def require(self):
    self.limits.require()
