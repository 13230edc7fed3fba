"""Evaluations by the names that `--task` has, with flags for their options."""

import dataclasses
import time
from collections.abc import Callable
from typing import Any

from absl import flags

from experiments.common import cli, scorers
from flexmdm_jax import files
from flexmdm_jax.errors import InputError
from flexmdm_jax.evaluation.evaluation import Evaluation, evaluate
from flexmdm_jax.evaluation.generative_perplexity import GenerativePerplexity
from flexmdm_jax.evaluation.lengths import LengthLaw
from flexmdm_jax.evaluation.likelihood import HeldOutLikelihood
from flexmdm_jax.evaluation.maze import MazePlanning
from flexmdm_jax.evaluation.scorers import Scorer
from flexmdm_jax.evaluation.variance import GradientVariance
from flexmdm_jax.runs import Run

flags.adopt_module_key_flags(scorers)
_KIND = flags.DEFINE_string("kind", "tight", "Kind of bound: tight or paper.")
_NUM_TIMES = cli.count(
  "num_times", 128, "Network calls a sequence for the likelihood, at most."
)
_STDERR = flags.DEFINE_float(
  "stderr", 0.0, "Standard error of the likelihood, in nats, at which to stop."
)
_SAMPLES = flags.DEFINE_string(
  "samples",
  None,
  "JSONL file to judge in place of new samples: of experiments.sample; or, of"
  " problems, lines with id and texts, or the word reference or empty.",
)
_PLOTS = flags.DEFINE_string("plots", None, "Directory to draw pictures in.")
_MAUVE = flags.DEFINE_bool("mauve", False, "Compute MAUVE too, by the scorer.")


@dataclasses.dataclass(frozen=True)
class Options:
  """Options that all evaluations have.

  Attributes:
    workdir: directory of the run, or folder of the model.
    out: JSON file of the result.
    num: records or samples; None for as many as the evaluation takes.
    split: split of held-out records.
    steps: network calls of a sample; None for the model's own.
    path: path to sample and bound on; None for the model's own.
    seed: seed of all that is random.
    batch_size: rows at once.
    unless_forced: calls an estimate of the memory, see `cli.force`.
  """

  workdir: str | None
  out: str
  num: int | None
  split: str
  steps: int | None
  path: str | None
  seed: int
  batch_size: int
  unless_forced: Callable[[Callable[[], None]], None]


def _scorer() -> Scorer:
  """Loads the scorer; InputError without one."""
  scorer = scorers.load()
  if scorer is None:
    raise InputError(
      "--task=generative_perplexity needs a scorer: give --scorer=gpt2-large,"
      " or the folder of another causal language model."
    )
  return scorer


TASKS = {
  "maze": MazePlanning,
  "lengths": lambda: LengthLaw(_SAMPLES.value, _PLOTS.value),
  "generative_perplexity": lambda: GenerativePerplexity(
    _scorer(), _MAUVE.value, _SAMPLES.value, _PLOTS.value
  ),
  "likelihood": lambda: HeldOutLikelihood(
    _KIND.value, _NUM_TIMES.value, _STDERR.value
  ),
  "gradient_variance": GradientVariance,
}
# Records or samples of a run, unless a number is given.
_NUM = 1000
_JUDGE_SAMPLES = ("lengths", "generative_perplexity")


def make_evaluation(task: str) -> Evaluation:
  """Makes the evaluation of a task with the options that flags give it.

  Raises:
    InputError: unknown task, an option out of range, samples where they are of
      no use, no scorer where one is needed, or a missing package.
  """
  cli.require_known("task", [task], TASKS)
  if _SAMPLES.value is not None and task not in _JUDGE_SAMPLES:
    raise InputError(
      f"--samples={_SAMPLES.value} is of no use to --task={task}: leave it out."
    )
  return TASKS[task]()


def evaluate_run(task: str, options: Options) -> dict[str, Any]:
  """Evaluates a run on held-out records.

  Returns:
    The result, JSON-ready.

  Raises:
    InputError: an option, or the run, is wrong.
  """
  workdir, num = options.workdir, options.num or _NUM
  if _PLOTS.value is not None:
    files.require_writable_folder(_PLOTS.value)
  if workdir is None:
    raise InputError("--workdir is missing: give the directory of the run.")
  run = Run.from_workdir(workdir).with_path(options.path)
  if options.steps is not None:
    run = run.with_sampler(steps=options.steps)
  options.unless_forced(
    lambda: run.require_memory_to_sample(num, options.batch_size)
  )
  evaluation = make_evaluation(task)
  step = denoiser = None
  if _SAMPLES.value is None:
    step, denoiser = run.restore(workdir)
  begin = time.perf_counter()
  result = evaluate(
    evaluation,
    run,
    denoiser,
    num=num,
    split=options.split,
    seed=options.seed,
    batch_size=options.batch_size,
  )
  return {
    "task": task,
    **result,
    "seconds": time.perf_counter() - begin,
    "train_steps": step,
    "samples_file": _SAMPLES.value,
    "sampler": dataclasses.asdict(run.sampler) if denoiser else None,
    "path": run.path.to_config(),
    "config": run.config,
    "versions": files.versions(),
  }
