"""Generative perplexity: samples judged as text by a scorer, and MAUVE.

A perplexity says little alone: a model that repeats itself has a low one. Read
it beside that of held-out data under the same scorer, and beside the entropy
and the lengths of the samples.
"""

import dataclasses
import importlib.metadata
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from flexmdm_jax.errors import InputError
from flexmdm_jax.evaluation.evaluation import Evaluation
from flexmdm_jax.evaluation.lengths import (
  draw_lengths,
  import_figures,
  lengths_of,
)
from flexmdm_jax.evaluation.samples import read_or_make, sequences_of
from flexmdm_jax.evaluation.scorers import Scorer, Scores
from flexmdm_jax.metrics.diversity import distinct_n, unigram_entropy
from flexmdm_jax.metrics.lengths import length_report

# MAUVE takes one cluster for ten texts, and at least two clusters.
MIN_MAUVE_TEXTS = 20


@dataclasses.dataclass(frozen=True)
class GenerativePerplexity(Evaluation):
  """Perplexity of samples under a scorer, beside that of held-out data.

  The two are reported alike, see `text_report`; the perplexities stand on top.

  Attributes:
    scorer: the language model that scores.
    mauve: whether to compute MAUVE too.
    samples: a file that `experiments.sample` wrote, to be judged whole in place
      of new samples; None makes one for each record.
    plots: folder in which to draw lengths.png and perplexity_by_length.png;
      None draws nothing.

  Raises:
    InputError: `mauve` needs a package that is missing.
  """

  scorer: Scorer
  mauve: bool = False
  samples: str | pathlib.Path | None = None
  plots: str | pathlib.Path | None = None

  def __post_init__(self):
    if self.mauve:
      import_mauve()  # is it there? before any work

  def __call__(self, run, denoiser, records, key, batch_size=256):
    task = run.task
    if task.to_text([]) is None:
      raise InputError(
        "generative_perplexity needs text, but this run is on"
        f" {run.config['data']['name']}."
      )
    made, truncated = read_or_make(
      self.samples, run, denoiser, records, key, batch_size
    )
    true = sequences_of(records)
    scores, reports = {}, {}
    for name, sequences in (("samples", made), ("data", true)):
      texts = [task.to_text(sequence) for sequence in sequences]
      scores[name] = self.scorer.score(texts, features=self.mauve)
      reports[name] = text_report(sequences, texts, scores[name])
    result = {
      "perplexity": reports["samples"]["perplexity"],
      "perplexity_data": reports["data"]["perplexity"],
      **length_report(lengths_of(made), lengths_of(true), task.max_length),
      "truncated": truncated,
      **reports,
      "scorer": self.scorer.describe(),
    }
    if self.mauve:
      result["mauve"] = mauve_of_scores(scores["data"], scores["samples"])
    if self.plots is not None:
      draw_lengths(self.plots, true, {task.method: made})
      import_figures().plot_perplexity_by_length(
        pathlib.Path(self.plots) / "perplexity_by_length.png",
        reports["data"]["by_length"],
        {task.method: reports["samples"]["by_length"]},
      )
    return result


def perplexity(nats: Sequence[np.ndarray]) -> dict[str, float | int | None]:
  """Computes the perplexity of a set of texts.

  Args:
    nats: for each text f32[number of its scored tokens], -log p of each, as
      `scorers.Scores` has them. Texts without a scored token count for nothing.

  Returns:
    `perplexity`: exp(nats of all texts / scored tokens of all texts).
    `perplexity_stderr`: its standard error over texts, of the ratio by the
      delta method; None with fewer than two texts.
    `mean_text_perplexity`, `median_text_perplexity`: mean and median over texts
      of exp(nats / tokens); the mean is ruled by a few odd texts.
    `scored_texts`, `scored_tokens`.
    All perplexities are None if nothing was scored.
  """
  scored = [np.asarray(x, np.float64) for x in nats if len(x)]
  N = len(scored)
  tokens = np.array([len(x) for x in scored], int)
  total = np.array([x.sum() for x in scored])
  result: dict[str, float | int | None] = {
    "perplexity": None,
    "perplexity_stderr": None,
    "mean_text_perplexity": None,
    "median_text_perplexity": None,
    "scored_texts": N,
    "scored_tokens": int(tokens.sum()),
  }
  if N > 0:
    rate = total.sum() / tokens.sum()
    each = np.exp(total / tokens)
    result["perplexity"] = float(np.exp(rate))
    result["mean_text_perplexity"] = float(each.mean())
    result["median_text_perplexity"] = float(np.median(each))
  if N > 1:
    variance = N / (N - 1) * np.sum((total - rate * tokens) ** 2)
    stderr = np.exp(rate) * np.sqrt(variance) / tokens.sum()
    result["perplexity_stderr"] = float(stderr)
  return result


