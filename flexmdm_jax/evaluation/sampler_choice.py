"""Choice of a trained model's path and sampler, by what they reach at n calls.

Neither needs training: a model is right on every path, and any method samples
it. Which is best depends on how the model is wrong, so it is measured.
"""

import dataclasses
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from jaxtyping import Array, Key

from flexmdm_jax.errors import InputError
from flexmdm_jax.evaluation.generative_perplexity import perplexity
from flexmdm_jax.evaluation.lengths import lengths_of
from flexmdm_jax.evaluation.likelihood import HeldOutLikelihood
from flexmdm_jax.evaluation.maze import MazePlanning
from flexmdm_jax.evaluation.samples import Records, make_samples, sequences_of
from flexmdm_jax.evaluation.scorers import Scorer
from flexmdm_jax.exact import law_distance
from flexmdm_jax.metrics.lengths import length_report
from flexmdm_jax.models.denoiser import ModelDenoiser
from flexmdm_jax.runs import Run
from flexmdm_jax.sampling import SamplerConfig
from flexmdm_jax.schema import count, require
from flexmdm_jax.tasks import MarkovTask, MazeTask
from flexmdm_jax.tasks.task import SequenceTask

# What a model's sampler keeps, whichever is tried.
_KEPT = ("temperature", "top_p", "buckets")


class Trial(NamedTuple):
  """A path and a sampler, and what they reached.

  Attributes:
    path: the path, as it was given; "trained" for a model that has none to
      choose.
    sampler: the sampler's name.
    calls: network calls at most.
    error: what the choice makes small; infinite where nothing was measured.
    report: all that was measured, JSON-ready.
  """

  path: str
  sampler: str
  calls: int
  error: float
  report: dict[str, Any]

  def summary(self) -> dict[str, Any]:
    """Makes it JSON-ready, an infinite error None."""
    error = self.error if math.isfinite(self.error) else None
    return {**self._asdict(), "error": error}


