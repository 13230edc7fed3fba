"""Programs from a description: problems as HumanEval's and MBPP's.

A completion is cut before the first of the usual stop sequences, put between
what stands before it and the tests, and run in the sandbox.
"""

import ast
import dataclasses
import functools
import warnings
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from flexmdm_jax.evaluation.judge import Given, Judge, row_id, text_of
from flexmdm_jax.evaluation.sandbox import Verdict, run_program, run_programs
from flexmdm_jax.schema import count, require, setting

# Texts that begin what is no part of a function's body (arXiv 2107.03374), and
# of a short program (the BigCode harness).
HUMANEVAL_STOPS = ("\nclass", "\ndef", "\n#", "\nif", "\nprint")
MBPP_STOPS = ("\nclass", "\nassert", '\n"""', "\nprint", "\nif", "\n```")
UNPARSED = "does not parse"


@dataclasses.dataclass(frozen=True)
class Limits:
  """Limits of programs that a model wrote.

  Attributes:
    seconds: wall time of one.
    memory_mib: address space of one, in MiB.
    workers: programs at a time; None takes one for each core.
    unsafe: runs them also where this machine cannot shut them in.

  Raises:
    InputError: one is out of range.
  """

  seconds: float = setting(10.0, above=0, most=86400)
  memory_mib: int = count(512, least=32)
  workers: int | None = count(None)
  unsafe: bool = setting(False)

  def __post_init__(self):
    require(self, "limits")

  def require(self) -> None:
    """Runs an empty program; InputError if that is not possible here."""
    run_program("", **self._options())

  def run(self, programs: Iterable[str]) -> Iterator[Verdict]:
    """Runs programs in parallel; verdicts come in the order of the programs."""
    return run_programs(programs, num_workers=self.workers, **self._options())

  def judge(
    self, texts: Sequence[str], programs: Sequence[str | None]
  ) -> Iterator[tuple[bool, bool | None, str]]:
    """Tells whether texts parse, and whether their programs pass.

    Args:
      texts: N texts of code, without tests.
      programs: N programs, each a text and its tests; None without tests.

    Yields:
      Whether the text parses, whether its program passes, which is None without
      tests, and the reason. A text that does not parse fails, and is not run.
    """
    parsed = [parses(text) for text in texts]
    pairs = list(zip(parsed, programs, strict=True))
    ran = self.run(program for good, program in pairs if good and program)
    for good, program in pairs:
      if program is None:
        yield good, None, "no tests" if good else UNPARSED
      elif good:
        verdict = next(ran)
        yield good, verdict.passed, verdict.reason
      else:
        yield good, False, UNPARSED

  def _options(self):
    return {
      "seconds": self.seconds,
      "memory_bytes": self.memory_mib << 20,
      "unsafe": self.unsafe,
    }


class Program(NamedTuple):
  """A program to write.

  Attributes:
    id: name that no other has.
    prompt: the text to continue.
    solution: reference solution; None if there is none.
    before: code that stands before a completion.
    tests: code that stands behind it, and raises where it is wrong.
    stops: texts before the first of which a completion ends.
  """

  id: str
  prompt: str
  solution: str | None
  before: str
  tests: str
  stops: tuple[str, ...]


class ProgramScore(NamedTuple):
  """What is known of a program.

  Attributes:
    passes: whether it ran to the end of its tests.
    parses: whether it is Python, without its tests.
    reason: why it passes or not, as the sandbox says it.
  """

  passes: bool
  parses: bool
  reason: str


@dataclasses.dataclass(frozen=True)
class Programs(Judge):
  """Programs that pass their tests.

  A row has `prompt`, `test` and `entry_point` (HumanEval), or `text` or
  `prompt`, and `test_list` (MBPP), perhaps with `test_setup_code` or
  `test_imports`. A reference is `canonical_solution`, or `code`.

  Attributes:
    limits: limits of the programs.
  """

  limits: Limits = dataclasses.field(default_factory=Limits)

  def problems(self, row, name):
    make = _mbpp if "test_list" in row else _humaneval
    return [make(row, row_id(row, name))]

  def given(self, problem):
    return Given(problem.prompt)

  def scores(self, problems, texts):
    """Scores completions of programs, in order; see `ProgramScore`."""
    codes = [
      problem.before + cut_at(text, problem.stops)
      for problem, text in zip(problems, texts, strict=True)
    ]
    programs = [
      f"{code}\n{problem.tests}"
      for problem, code in zip(problems, codes, strict=True)
    ]
    for good, passes, reason in self.limits.judge(codes, programs):
      yield ProgramScore(passes, good, reason)

  def require(self):
    self.limits.require()


def parses(text: str) -> bool:
  """Tells whether a text is Python."""
  try:
    with warnings.catch_warnings():
      warnings.simplefilter("ignore")  # of an odd escape, say
      ast.parse(text)
  except (SyntaxError, ValueError, RecursionError, MemoryError):
    return False
  return True


def cut_at(text: str, stops: Sequence[str]) -> str:
  """Cuts a text before the first of the stops that it has."""
  found = (text.find(stop) for stop in stops)
  return text[: min((i for i in found if i >= 0), default=len(text))]


def check_call(test: str, entry_point: str) -> str:
  """Writes tests that define `check`, and its call."""
  return f"{test}\n\ncheck({entry_point})\n"


def _humaneval(row, name):
  text = functools.partial(text_of, row)
  entry_point = text("entry_point")
  if not entry_point.isidentifier():
    raise ValueError(f"'entry_point' is {entry_point!r:.40}, no name")
  solution = None
  if "canonical_solution" in row:
    solution = text("canonical_solution")
  prompt = text("prompt")
  return Program(
    id=name,
    prompt=prompt,
    solution=solution,
    before=prompt,
    tests=check_call(text("test"), entry_point),
    stops=HUMANEVAL_STOPS,
  )


def _mbpp(row, name):
  tests = row["test_list"]
  if not (
    isinstance(tests, list)
    and tests
    and all(isinstance(test, str) for test in tests)
  ):
    raise ValueError("'test_list' must be a list of texts")
  about = text_of(row, "text" if "text" in row else "prompt").strip()
  setup = row.get("test_setup_code", "")
  imports = row.get("test_imports", [])
  if not isinstance(setup, str) or not isinstance(imports, list):
    raise ValueError("'test_setup_code' must be a text, 'test_imports' a list")
  code = text_of(row, "code") if "code" in row else None
  before = "\n".join([*map(str, imports), setup]).strip()
  return Program(
    id=name,
    # The first test tells the function's name.
    prompt=f'"""\n{about}\n{tests[0]}\n"""\n',
    solution=code,
    before=before + "\n" if before else "",
    tests="\n".join(tests) + "\n",
    stops=MBPP_STOPS,
  )
