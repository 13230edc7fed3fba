"""Tasks of `experiments.evaluate` that are problems with an answer to check.

A model solves the rows of files, or the held-out rows of its own run; or texts
that are given are judged. Beside --out=NAME.json every row is a line of
NAME.rows.jsonl, which is NAME.rows.jsonl.partial on the way: the same command
goes on from there.
"""

import dataclasses
import functools
import importlib.metadata
import json
import pathlib
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Any

import jax
from absl import flags
from tqdm import tqdm

from experiments.common import cli, sample_file
from experiments.common.evaluations import Options
from experiments.common.samplers import parse_fields, sampler_help
from flexmdm_jax import files, loading, memory
from flexmdm_jax.errors import InputError
from flexmdm_jax.evaluation import problems
from flexmdm_jax.evaluation.gsm8k import WordProblems
from flexmdm_jax.evaluation.infilling import Infilling
from flexmdm_jax.evaluation.judge import Judge
from flexmdm_jax.evaluation.problems import MALFORMED, ProblemSet
from flexmdm_jax.evaluation.programs import Limits, Programs
from flexmdm_jax.evaluation.solving import (
  Answer,
  HoleTokens,
  Solver,
  scored_lines,
  summary,
)
from flexmdm_jax.inference.model import Request
from flexmdm_jax.runs import Run
from flexmdm_jax.tasks.finetune.formats import Cut

TASKS = ("gsm8k", "infill", "humaneval")
# Names of `data.name` in configs, by the task that their rows are of.
_DATA = {"gsm8k": "gsm8k", "infill": "code"}
# Reasons for which rows are left out.
_LEFT_OUT = ("malformed", "too_long", "unanswered")
# Given answers that are judged between two writes.
_CHUNK = 64

_ROWS = flags.DEFINE_string(
  "rows",
  None,
  "JSONL files of problems, for the tasks gsm8k, infill and humaneval; .gz and"
  " patterns too. By default the run's own held-out rows, for the first two.",
)
_MALFORMED = flags.DEFINE_string(
  "malformed",
  "stop",
  f"What to do at a malformed row: {' or '.join(MALFORMED)}.",
)
_SAMPLES_PER_ROW = cli.count("samples_per_row", 1, "Samples of each problem.")
_K = flags.DEFINE_list("k", ["1"], "The k of pass@k, as in 1,10.")
_CHAT = flags.DEFINE_bool(
  "chat", False, "Put problems into the model's chat template."
)
_BOUNDARY = flags.DEFINE_bool(
  "boundary",
  None,
  "Whether <infill-boundary> stands on both sides of a hole, as fine-tuning on"
  " code has it; by default, where the model is of such a run.",
)
_HOLE_TOKENS = flags.DEFINE_string(
  "hole_tokens",
  None,
  "Tokens that a model of a fixed length fills: oracle (the reference's), x1.5"
  " (that times 1.5), or a number.",
)
_PRESET = flags.DEFINE_string(
  "preset", None, "Named way to sample, where the model's folder has some."
)
_SAMPLER = flags.DEFINE_string(
  "sampler",
  "",
  "Further settings, as in temperature=0.5,top_p=0.9:\n" + sampler_help(),
)
_SECONDS = flags.DEFINE_float(
  "program_seconds", 10.0, "Time for a program, or for comparing an answer."
)
_MEMORY = cli.count("program_mib", 512, "Memory of a program, in MiB.", 32)
_UNSAFE = flags.DEFINE_bool(
  "unsafe", False, "Run programs also where this machine cannot shut them in."
)
_OWN = (
  _ROWS,
  _MALFORMED,
  _SAMPLES_PER_ROW,
  _K,
  _CHAT,
  _BOUNDARY,
  _HOLE_TOKENS,
  _PRESET,
  _SAMPLER,
  _SECONDS,
  _MEMORY,
  _UNSAFE,
)


def refuse_flags(task: str) -> None:
  """Refuses flags of these tasks where another is given, by an InputError."""
  for flag in _OWN:
    if flag.present:
      raise InputError(
        f"--{flag.name}={flag.value} is of no use to --task={task}: leave it"
        " out."
      )


