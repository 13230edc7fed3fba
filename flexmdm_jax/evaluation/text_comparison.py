"""Methods compared on one data set: the same trunk, data and training."""

import dataclasses
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from flexmdm_jax.evaluation.generative_perplexity import text_report
from flexmdm_jax.evaluation.likelihood import evaluate_likelihood
from flexmdm_jax.evaluation.samples import make_samples
from flexmdm_jax.evaluation.scorers import Scorer
from flexmdm_jax.metrics.lengths import length_report
from flexmdm_jax.models.denoiser import ModelDenoiser
from flexmdm_jax.runs import Run, num_parameters
from flexmdm_jax.training.checkpoint import saved_steps


def likelihoods(
  run: Run,
  denoiser: ModelDenoiser,
  records: Sequence[Mapping[str, Any]],
  paths: Sequence[str],
  *,
  max_calls: int,
  batch_size: int,
) -> list[dict[str, Any]]:
  """Every likelihood that the method has, JSON-ready.

  Args:
    run: what was trained, on sequences.
    denoiser: its EMA parameters.
    records: held-out sequences.
    paths: those on which a model that inserts is bounded, as `paths.parse`
      takes them.
    max_calls: network calls of a bound, at most.
    batch_size: rows at once.

  Returns:
    The fields of `Likelihood` for each path, with "path"; "" for a method that
    has one way only. The paper's bound is of the trained path.
  """
  if run.task.inserts:
    measured = [*((path, "tight") for path in paths), ("trained", "paper")]
  else:
    measured = [("", "tight")]
  return [
    {
      "path": path,
      **dataclasses.asdict(
        evaluate_likelihood(
          jax.random.key(0),
          run.with_path(path or None),
          denoiser,
          records,
          kind=kind,
          max_calls=max_calls,
          batch_size=batch_size,
        )
      ),
    }
    for path, kind in measured
  ]


def likelihood_curve(
  run: Run,
  workdir: pathlib.Path,
  records: Sequence[Mapping[str, Any]],
  path: str,
  *,
  max_calls: int,
  batch_size: int,
) -> tuple[list[int], list[float]]:
  """The tight bound at every checkpoint that a run has kept.

  Args:
    run: what was trained, on sequences.
    workdir: of the run.
    records: held-out sequences.
    path: as for `likelihoods`.
    max_calls: network calls of a bound.
    batch_size: rows at once.

  Returns:
    (steps, nats a sequence), ascending.
  """
  chosen = run.with_path(path if run.task.inserts else None)
  steps = saved_steps(workdir)
  nats = []
  for step in steps:
    _, denoiser = run.restore(workdir, step)
    found = evaluate_likelihood(
      jax.random.key(0),
      chosen,
      denoiser,
      records,
      max_calls=max_calls,
      batch_size=batch_size,
    )
    nats.append(found.nats)
  return steps, nats


def samples_by_steps(
  run: Run,
  denoiser: ModelDenoiser,
  records: Sequence[Mapping[str, Any]],
  paths: Sequence[str],
  sampling_steps: Sequence[int],
  scorer: Scorer | None,
  batch_size: int,
) -> list[dict[str, Any]]:
  """Length law and text quality of samples, by path and calls, JSON-ready.

  Args:
    run: what was trained, on unconditional sequences.
    denoiser: its EMA parameters.
    records: held-out, to compare with; as many samples are made.
    paths: as for `likelihoods`.
    sampling_steps: numbers of network calls. An autoregressive model has one
      way to sample: its entry is the longest row's number of calls.
    scorer: of the samples as text; None where they are none.
    batch_size: rows at once.
  """
  true = [len(record["tokens"]) for record in records]
  if run.task.causal:
    sampling_steps = (run.task.max_length,)
  results = []
  for path in paths if run.task.inserts else ("",):
    for steps in sampling_steps:
      chosen = run.with_path(path or None).with_sampler(steps=steps)
      made, truncated = make_samples(
        chosen, denoiser, records, jax.random.key(0), batch_size
      )
      lengths = [len(sequence) for sequence in made]
      report = {
        "path": path,
        "calls": steps,
        **length_report(lengths, true, run.task.max_length),
        "truncated": truncated,
      }
      if scorer is not None:
        texts = [run.task.to_text(sequence) for sequence in made]
        report |= text_report(made, texts, scorer.score(texts))
        report["examples"] = texts[:8]
      results.append(report)
  return results


def entropy(run: Run, records: Sequence[Mapping[str, Any]]) -> float | None:
  """The exact mean of `-log p` of records, nats, where their law is known."""
  language = getattr(run.task, "language", None)
  if language is None:
    return None
  return -float(language.log_prob([x["tokens"] for x in records]).mean())


def draw_curves(
  path: pathlib.Path, curves: Mapping[str, tuple[Sequence, Sequence]]
) -> None:
  """Draws the bounds of several methods against the training steps.

  Args:
    path: PNG file to write.
    curves: by method, as `likelihood_curve` returns them.
  """
  from flexmdm_jax.pictures import figures  # matplotlib: an extra

  figures.plot_loss(path, curves, ylabel="-log p of a text, at most (nats)")


def describe(run: Run, train_loss: float) -> dict[str, Any]:
  """What was trained, in a few numbers."""
  return {
    "method": run.task.method,
    "targets": run.config["train"]["targets"],
    "parameters": num_parameters(run.model),
    "train_steps": run.loop.num_steps,
    "train_loss": train_loss,
  }


def to_markdown(rows: Sequence[Mapping[str, Any]]) -> str:
  """Two tables: likelihoods, and samples by network calls.

  Of `nats`, "error" is that of the estimate of the bound of these texts, which
  are the same for all methods; "over texts" is what others would change.
  """
  head = ["method", "kind", "path", "nats", "error", "over texts"]
  head += ["bits/token", "bits/character"]
  lines = [_line(head), "|---" * len(head) + "|"]
  for row in rows:
    for found in row["likelihood"]:
      lines.append(
        _line(
          [
            row["method"],
            found["kind"],
            found["path"],
            f"{found['nats']:.2f}",
            f"{found['stderr']:.2f}",
            f"{found['data_stderr']:.2f}",
            f"{found['bits_per_token']:.3f}",
            f"{found['bits_per_character'] or math.nan:.3f}",
          ]
        )
      )
  head = ["method", "path", "calls", "length TV", "floor", "length W1"]
  head += ["perplexity", "entropy", "distinct-2"]
  lines += ["", _line(head), "|---" * len(head) + "|"]
  for row in rows:
    for made in row["samples"]:
      lines.append(
        _line(
          [
            row["method"],
            made["path"],
            made["calls"],
            f"{made['length_tv']:.3f}",
            f"{made['length_floor']['tv']:.3f}",
            f"{made['length_wasserstein_1']:.2f}",
            # None if every sample is empty; missing where they are no text.
            f"{made.get('perplexity') or math.nan:.1f}",
            f"{made.get('unigram_entropy', math.nan):.2f}",
            f"{made.get('distinct_2', math.nan):.3f}",
          ]
        )
      )
  return "\n".join(lines) + "\n"


def _line(cells: Sequence[Any]) -> str:
  return "| " + " | ".join(map(str, cells)) + " |"
