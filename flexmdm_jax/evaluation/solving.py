"""Models solve problems: requests, samples, scores, and what they come to."""

import dataclasses
import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from flexmdm_jax.data.chat import encode_chat
from flexmdm_jax.errors import InputError
from flexmdm_jax.evaluation.judge import Judge, Problem
from flexmdm_jax.evaluation.problems import ProblemSet
from flexmdm_jax.inference import Model, Preset
from flexmdm_jax.inference.model import Request
from flexmdm_jax.metrics.pass_at_k import mean_and_stderr, pass_at_k
from flexmdm_jax.schema import Range, require_value
from flexmdm_jax.tasks.finetune.formats import BOUNDARY

# Measures of which one of k samples has to have them.
_AT_K = {"passes": "pass", "exact": "exact"}


@dataclasses.dataclass(frozen=True)
class HoleTokens:
  """Number of tokens that a model of a fixed length fills.

  What it writes is cut at its first pad.

  Attributes:
    times: that many times the tokens of the reference solution; None for a
      number.
    number: number of tokens.
  """

  times: float | None = None
  number: int | None = None

  @classmethod
  def parse(cls, text: str) -> "HoleTokens":
    """Parses "oracle", the reference's own number, "x1.5", or a number.

    Raises:
      InputError: it is none of them.
    """
    if text == "oracle":
      return cls(times=1.0)
    if re.fullmatch(r"x\d{1,6}(\.\d{1,6})?", text) and float(text[1:]) > 0:
      return cls(times=float(text[1:]))
    if re.fullmatch(r"[1-9]\d{0,8}", text):
      return cls(number=int(text))
    raise InputError(
      f"hole_tokens={text!r} must be oracle, a factor such as x1.5, or a number"
      " of tokens."
    )

  def of(self, solution: int) -> int:
    """Computes the number for a solution of so many tokens; at least 1."""
    if self.number is not None:
      return self.number
    return max(1, math.floor(self.times * solution + 0.5))


class Answer(NamedTuple):
  """What was written for a problem.

  Attributes:
    text: what was written, without what was given.
    truncated: it wanted more room than there was; None if nothing is known.
    calls: network calls; None if nothing is known.
  """

  text: str
  truncated: bool | None = None
  calls: int | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class Solver:
  """Model that is asked to solve problems.

  Attributes:
    model: the model, of text.
    way: how it samples.
    samples_per_row: samples of each problem.
    chat: whether what it is given is put into its chat template.
    boundary: whether the text stands on both sides of a hole that a fine-tuning
      on code puts there; None where the model is of such a run.
    hole_tokens: number of tokens that a model of a fixed length fills; None
      after a prompt is all the room that there is.

  Raises:
    InputError: the model has no tokenizer, or a setting does not suit it.
  """

  model: Model
  way: Preset
  samples_per_row: int = 1
  chat: bool = False
  boundary: bool | None = None
  hole_tokens: HoleTokens | None = None

  def __post_init__(self):
    require_value("samples_per_row", self.samples_per_row, int, Range(least=1))
    if self.model.tokenizer is None:
      raise InputError(
        "this model has no tokenizer, but the rows are text: give a model of"
        " text."
      )
    if self.model.method != "mdm" and self.hole_tokens is not None:
      raise InputError(
        "hole_tokens is of a model of a fixed length, but this one's method is"
        f" {self.model.method}, which decides the length itself: leave it out."
      )

  def prepare(self, found: ProblemSet) -> dict[int, Request]:
    """Makes the requests of the problems that fit the model.

    A problem fits if there is room for what is given, and for the reference
    solution or the hole. Others are counted as "too_long".

    Returns:
      The requests, by the place among the problems.

    Raises:
      InputError: nothing fits; a text holds the mask, and such rows are not
        skipped; or the model cannot do what is asked.
    """
    ready = {}
    for place, problem in enumerate(found.problems):
      given = found.judge.given(problem)
      suffixed = given.suffix is not None
      if suffixed and self.model.method == "autoregressive":
        raise InputError(
          "this model reads from left to right (method autoregressive), and"
          " fills no holes: give a FlexMDM, or an MDM."
        )
      if suffixed and self.model.method == "mdm" and self.hole_tokens is None:
        raise InputError(
          "this model's lengths are fixed (method mdm), so it cannot decide how"
          " long a hole is: give hole_tokens, as oracle, x1.5 or a number."
        )
      if suffixed and self.chat:
        raise InputError("chat is of prompts, but these rows have holes.")
      edge = BOUNDARY if suffixed and self.bounded() else ""
      try:
        prefix = self._prefix(given.prefix + edge)
        suffix = self.model.encode(edge + (given.suffix or ""))
        hole = len(self.model.encode(problem.solution or ""))
      except InputError as error:
        found.refuse(f"row {problem.id}", error)
        continue
      fits = self._fit(prefix, suffix if suffixed else None, hole)
      if fits is None:
        found.left_out["too_long"] += 1
      else:
        ready[place] = fits
    if not ready:
      raise InputError(
        f"no row fits this model's {self.model.max_length} tokens"
        f" ({dict(found.left_out)}): give shorter rows, or a longer model."
      )
    return ready

  def answers(
    self, ready: Mapping[int, Request], *, seed: int = 0, batch_size: int = 64
  ) -> Iterator[list[tuple[int, list[Answer]]]]:
    """Samples answers batch by batch.

    An answer depends on its problem's place, its own number and `seed`, not on
    the batch or on which other problems there are.

    Args:
      ready: some of what `prepare` returned.
      seed: seed of all that is random.
      batch_size: samples at once.

    Yields:
      The places of the problems of which a batch was the last, and their
      answers.

    Raises:
      InputError: batch_size < 1.
    """
    n = self.samples_per_row
    open_ = defaultdict(dict)
    for batch in self.model.stream(
      [request for request in ready.values() for _ in range(n)],
      self.way,
      seed=seed,
      places=[place * n + i for place in ready for i in range(n)],
      batch_size=batch_size,
    ):
      done = []
      for number, sample in batch:
        place, i = divmod(number, n)
        open_[place][i] = Answer(
          sample.filled[0], sample.truncated, sample.calls
        )
        if len(open_[place]) == n:
          found = open_.pop(place)
          done.append((place, [found[i] for i in range(n)]))
      yield done

  def bounded(self) -> bool:
    """Tells whether a boundary stands on both sides of a hole."""
    if self.boundary is not None:
      return self.boundary
    training = self.model.about.get("training")
    return isinstance(training, Mapping) and training.get("data") == "code"

  def _prefix(self, text: str) -> list[int]:
    """Tokenises what stands before an answer."""
    model = self.model
    if not self.chat:
      return model.encode(text)
    return encode_chat(model.tokenizer, model.template, text.removesuffix("\n"))

  def _fit(
    self, prefix: list[int], suffix: list[int] | None, hole: int
  ) -> Request | None:
    """Makes the request of a problem; None if it has too many tokens."""
    model, form = self.model, self.model.form
    between = form.after if suffix is None else ()
    before = len(form.before) + len(prefix) + len(between)
    after = len(suffix or ())
    if self.hole_tokens is not None:
      hole = self.hole_tokens.of(hole)
    room = model.max_length - (model.method == "autoregressive")
    if before + hole + after > room:
      return None
    if self.hole_tokens is not None:
      parts = ([*prefix, *between], suffix or [])
      made = model.requests(infills=[parts], hole_tokens=[hole])
    elif suffix is None:
      made = model.requests(prompts=[prefix])
    else:
      made = model.requests(infills=[(prefix, suffix)])
    return made[0]