@dataclasses.dataclass(frozen=True, eq=False)
class Job:
  """Problems to solve, or texts to judge; all of this decides the result.

  Attributes:
    task: name of the task.
    found: the problems, and the judge.
    ks: the k of pass@k.
    samples_per_row: samples of each problem.
    seed: seed of all that is random.
    solver: the model; None where texts are judged without one.
    ready: requests of the problems that fit the model, by their places; None
      without a model.
    given: texts to judge in place of new samples, by the places of problems.
  """

  task: str
  found: ProblemSet
  ks: list[int]
  samples_per_row: int
  seed: int
  solver: Solver | None
  ready: Mapping[int, Request] | None
  given: Mapping[int, list[str]] | None

  @functools.cached_property
  def settings(self) -> dict[str, Any]:
    """Lists all that decides the lines of rows, JSON-ready."""
    judge = dataclasses.asdict(self.found.judge)
    limits = judge.pop("limits", {})
    limits.pop("workers", None)  # the rest of them decides
    found = {
      **files.versions(),
      "task": self.task,
      "rows": f"{len(self.found.problems)} of hash {self.found.digest()}",
      "samples_per_row": self.samples_per_row,
      **judge,
      **{f"program_{name}": value for name, value in limits.items()},
    }
    if self.task == "gsm8k":
      found["math-verify"] = importlib.metadata.version("math-verify")
    if self.given is not None:
      found["samples"] = f"hash {problems.answers_digest(self.given)}"
    if self.solver is None:
      return found
    found |= {
      "model": f"hash {sample_file.fingerprint(self.solver.model)}",
      "chat": self.solver.chat,
      "boundary": self.solver.bounded(),
      "hole_tokens": str(self.solver.hole_tokens),
    }
    if self.given is not None:
      return found
    way = self.solver.way
    return found | {
      "seed": self.seed,
      **vars(way.sampler),
      "path": way.path.to_config(),
    }

  def run(self, path: pathlib.Path, batch_size: int) -> dict[str, Any]:
    """Scores all rows, of which every one is a line of a file.

    Args:
      path: JSONL file of the rows.
      batch_size: samples at once; changes nothing but the memory.

    Returns:
      The summary.

    Raises:
      InputError: the file was begun with other settings, or cannot be written.
    """
    chosen = range(len(self.found.problems))
    for some in (self.ready, self.given):
      chosen = [i for i in chosen if some is None or i in some]
    if not chosen:
      raise InputError("no row both fits the model and has texts to judge.")
    with sample_file.SampleFile(path, self.settings, ("row",)) as file:
      left = [i for i in chosen if (i,) not in file.lines]
      n = self.samples_per_row
      with tqdm(
        total=len(chosen) * n,
        initial=(len(chosen) - len(left)) * n,
        disable=not sys.stderr.isatty(),
        unit="sample",
        dynamic_ncols=True,
      ) as bar:
        for answers in self._answers(left, batch_size):
          lines = scored_lines(self.found.judge, self.found.problems, answers)
          file.write({(place,): line for place, line in lines})
          bar.update(len(answers) * n)
      lines = [json.loads(line) for _, line in sorted(file.lines.items())]
      result = summary(lines, self.ks)
      file.finish()
    return result

  def _answers(
    self, left: list[int], batch_size: int
  ) -> Iterator[list[tuple[int, list[Answer]]]]:
    """Gives the answers to problems, those of a batch at a time."""
    if self.given is not None:
      for first in range(0, len(left), _CHUNK):
        yield [
          (i, [Answer(text) for text in self.given[i]])
          for i in left[first : first + _CHUNK]
        ]
    elif left:
      ready = {i: self.ready[i] for i in left}
      yield from self.solver.answers(
        ready, seed=self.seed, batch_size=batch_size
      )


