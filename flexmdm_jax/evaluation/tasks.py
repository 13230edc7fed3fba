"""What `experiments.evaluate` can measure: one function a task.

Each takes an experiment, its denoiser and a number of held-out records, and
returns a JSON-ready dict.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flexmdm_jax.data import brackets
from flexmdm_jax.data.tasks import BracketTask, MazeTask
from flexmdm_jax.errors import InputError
from flexmdm_jax.evaluation.lengths import total_variation
from flexmdm_jax.evaluation.planning import evaluate_planning
from flexmdm_jax.experiment import Experiment
from flexmdm_jax.likelihood import log_likelihood_bound
from flexmdm_jax.models.denoiser import ModelDenoiser


def evaluate(
  task: str,
  experiment: Experiment,
  denoiser: ModelDenoiser,
  *,
  num: int,
  seed: int = 0,
  batch_size: int = 256,
  num_times: int = 128,
) -> dict[str, Any]:
  """Evaluates a trained model on held-out records.

  Args:
    task: a key of `TASKS`.
    experiment: what was trained.
    denoiser: its EMA parameters.
    num: records, or samples; all there are if fewer.
    seed: of the sampling.
    batch_size: rows at once.
    num_times: network calls for each sequence of a likelihood.

  Raises:
    InputError: unknown task, or one that the data does not allow; num < 1.
  """
  if task not in TASKS:
    raise InputError(
      f"--task={task} is unknown: choose one of {', '.join(TASKS)}."
    )
  if num < 1:
    raise InputError(f"--num={num} must be at least 1.")
  source = experiment.task.records("test")
  records = [source[i] for i in range(min(num, len(source)))]
  key = jax.random.key(seed)
  options = dict(batch_size=batch_size, num_times=num_times)
  return {
    "num": len(records),
    **TASKS[task](experiment, denoiser, records, key, **options),
  }


def maze(experiment, denoiser, records, key, *, batch_size, **_):
  """Success rate and path lengths; see `planning.Planning`."""
  _require(experiment, MazeTask, "maze", "mazes")
  planning = evaluate_planning(
    key,
    denoiser,
    experiment.task,
    records,
    experiment.interpolant,
    experiment.sampler,
    batch_size,
  )
  return planning.summary()


def lengths(experiment, denoiser, records, key, *, batch_size, **_):
  """Length law of samples against that of the data."""
  task = experiment.task
  samples = experiment.sample(key, denoiser, task.start(records), batch_size)
  sequences = task.decode(samples.tokens, samples.length)
  made = [len(sequence) for sequence in sequences]
  true = [len(record["tokens"]) for record in records]
  result = {
    "length_tv": total_variation(made, true, task.max_length),
    "mean_length": float(np.mean(made)),
    "mean_length_data": float(np.mean(true)),
    "truncated": float(np.mean(samples.truncated)),
  }
  if isinstance(task, BracketTask):
    kinds = experiment.config["data"]["kinds"]
    result["balanced"] = float(
      np.mean([brackets.is_balanced(s, kinds) for s in sequences])
    )
  return result


def likelihood(experiment, denoiser, records, key, *, num_times, **_):
  """The paper's bound on the negative log-likelihood, nats a sequence."""
  task = experiment.task
  _require(experiment, BracketTask, "likelihood", "unconditional sequences")
  rows = [task.encode(record) for record in records]
  bound = log_likelihood_bound(
    key,
    denoiser,
    jnp.stack([row["tokens"] for row in rows]),
    jnp.stack([row["length"] for row in rows]),
    experiment.interpolant,
    task.vocab,
    num_times,
    kind="paper",
  )
  return {
    "kind": "paper",
    "num_times": num_times,
    "nats": float(np.mean(bound)),
    "stderr": float(np.std(bound) / np.sqrt(len(records))),
    "nats_per_token": float(
      np.sum(bound) / sum(len(record["tokens"]) for record in records)
    ),
  }


TASKS = {"maze": maze, "lengths": lengths, "likelihood": likelihood}


def _require(experiment, kind, task, what):
  if not isinstance(experiment.task, kind):
    raise InputError(
      f"--task={task} needs {what}, but this run is on"
      f" {experiment.config['data']['name']}."
    )
