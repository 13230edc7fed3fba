"""What `experiments.evaluate` can measure: one function a task.

Each takes a run, its denoiser and a number of held-out records, and
returns a JSON-ready dict.
"""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from flexmdm_jax.data.splits import require_split
from flexmdm_jax.errors import InputError
from flexmdm_jax.evaluation.generative_perplexity import (
  import_mauve,
  mauve_of_scores,
  text_report,
)
from flexmdm_jax.evaluation.likelihood import evaluate_likelihood
from flexmdm_jax.evaluation.planning import evaluate_planning
from flexmdm_jax.evaluation.samples import (
  held_out,
  make_samples,
  read_samples,
)
from flexmdm_jax.evaluation.scorers import Scorer
from flexmdm_jax.evaluation.text_comparison import entropy
from flexmdm_jax.evaluation.variance import gradient_variance
from flexmdm_jax.metrics.lengths import length_report
from flexmdm_jax.models.denoiser import ModelDenoiser
from flexmdm_jax.runs import Run
from flexmdm_jax.tasks import BracketTask, MarkovTask, MazeTask
from flexmdm_jax.tasks.brackets import law as brackets
from flexmdm_jax.tasks.text.task import TextTask


def evaluate(
  task: str,
  run: Run,
  denoiser: ModelDenoiser | None,
  *,
  num: int,
  split: str = "test",
  seed: int = 0,
  batch_size: int = 256,
  kind: str = "tight",
  num_times: int = 128,
  max_stderr: float = 0.0,
  samples: str | pathlib.Path | None = None,
  scorer: Scorer | None = None,
  mauve: bool = False,
  plots: str | pathlib.Path | None = None,
) -> dict[str, Any]:
  """Evaluates a trained model on held-out records.

  Args:
    task: a key of `TASKS`.
    run: what was trained.
    denoiser: its EMA parameters; None if `samples` are given.
    num: records, or samples to make; all there are if fewer.
    split: the records'; "test/NAME" is a source's of a mixture.
    seed: of the sampling.
    batch_size: rows at once.
    kind: of the likelihood's bound, "tight" or "paper".
    num_times: network calls for each sequence of a likelihood, at most.
    max_stderr: error of the likelihood, nats a sequence, at which to stop.
    samples: a file that `experiments.sample` wrote, to be judged whole in place
      of new samples, by the tasks "lengths" and "generative_perplexity".
    scorer: what "generative_perplexity" scores with.
    mauve: whether it computes MAUVE too.
    plots: a folder where those two tasks draw pictures, or None.

  Raises:
    InputError: unknown task or split, or one that the data does not allow;
      num < 1; `samples` where they are of no use, or damaged; no scorer where
      one is needed, or a missing package.
  """
  if task not in TASKS:
    raise InputError(
      f"--task={task} is unknown: choose one of {', '.join(TASKS)}."
    )
  if num < 1:
    raise InputError(f"--num={num} must be at least 1.")
  require_split(split.partition("/")[0])
  if samples is not None and TASKS[task] not in (
    lengths,
    generative_perplexity,
  ):
    raise InputError(
      f"--samples={samples} is of no use to --task={task}: leave it out."
    )
  records = held_out(run, num, split)
  key = jax.random.key(seed)
  options = dict(
    batch_size=batch_size,
    kind=kind,
    num_times=num_times,
    max_stderr=max_stderr,
    samples=samples,
    scorer=scorer,
    mauve=mauve,
    plots=plots,
  )
  return {
    "split": split,
    "num": len(records),
    **TASKS[task](run, denoiser, records, key, **options),
  }


def maze(run, denoiser, records, key, *, batch_size, **_):
  """Success rate and path lengths; see `planning.Planning`."""
  _require(run, MazeTask, "maze", "mazes")
  planning = evaluate_planning(key, run, denoiser, records, batch_size)
  return planning.summary()


def lengths(run, denoiser, records, key, *, batch_size, samples, plots, **_):
  """Length law of samples against that of the data; see `length_report`."""
  task = run.task
  made, truncated = (
    make_samples(run, denoiser, records, key, batch_size)
    if samples is None
    else read_samples(samples, task.vocab)
  )
  true = _data(records)
  result = {
    "num_samples": len(made),
    **length_report(_lengths(made), _lengths(true), task.max_length),
    "truncated": truncated,
  }
  if isinstance(task, BracketTask):
    kinds = run.config["data"]["kinds"]
    result["balanced"] = float(
      np.mean([brackets.is_balanced(s, kinds) for s in made])
    )
  if plots is not None:
    _draw_lengths(plots, task.method, made, true)
  return result