def perplexity_by_length(nats: Sequence[np.ndarray]) -> list[dict[str, Any]]:
  """Computes the perplexity of the texts of like length.

  Args:
    nats: as for `perplexity`.

  Returns:
    a bin for each doubling of the scored tokens (1, 2 to 3, 4 to 7, ...) that
    holds a text: `min_tokens`, `max_tokens` and what `perplexity` returns. The
    bins are the same for every set, so that sets can be compared.
  """
  groups: dict[int, list[np.ndarray]] = {}
  for text in nats:
    if len(text):
      groups.setdefault(len(text).bit_length() - 1, []).append(text)
  return [
    {"min_tokens": 2**k, "max_tokens": 2 ** (k + 1) - 1, **perplexity(group)}
    for k, group in sorted(groups.items())
  ]


def text_report(
  sequences: Sequence[Sequence[int]], texts: Sequence[str], scores: Scores
) -> dict[str, Any]:
  """Describes a set of texts in numbers, JSON-ready.

  It is the same for samples and data.

  Args:
    sequences: N texts as ids in the vocabulary of the model.
    texts: the same as text.
    scores: what a scorer says of the texts.

  Returns:
    counts: `texts`, `empty_texts`, which no perplexity sees, and `cut_texts`,
    of which the scorer read the beginning only; what `perplexity` returns, and
    `by_length`; `unigram_entropy` in nats, and `distinct_1` to `distinct_3`.
  """
  return {
    "texts": len(texts),
    "empty_texts": sum(not text for text in texts),
    "cut_texts": int(np.sum(scores.truncated)),
    **perplexity(scores.nats),
    "unigram_entropy": unigram_entropy(sequences),
    **{f"distinct_{n}": distinct_n(sequences, n) for n in (1, 2, 3)},
    "by_length": perplexity_by_length(scores.nats),
  }


def mauve_of_scores(data: Scores, samples: Scores) -> dict[str, Any]:
  """Computes `mauve_score` from the first N texts of both with features.

  N is the smaller number of the two, as MAUVE compares sets of one size. A
  model that makes empty texts may leave too few: then `mauve` and `mauve_star`
  are None, and the other results stand.

  Raises:
    InputError: the package is missing.
  """
  p, q = (
    scores.features[np.isfinite(scores.features).all(-1)]
    for scores in (data, samples)
  )
  N = min(len(p), len(q))
  if N < MIN_MAUVE_TEXTS:
    return {"mauve": None, "mauve_star": None, "texts": N}
  return mauve_score(p[:N], q[:N])


def mauve_score(
  p_features: np.ndarray,
  q_features: np.ndarray,
  *,
  num_buckets: int | None = None,
  scaling_factor: float = 5.0,
  seed: int = 25,
) -> dict[str, Any]:
  """Computes MAUVE between two sets of texts, from features of a scorer.

  The number depends on the scorer, on N and on the buckets: compare only under
  the same. Its authors advise a few thousand texts on either side.

  Args:
    p_features: f32[N, D], features of the data, as `scorers.Scores` has them.
    q_features: f32[N, D], features of the samples.
    num_buckets: clusters of the features; if None N / 10, the authors' choice.
    scaling_factor: the authors' constant c.
    seed: seed of the clustering.

  Returns:
    `mauve` and, smoothed, `mauve_star`, in [0, 1], 1 for the same law;
    `texts`: N; all settings and the package's version.

  Raises:
    InputError: the package is missing, or the sets differ in shape, hold fewer
      than `MIN_MAUVE_TEXTS` or values that are not finite.

  Source: arXiv 2102.01454 and arXiv 2212.14578 (the smoothed one).
  """
  p_features, q_features = np.asarray(p_features), np.asarray(q_features)
  if p_features.shape != q_features.shape or p_features.ndim != 2:
    raise InputError(
      f"MAUVE takes two sets of N features, got shapes {p_features.shape} and"
      f" {q_features.shape}."
    )
  if len(p_features) < MIN_MAUVE_TEXTS:
    raise InputError(
      f"MAUVE of {len(p_features)} texts says nothing: give at least"
      f" {MIN_MAUVE_TEXTS}, and thousands for a number to report."
    )
  if not (np.isfinite(p_features).all() and np.isfinite(q_features).all()):
    raise InputError("MAUVE's features must be finite: leave empty texts out.")
  settings = {
    "num_buckets": num_buckets or max(2, round(len(p_features) / 10)),
    "mauve_scaling_factor": scaling_factor,
    "seed": seed,
  }
  result = import_mauve().compute_mauve(
    p_features=p_features, q_features=q_features, **settings
  )
  return {
    "mauve": float(result.mauve),
    "mauve_star": float(result.mauve_star),
    "texts": len(p_features),
    **settings,
    "version": importlib.metadata.version("mauve-text"),
  }


def import_mauve() -> Any:
  """Imports the package mauve, and so torch.

  Raises:
    InputError: it is missing.
  """
  try:
    import mauve
  except ImportError as error:
    raise InputError(
      f"mauve needs the package {error.name}: pip install 'flexmdm_jax[mauve]'."
    ) from error
  return mauve
