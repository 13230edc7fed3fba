"""Measurements of one method on sequences: likelihoods, curves and samples."""

import dataclasses
import pathlib
from typing import Any

import jax

from flexmdm_jax.evaluation.generative_perplexity import text_report
from flexmdm_jax.evaluation.lengths import lengths_of
from flexmdm_jax.evaluation.likelihood import HeldOutLikelihood
from flexmdm_jax.evaluation.samples import (
  Records,
  make_samples,
  sequences_of,
)
from flexmdm_jax.evaluation.scorers import Scorer
from flexmdm_jax.metrics.lengths import length_report
from flexmdm_jax.models.denoiser import ModelDenoiser
from flexmdm_jax.runs import Run
from flexmdm_jax.training.checkpoint import saved_steps


@dataclasses.dataclass(frozen=True)
class Measurements:
  """Choice of what to measure of each method, the same for all.

  Attributes:
    paths: paths on which a model that inserts is sampled and bounded, as
      `paths.parse` takes them; curves are of the first.
    sampling_steps: numbers of network calls to sample with.
    num_times: network calls for each bound, at most.
    batch_size: rows at once.
  """

  paths: tuple[str, ...]
  sampling_steps: tuple[int, ...]
  num_times: int = 128
  batch_size: int = 250

  def likelihoods(
    self, run: Run, denoiser: ModelDenoiser, records: Records
  ) -> list[dict[str, Any]]:
    """Measures every likelihood that the method has, JSON-ready.

    Args:
      run: what was trained, on sequences.
      denoiser: EMA parameters of the run.
      records: held-out sequences.

    Returns:
      The fields of `Likelihood` for each path, with "path"; "" for a method
      that has one way only. The paper's bound is on the trained path.
    """
    kinds = [(path, "tight") for path in self._paths(run)]
    if run.task.inserts:
      kinds.append(("trained", "paper"))
    results = []
    for path, kind in kinds:
      likelihood = HeldOutLikelihood(kind, self.num_times)
      found = likelihood.measure(
        run.with_path(path or None),
        denoiser,
        records,
        jax.random.key(0),
        self.batch_size,
      )
      results.append({"path": path, **dataclasses.asdict(found)})
    return results

  def curve(
    self, run: Run, workdir: pathlib.Path, records: Records
  ) -> tuple[list[int], list[float]]:
    """Measures the tight bound at every checkpoint that a run has kept.

    Args:
      run: what was trained, on sequences.
      workdir: directory of the run.
      records: held-out sequences.

    Returns:
      (steps, nats a sequence), ascending.
    """
    chosen = run.with_path(self._paths(run)[0] or None)
    likelihood = HeldOutLikelihood(num_times=self.num_times)
    steps = saved_steps(workdir)
    nats = []
    for step in steps:
      _, denoiser = run.restore(workdir, step)
      found = likelihood.measure(
        chosen, denoiser, records, jax.random.key(0), self.batch_size
      )
      nats.append(found.nats)
    return steps, nats

  def samples(
    self,
    run: Run,
    denoiser: ModelDenoiser,
    records: Records,
    scorer: Scorer | None,
  ) -> list[dict[str, Any]]:
    """Measures lengths and text of samples, by path and calls, JSON-ready.

    An autoregressive model has one way to sample: its entry is the longest
    row's number of calls.

    Args:
      run: what was trained, on unconditional sequences.
      denoiser: EMA parameters of the run.
      records: held-out sequences to compare with; as many samples are made.
      scorer: scorer of the samples as text; None where they are none.
    """
    true = lengths_of(sequences_of(records))
    task = run.task
    results = []
    for path in self._paths(run):
      for steps in (task.max_length,) if task.causal else self.sampling_steps:
        made, truncated = make_samples(
          run.with_path(path or None).with_sampler(steps=steps),
          denoiser,
          records,
          jax.random.key(0),
          self.batch_size,
        )
        report = {
          "path": path,
          "calls": steps,
          **length_report(lengths_of(made), true, task.max_length),
          "truncated": truncated,
        }
        if scorer is not None:
          texts = [task.to_text(sequence) for sequence in made]
          report |= text_report(made, texts, scorer.score(texts))
          report["examples"] = texts[:8]
        results.append(report)
    return results

  def _paths(self, run: Run) -> tuple[str, ...]:
    """Returns the paths of a model that inserts; "" alone for another."""
    return self.paths if run.task.inserts else ("",)