def scored_lines(
  judge: Judge,
  problems: Sequence[Problem],
  answers: Sequence[tuple[int, Sequence[Answer]]],
) -> Iterator[tuple[int, dict[str, Any]]]:
  """Scores the answers to some problems.

  Args:
    judge: the judge.
    problems: all problems.
    answers: places of problems, and their answers.

  Yields:
    The place of a problem, and a line of JSON about it: `row`, its place, `id`,
    and of each sample `texts`, `truncated`, `calls` and `scores`.
  """
  pairs = [(i, answer) for i, found in answers for answer in found]
  scores = judge.scores(
    [problems[i] for i, _ in pairs], [answer.text for _, answer in pairs]
  )
  for i, found in answers:
    yield (
      i,
      {
        "row": i,
        "id": problems[i].id,
        "texts": [answer.text for answer in found],
        "truncated": [answer.truncated for answer in found],
        "calls": [answer.calls for answer in found],
        "scores": [next(scores)._asdict() for _ in found],
      },
    )


def summary(
  lines: Sequence[Mapping[str, Any]], ks: Sequence[int]
) -> dict[str, Any]:
  """Computes what lines of scores come to.

  Args:
    lines: what `scored_lines` yields, at least one.
    ks: the k of pass@k.

  Returns:
    `rows` and `samples`; of each k `pass@k`, over the `tested_rows` that have
    tests, and where there is such a measure `exact@k`; the mean over rows of
    every other measure; of each its standard error over rows, as NAME_stderr;
    `truncated`, the number of samples that wanted more room; `calls`, the mean
    network calls of a sample; and `reasons`, the numbers of samples by reason.
  """
  samples = [score for line in lines for score in line["scores"]]
  known = [x for line in lines for x in line["calls"] if x is not None]
  measures: dict[str, list[float]] = {}
  tested = 0
  for line in lines:
    tested += line["scores"][0]["passes"] is not None
    for name in line["scores"][0]:
      values = [score[name] for score in line["scores"]]
      if name == "reason" or None in values:
        continue
      if name not in _AT_K:
        measures.setdefault(name, []).append(sum(values) / len(values))
        continue
      for k in ks:
        chance = pass_at_k(len(values), sum(values), k)
        measures.setdefault(f"{_AT_K[name]}@{k}", []).append(chance)
  result = {"rows": len(lines), "samples": len(samples), "tested_rows": tested}
  for name, values in measures.items():
    result[name], result[f"{name}_stderr"] = mean_and_stderr(values)
  reasons = Counter(
    re.split(r"[:(]", score["reason"])[0].strip() for score in samples
  )
  return {
    **result,
    "truncated": sum(x is True for line in lines for x in line["truncated"]),
    "calls": sum(known) / len(known) if known else None,
    "reasons": dict(reasons.most_common()),
  }