@dataclasses.dataclass(frozen=True)
class SamplerChoice:
  """Search for the best path and sampler of a trained model.

  What it makes small depends on the task. In mazes it is the share of problems
  that are not solved. Where the law is known (the hidden Markov language), the
  mean of two distances, each over that of perfect samples: of the lengths, and
  of -log p given the length. With a scorer of text, how far the perplexity of
  samples is from that of held-out text, in its logarithm: a lower one is no
  better. Else the distance of the lengths.

  Attributes:
    paths: paths to try, as `paths.parse` takes them; a model that does not
      insert has "trained" alone.
    samplers: name -> fields of `SamplerConfig` but for the steps; temperature,
      top_p and buckets are the run's where they are not given.
    calls: numbers of network calls.
    scorer: scorer of the samples as text; None without.
    num_times: network calls for each bound, at most.
    batch_size: rows at once.

  Raises:
    InputError: there is no path, sampler or number of calls, or a sampler with
      one of these numbers of calls has a wrong field.
  """

  paths: tuple[str, ...]
  samplers: Mapping[str, Mapping[str, Any]]
  calls: tuple[int, ...]
  scorer: Scorer | None = None
  num_times: int = count(128)
  batch_size: int = count(64)

  def __post_init__(self):
    require(self, "choice")
    for name in ("paths", "samplers", "calls"):
      if not getattr(self, name):
        raise InputError(f"{name} is empty: give at least one.")
    for fields in self.samplers.values():
      for n in self.calls:
        SamplerConfig(steps=n, **fields)

  def bounds(
    self,
    run: Run,
    denoiser: ModelDenoiser,
    records: Records,
    key: Key[Array, ""],
  ) -> dict[str, dict[str, Any]]:
    """Measures the tight bound on each path, JSON-ready.

    Args:
      run: what was trained.
      denoiser: EMA parameters of the run.
      records: held-out records, at least two.
      key: one key.

    Returns:
      path -> the fields of `Likelihood`; nothing for a task with something
      given, whose sequences have no bound.

    Raises:
      InputError: a path is none, or as `HeldOutLikelihood.measure`.
    """
    runs = self._runs(run)
    if not isinstance(run.task, SequenceTask):
      return {}
    likelihood = HeldOutLikelihood(num_times=self.num_times)
    return {
      path: likelihood(one, denoiser, records, key, self.batch_size)
      for path, one in runs.items()
    }

  def trials(
    self,
    run: Run,
    denoiser: ModelDenoiser,
    records: Records,
    key: Key[Array, ""],
  ) -> Iterator[Trial]:
    """Tries every sampler on every path with every number of calls.

    Args:
      run: what was trained.
      denoiser: EMA parameters of the run.
      records: held-out records; one sample is made for each.
      key: one key; all trials have the same.

    Yields:
      A `Trial` each.

    Raises:
      InputError: a path is none, or there is nothing to choose: the model
        reads from left to right, or a scorer is given and tokens are no text.
    """
    runs = self._runs(run)
    true = self._scores(run, sequences_of(records)) if self.scorer else None
    for path, one in runs.items():
      for name, fields in self.samplers.items():
        for n in self.calls:
          kept = {field: getattr(run.sampler, field) for field in _KEPT}
          config = SamplerConfig(steps=n, **{**kept, **fields})
          tried = dataclasses.replace(one, sampler=config)
          error, report = self._measure(tried, denoiser, records, key, true)
          yield Trial(path, name, n, error, report)

  def _runs(self, run: Run) -> dict[str, Run]:
    """Makes the run on each path."""
    if run.task.causal:
      raise InputError(
        "method=autoregressive has no sampler to choose: it reads from left to"
        " right."
      )
    if self.scorer is not None and run.task.to_text([]) is None:
      raise InputError(
        f"a scorer needs text, but this run is on {run.config['data']['name']}."
      )
    if not run.task.inserts:
      return {"trained": run}
    return {path: run.with_path(path) for path in self.paths}

  def _measure(
    self, run, denoiser, records, key, true
  ) -> tuple[float, dict[str, Any]]:
    """Measures samples: what to make small, and all that is known."""
    task = run.task
    if isinstance(task, MazeTask):
      score = MazePlanning().measure(
        run, denoiser, records, key, self.batch_size
      )
      return 1 - score.success, score.summary()
    made, truncated = make_samples(run, denoiser, records, key, self.batch_size)
    report = {
      **length_report(
        lengths_of(made), lengths_of(sequences_of(records)), task.max_length
      ),
      "truncated": truncated,
    }
    if isinstance(task, MarkovTask):
      distance = law_distance(task.language, made)
      report["law"] = dataclasses.asdict(distance)
      if distance.excess_given_length is None:
        return math.inf, report
      floor = distance.floor
      lengths = distance.length_ks / floor.length_ks
      excess = abs(distance.excess_given_length) / floor.excess_given_length
      return (lengths + excess) / 2, report
    if true is None:
      return report["length_ks"], report
    scored = self._scores(run, made)
    report |= {**scored, "perplexity_data": true["perplexity"]}
    if scored["perplexity"] is None or true["perplexity"] is None:
      return math.inf, report
    return abs(math.log(scored["perplexity"] / true["perplexity"])), report

  def _scores(
    self, run: Run, sequences: Sequence[Sequence[int]]
  ) -> dict[str, Any]:
    """Computes the perplexity of sequences under the scorer."""
    texts = [run.task.to_text(sequence) for sequence in sequences]
    return perplexity(self.scorer.score(texts).nats)


def best(trials: Iterable[Trial]) -> dict[int, Trial]:
  """Picks the trial of least error at each number of calls, the first of ties.

  Args:
    trials: what `SamplerChoice.trials` yields.

  Returns:
    calls -> the trial, ascending.
  """
  found: dict[int, Trial] = {}
  for trial in trials:
    if trial.calls not in found or trial.error < found[trial.calls].error:
      found[trial.calls] = trial
  return dict(sorted(found.items()))
