"""A trained autoregressive run as a scorer of text, and the choice of one."""

import functools
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from flexmdm_jax.errors import InputError
from flexmdm_jax.evaluation.scorers import HuggingFaceScorer, Scorer, Scores
from flexmdm_jax.inference.likelihood import make_batches
from flexmdm_jax.likelihood import next_token_nats
from flexmdm_jax.runs import Run


class RunScorer:
  """Scores texts with the run of a work directory.

  The first token of a text is scored, as a run knows where one begins; so is
  the end.
  """

  def __init__(self, workdir: str | pathlib.Path, *, batch_size: int = 64):
    """Loads the run's newest EMA parameters.

    Args:
      workdir: directory of a run with `method=autoregressive` on text.
      batch_size: texts at once; changes nothing but the memory and the speed.

    Raises:
      InputError: it holds no such run, or no readable checkpoint.
    """
    self._run = Run.from_workdir(workdir)
    if not self._run.task.causal:
      raise InputError(
        f"scorer={workdir} is a run of {self._run.task.method}: give one with"
        " method=autoregressive."
      )
    self._step, denoiser = self._run.restore(workdir)
    self._batch_size = batch_size
    self._nats = jax.jit(
      functools.partial(next_token_nats, denoiser, vocab=self._run.task.vocab)
    )

  def score(self, texts: Sequence[str], features: bool = False) -> Scores:
    """Scores texts; see `scorers.Scorer`.

    Raises:
      InputError: `features` are asked for, which a run does not give.
    """
    if features:
      raise InputError(
        "mauve needs features, which a run of this package does not give: take"
        " a Hugging Face scorer."
      )
    task = self._run.task
    room = task.max_length - 1
    rows = [task.encode_text(text) for text in texts]
    truncated = np.array([len(row) > room for row in rows], bool)
    examples = [task.encode({"tokens": row[:room]}) for row in rows]
    nats = [np.zeros(0, np.float32)] * len(rows)
    for chosen, batch in make_batches(examples, self._batch_size):
      losses = np.asarray(self._nats(batch.tokens, batch.length))
      for i, row, n in zip(chosen, losses, batch.length, strict=False):
        if texts[i]:
          # What was cut has no end.
          nats[i] = row[: n - int(truncated[i])]
    return Scores(nats, truncated, None)

  def describe(self) -> dict[str, Any]:
    """Tells the run's config and step; see `scorers.Scorer`."""
    return {
      "scorer": "autoregressive run",
      "train_steps": self._step,
      "config": self._run.config,
      "first_token": "scored",
      "end": "scored",
    }


def load_scorer(name: str, **options: Any) -> Scorer:
  """Loads a scorer by its name.

  Args:
    name: a work directory of this package, a model of the Hugging Face hub, its
      folder, or a GGUF file.
    **options: options of `HuggingFaceScorer`; a run has `batch_size` alone.

  Raises:
    InputError: as `RunScorer` and `HuggingFaceScorer`.
  """
  path = pathlib.Path(name)
  if (path / "checkpoints").is_dir():
    given = {key for key, value in options.items() if value is not None}
    if surplus := sorted(given - {"batch_size"}):
      raise InputError(
        f"scorer={name} is a run of this package, which takes no"
        f" {', '.join(surplus)}: leave it out."
      )
    return RunScorer(name, batch_size=options.get("batch_size") or 64)
  if path.suffix == ".gguf":
    return HuggingFaceScorer(str(path.parent), gguf_file=path.name, **options)
  return HuggingFaceScorer(name, **options)
