"""The table of methods on one text: likelihoods, samples and curves."""

import math
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from flexmdm_jax import files
from flexmdm_jax.evaluation import markdown
from flexmdm_jax.evaluation.likelihood import entropy
from flexmdm_jax.evaluation.run_scorer import RunScorer
from flexmdm_jax.evaluation.samples import held_out
from flexmdm_jax.evaluation.scorers import Scorer
from flexmdm_jax.evaluation.text_methods import Measurements
from flexmdm_jax.evaluation.train_once import train_once
from flexmdm_jax.models.parameters import num_parameters
from flexmdm_jax.runs import Run

# The autoregressive model first: it may be what the others are scored with.
METHODS = ("autoregressive", "mdm", "flexmdm")


def make_tables(
  config: Mapping[str, Any],
  name: str,
  out: pathlib.Path,
  measurements: Measurements,
  *,
  num: int,
  curve_num: int,
  scorer: Scorer | None = None,
  overwrite: bool = False,
) -> Iterator[dict[str, Any]]:
  """Trains and measures every method; yields the results so far after each.

  What was trained before is not trained again.

  Args:
    config: settings of a run on sequences, of which the method is set here.
    name: name of the config, with which the directories of the runs begin.
    out: folder of the runs.
    measurements: what to measure of each method.
    num: number of held-out texts, and of samples; all there are if fewer.
    curve_num: number of held-out texts at each checkpoint of the curves.
    scorer: scorer of samples; None takes the autoregressive run where the
      sequences are text.
    overwrite: move runs with another config aside.

  Returns:
    An iterator over `rows`, one for each method so far; `num`, the number of
    texts; `scorer`, its description; and `entropy`, nats, where it is known.
  """
  rows = []
  for method in METHODS:
    workdir = out / f"{name}_{method}"
    run = Run.from_config({**config, "method": method})
    denoiser, losses = train_once(run, workdir, overwrite=overwrite)
    if scorer is None and run.task.to_text([]) is not None:
      scorer = RunScorer(workdir)
    records = held_out(run, num)
    few = held_out(run, curve_num, "validation")
    rows.append(
      {
        **describe(run, losses[1][-1]),
        "curve": measurements.curve(run, workdir, few),
        "likelihood": measurements.likelihoods(run, denoiser, records),
        "samples": measurements.samples(run, denoiser, records, scorer),
      }
    )
    yield {
      "rows": rows,
      "num": len(records),
      "scorer": scorer and scorer.describe(),
      "entropy": entropy(run.task, records),
    }


def describe(run: Run, train_loss: float) -> dict[str, Any]:
  """Describes what was trained in a few numbers, JSON-ready."""
  return {
    "method": run.task.method,
    "targets": run.config["train"]["targets"],
    "parameters": num_parameters(run.model),
    "train_steps": run.loop.num_steps,
    "train_loss": train_loss,
  }


def write(out: pathlib.Path, name: str, results: Mapping[str, Any]) -> None:
  """Writes NAME.json, NAME.md and NAME.png, the curves, to a folder."""
  files.write_json(
    out / f"{name}.json", {**results, "versions": files.versions()}
  )
  files.write_text(out / f"{name}.md", to_markdown(results["rows"]))
  draw_curves(
    out / f"{name}.png", {x["method"]: x["curve"] for x in results["rows"]}
  )


def draw_curves(
  path: pathlib.Path, curves: Mapping[str, tuple[Sequence, Sequence]]
) -> None:
  """Draws the bounds of several methods against the training steps.

  Args:
    path: PNG file to write.
    curves: by method, what `Measurements.curve` returns.
  """
  from flexmdm_jax.pictures import figures  # matplotlib: an extra

  figures.plot_loss(path, curves, ylabel="-log p of a text, at most (nats)")


def to_markdown(rows: Sequence[Mapping[str, Any]]) -> str:
  """Formats two tables: likelihoods, and samples by network calls.

  Beside `nats`, "error" is the error of the bound of these very texts, which
  are the same for all methods; "over texts" is what other texts would change.

  Args:
    rows: the `rows` that `make_tables` yields.
  """
  head = ["method", "kind", "path", "nats", "error", "over texts"]
  head += ["bits/token", "bits/character"]
  lines = []
  for row in rows:
    for found in row["likelihood"]:
      lines.append(
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
  likelihoods = markdown.table(head, lines)
  head = ["method", "path", "calls", "length TV", "floor", "length W1"]
  head += ["perplexity", "entropy", "distinct-2"]
  samples = []
  for row in rows:
    for made in row["samples"]:
      samples.append(
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
  return f"{likelihoods}\n{markdown.table(head, samples)}"