def generative_perplexity(
  run,
  denoiser,
  records,
  key,
  *,
  batch_size,
  samples,
  scorer,
  mauve,
  plots,
  **_,
):
  """Samples as text under a scorer, and held-out data as the yardstick.

  The two are reported alike, see `text_report`; the perplexities stand on top.
  """
  task = run.task
  if task.to_text([]) is None:
    raise InputError(
      "--task=generative_perplexity needs text, but this run is on"
      f" {run.config['data']['name']}."
    )
  if scorer is None:
    raise InputError(
      "--task=generative_perplexity needs a scorer: give --scorer=gpt2-large,"
      " or the folder of another causal language model."
    )
  if mauve:
    import_mauve()  # is it there? before any work
  made, truncated = (
    make_samples(run, denoiser, records, key, batch_size)
    if samples is None
    else read_samples(samples, task.vocab)
  )
  true = _data(records)
  scores, reports = {}, {}
  for name, sequences in (("samples", made), ("data", true)):
    texts = [task.to_text(sequence) for sequence in sequences]
    scores[name] = scorer.score(texts, features=mauve)
    reports[name] = text_report(sequences, texts, scores[name])
  result = {
    "perplexity": reports["samples"]["perplexity"],
    "perplexity_data": reports["data"]["perplexity"],
    **length_report(_lengths(made), _lengths(true), task.max_length),
    "truncated": truncated,
    **reports,
    "scorer": scorer.describe(),
  }
  if mauve:
    result["mauve"] = mauve_of_scores(scores["data"], scores["samples"])
  if plots is not None:
    _draw_lengths(plots, task.method, made, true)
    _plots().plot_perplexity_by_length(
      pathlib.Path(plots) / "perplexity_by_length.png",
      reports["data"]["by_length"],
      {task.method: reports["samples"]["by_length"]},
    )
  return result


def likelihood(
  run,
  denoiser,
  records,
  key,
  *,
  kind,
  num_times,
  max_stderr,
  batch_size,
  **_,
):
  """The likelihood, or a bound on it; see `likelihood.Likelihood`.

  On a hidden Markov language it also tells `entropy`, the exact mean of
  `-log p` of the very sequences that are scored, in nats, and `nats_above`,
  how many more nats the model needs.
  """
  task = run.task
  kinds = (BracketTask, MarkovTask, TextTask)
  _require(run, kinds, "likelihood", "unconditional sequences")
  result = evaluate_likelihood(
    key,
    run,
    denoiser,
    records,
    kind=kind,
    max_stderr=max_stderr,
    max_calls=num_times,
    batch_size=batch_size,
  )
  report = dataclasses.asdict(result)
  if isinstance(task, MarkovTask):
    exact = entropy(run, records)
    report |= {"entropy": exact, "nats_above": result.nats - exact}
  return report


def variance(run, denoiser, records, key, **_):
  """Of the gradient, by targets; see `gradient_variance`."""
  return gradient_variance(key, run, denoiser, records)


TASKS = {
  "maze": maze,
  "lengths": lengths,
  "generative_perplexity": generative_perplexity,
  "likelihood": likelihood,
  "gradient_variance": variance,
}


def _data(records: Sequence[Mapping[str, np.ndarray]]) -> list[list[int]]:
  return [[int(token) for token in record["tokens"]] for record in records]


def _lengths(sequences: Sequence[Sequence[int]]) -> list[int]:
  return [len(sequence) for sequence in sequences]


def _draw_lengths(folder, method, made, true):
  _plots().plot_length_law(
    pathlib.Path(folder) / "lengths.png",
    np.array(_lengths(true)),
    {method: np.array(_lengths(made))},
  )


def _plots():
  try:
    from flexmdm_jax.pictures import figures as plots
  except ImportError as error:
    raise InputError(
      f"--plots needs the package {error.name}: pip install matplotlib."
    ) from error
  return plots


def _require(run, kind, task, what):
  if not isinstance(run.task, kind):
    raise InputError(
      f"--task={task} needs {what}, but this run is on"
      f" {run.config['data']['name']}."
    )
