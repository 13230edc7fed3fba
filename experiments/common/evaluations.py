"""Evaluations by the names that `--task` has, with flags for their options."""

from absl import flags

from experiments.common import cli, scorers
from flexmdm_jax.errors import InputError
from flexmdm_jax.evaluation.evaluation import Evaluation
from flexmdm_jax.evaluation.generative_perplexity import GenerativePerplexity
from flexmdm_jax.evaluation.lengths import LengthLaw
from flexmdm_jax.evaluation.likelihood import HeldOutLikelihood
from flexmdm_jax.evaluation.maze import MazePlanning
from flexmdm_jax.evaluation.scorers import Scorer
from flexmdm_jax.evaluation.variance import GradientVariance

flags.adopt_module_key_flags(scorers)
_KIND = flags.DEFINE_string("kind", "tight", "Kind of bound: tight or paper.")
_NUM_TIMES = cli.count(
  "num_times", 128, "Network calls a sequence for the likelihood, at most."
)
_STDERR = flags.DEFINE_float(
  "stderr", 0.0, "Standard error of the likelihood, in nats, at which to stop."
)
_SAMPLES = flags.DEFINE_string(
  "samples", None, "JSONL file of experiments.sample to judge; samples nothing."
)
_PLOTS = flags.DEFINE_string("plots", None, "Directory to draw pictures in.")
_MAUVE = flags.DEFINE_bool("mauve", False, "Compute MAUVE too, by the scorer.")


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