def evaluate(
  task: str, options: Options, samples: str | None
) -> dict[str, Any]:
  """Scores a model, or given texts, on problems.

  Args:
    task: name of the task.
    options: options that all evaluations have.
    samples: "reference", "empty", or the file of texts to judge in place of new
      samples; None samples.

  Returns:
    The result, JSON-ready.

  Raises:
    InputError: a flag, a row, or the model is wrong.
  """
  begin = time.perf_counter()
  workdir, n = options.workdir, _SAMPLES_PER_ROW.value
  ks = cli.parse_ints("k", _K.value)
  problems.require_ks(ks, n)
  hole_tokens = _HOLE_TOKENS.value and HoleTokens.parse(_HOLE_TOKENS.value)
  fields = parse_fields("sampler", _SAMPLER.value)
  if options.steps is not None:
    fields["steps"] = options.steps
  if workdir is None and (samples is None or _ROWS.value is None):
    raise InputError(
      "--workdir is missing: give the folder of the model; only --samples of"
      " --rows are judged without one."
    )
  run = None if _ROWS.value else _own_run(task, workdir)
  judge = _judge(task, run)
  _require(judge)
  found = _problems(judge, run, options.split)
  if options.num is not None:
    del found.problems[options.num :]
  given = None
  if samples is not None:
    given = problems.given_answers(found, samples, n)
  solver = ready = None
  if workdir is not None:
    model = loading.load(workdir)
    way = model.way(preset=_PRESET.value, path=options.path, **fields)
    solver = Solver(model, way, n, _CHAT.value, _BOUNDARY.value, hole_tokens)
    ready = solver.prepare(found)
    if given is None:
      options.unless_forced(
        lambda: memory.require_to_sample(
          model.denoiser.model, len(ready) * n, options.batch_size
        )
      )
  job = Job(task, found, ks, n, options.seed, solver, ready, given)
  out = pathlib.Path(options.out)
  result = job.run(out.with_name(f"{out.stem}.rows.jsonl"), options.batch_size)
  return {
    "task": task,
    **result,
    **{name: found.left_out[name] for name in _LEFT_OUT},
    "seconds": time.perf_counter() - begin,
    "seed": options.seed,
    "commit": files.git_commit(),
    "rows_file": _names(_ROWS.value),
    "samples_file": samples,
    "settings": job.settings,
    **_about(solver, given is None),
    "versions": files.versions(),
  }


def _names(patterns: str | None) -> str | None:
  """Takes the names of files without their folders, which tell of a machine."""
  if patterns is None:
    return None
  return ",".join(pathlib.Path(x.strip()).name for x in patterns.split(","))


def _about(solver: Solver | None, sampled: bool) -> dict[str, Any]:
  """Describes a model, and how it sampled."""
  if solver is None:
    return {}
  model, way = solver.model, solver.way
  about = {
    "max_length": model.max_length,
    "method": model.method,
    "dtype": sorted(
      {str(x.dtype) for x in jax.tree.leaves(dict(model.denoiser.params))}
    ),
    "config": dict(model.about),
  }
  training = model.about.get("training")
  if isinstance(training, Mapping):
    about["train_steps"] = training.get("steps")
  if sampled:
    about["sampler"] = dataclasses.asdict(way.sampler)
    about["path"] = way.path.to_config()
  return about


def _own_run(task: str, workdir: str) -> Run:
  """Finds the run whose held-out rows are the problems."""
  name = _DATA.get(task)
  run = None
  if name and (pathlib.Path(workdir).expanduser() / "checkpoints").is_dir():
    run = Run.from_workdir(workdir)
  if run is None or run.config["data"]["name"] != name:
    raise InputError(
      f"--task={task} needs rows, and {workdir} is no run that was trained on"
      " some: give --rows=FILES."
    )
  return run


def _judge(task: str, run: Run | None) -> Judge:
  """Makes the judge of a task with the options that flags give it."""
  if task == "gsm8k":
    return WordProblems(seconds=_SECONDS.value)
  limits = Limits(
    seconds=_SECONDS.value, memory_mib=_MEMORY.value, unsafe=_UNSAFE.value
  )
  if task == "humaneval":
    return Programs(limits)
  if run is None:
    return Infilling(limits)
  data = run.config["data"]
  # A run may have been trained on several holes: here each is scored alone.
  cut = Cut(data["holes"], at=data.get("cut", "span"))
  return Infilling(limits, data["text_key"], cut)


def _require(judge: Judge) -> None:
  """Refuses a machine that cannot judge."""
  try:
    judge.require()
  except InputError as error:
    if "shut a program in" not in str(error):
      raise
    raise InputError(f"{error} --unsafe does that.") from error


def _problems(judge: Judge, run: Run | None, split: str) -> ProblemSet:
  """Reads the problems of files, or of a run's held-out rows."""
  if run is None:
    return ProblemSet(judge, problems.file_rows(_ROWS.value), _MALFORMED.value)
  task = run.task
  rows = task.rows(split)
  numbers = sorted({record["row"] for record in task.records(split)})
  found = ((number, rows[number]) for number in numbers)
  return ProblemSet(judge, problems.plain_rows(found), _MALFORMED.value)
