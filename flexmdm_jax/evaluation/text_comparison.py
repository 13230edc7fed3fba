"""Methods compared on one text: the same trunk, data and training."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from flexmdm_jax.evaluation.generative_perplexity import text_report
from flexmdm_jax.evaluation.lengths import length_report
from flexmdm_jax.evaluation.likelihood import evaluate_likelihood
from flexmdm_jax.evaluation.samples import make_samples
from flexmdm_jax.evaluation.scorers import Scorer
from flexmdm_jax.experiment import Experiment, num_parameters
from flexmdm_jax.models.denoiser import ModelDenoiser


def likelihoods(
  experiment: Experiment,
  denoiser: ModelDenoiser,
  records: Sequence[Mapping[str, Any]],
  *,
  max_calls: int,
  batch_size: int,
) -> dict[str, Any]:
  """Every kind of likelihood that the method has, by kind, JSON-ready."""
  kinds = ("tight", "paper") if experiment.task.grows else ("tight",)
  measured = [
    evaluate_likelihood(
      jax.random.key(0),
      experiment,
      denoiser,
      records,
      kind=kind,
      max_calls=max_calls,
      batch_size=batch_size,
    )
    for kind in kinds
  ]
  return {x.kind: dataclasses.asdict(x) for x in measured}


def samples_by_steps(
  experiment: Experiment,
  denoiser: ModelDenoiser,
  records: Sequence[Mapping[str, Any]],
  sampling_steps: Sequence[int],
  scorer: Scorer,
  batch_size: int,
) -> dict[int, dict[str, Any]]:
  """Length law and text quality of samples, by network calls, JSON-ready.

  Args:
    experiment: what was trained, on text.
    denoiser: its EMA parameters.
    records: held-out, to compare with; as many samples are made.
    sampling_steps: numbers of network calls. An autoregressive model has one
      way to sample: its entry is the longest row's number of calls.
    scorer: of the samples as text.
    batch_size: rows at once.
  """
  true = [len(record["tokens"]) for record in records]
  if experiment.task.causal:
    sampling_steps = (experiment.task.max_length,)
  results = {}
  for steps in sampling_steps:
    chosen = dataclasses.replace(
      experiment,
      sampler=dataclasses.replace(experiment.sampler, steps=steps),
    )
    made, truncated = make_samples(
      chosen, denoiser, records, jax.random.key(0), batch_size
    )
    texts = [experiment.task.to_text(sequence) for sequence in made]
    results[steps] = {
      **length_report(
        [len(sequence) for sequence in made], true, experiment.task.max_length
      ),
      "truncated": truncated,
      **text_report(made, texts, scorer.score(texts)),
      "examples": texts[:8],
    }
  return results


def describe(experiment: Experiment, train_loss: float) -> dict[str, Any]:
  """What was trained, in a few numbers."""
  return {
    "method": experiment.task.method,
    "targets": experiment.config["train"]["targets"],
    "parameters": num_parameters(experiment.model),
    "train_steps": experiment.loop.num_steps,
    "train_loss": train_loss,
  }


def to_markdown(rows: Sequence[Mapping[str, Any]]) -> str:
  """Two tables: likelihoods, and samples by network calls.

  Of `nats`, "error" is that of the estimate of the bound of these texts, which
  are the same for all methods; "over texts" is what others would change.
  """
  head = ["method", "targets", "nats", "error", "over texts", "paper's bound"]
  head += ["bits/token", "bits/character"]
  lines = [_line(head), "|---" * len(head) + "|"]
  for row in rows:
    best = row["likelihood"].get("exact") or row["likelihood"]["tight"]
    paper = row["likelihood"].get("paper")
    lines.append(
      _line(
        [
          row["method"],
          row["targets"] if row["method"] == "flexmdm" else "",
          f"{best['nats']:.2f}",
          f"{best['stderr']:.2f}",
          f"{best['data_stderr']:.2f}",
          f"{paper['nats']:.2f}" if paper else "",
          f"{best['bits_per_token']:.3f}",
          f"{best['bits_per_character']:.3f}",
        ]
      )
    )
  head = ["method", "targets", "calls", "length TV", "floor", "length W1"]
  head += ["perplexity", "entropy", "distinct-2"]
  lines += ["", _line(head), "|---" * len(head) + "|"]
  for row in rows:
    for calls, made in row["samples"].items():
      lines.append(
        _line(
          [
            row["method"],
            row["targets"] if row["method"] == "flexmdm" else "",
            calls,
            f"{made['length_tv']:.3f}",
            f"{made['length_floor']['tv']:.3f}",
            f"{made['length_wasserstein_1']:.2f}",
            # None if every sample is empty.
            f"{made['perplexity'] or math.nan:.1f}",
            f"{made['unigram_entropy']:.2f}",
            f"{made['distinct_2']:.3f}",
          ]
        )
      )
  return "\n".join(lines) + "\n"


def _line(cells: Sequence[Any]) -> str:
  return "| " + " | ".join(map(str, cells)) + " |"
