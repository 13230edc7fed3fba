"""Likelihood of held-out sequences, in the units that people compare.

A FlexMDM and a fixed-length MDM have a bound, an autoregressive model the exact
number; all are of `-log p(x)`, the length of `x` included. An MDM pays for its
length by predicting the padding behind it.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Int, Key

from flexmdm_jax.errors import InputError
from flexmdm_jax.evaluation.evaluation import Evaluation, require_task
from flexmdm_jax.evaluation.samples import Records
from flexmdm_jax.likelihood import (
  KINDS,
  log_likelihood_bound,
  next_token_nats,
)
from flexmdm_jax.models.denoiser import ModelDenoiser
from flexmdm_jax.rows import Rows
from flexmdm_jax.runs import Run
from flexmdm_jax.schema import count, require, setting
from flexmdm_jax.tasks import MarkovTask, Task
from flexmdm_jax.tasks.task import SequenceTask

# Network calls of one estimate of a bound; a second one tells its error.
_CALLS = 16


@dataclasses.dataclass(frozen=True)
class Likelihood:
  """Negative log-likelihood of a set of sequences, or a bound on it.

  Attributes:
    kind: "tight" or "paper", a bound; "exact", of an autoregressive model.
    nats: mean over the sequences.
    stderr: error of `nats` as an estimate of the bound of these very sequences:
      the noise of times and masks; 0 if exact.
    data_stderr: error of `nats` as an estimate of the mean over all data: what
      another held-out set would change.
    calls: network calls a sequence.
    nats_per_token, bits_per_token, perplexity: by the tokens of the sequences;
      neither an end nor padding counts as one.
    bits_per_character: None where tokens are no text.
  """

  kind: str
  nats: float
  stderr: float
  data_stderr: float
  calls: int
  nats_per_token: float
  bits_per_token: float
  perplexity: float
  bits_per_character: float | None


@dataclasses.dataclass(frozen=True)
class HeldOutLikelihood(Evaluation):
  """Likelihood of held-out sequences, or a bound on it; see `Likelihood`.

  On a hidden Markov language it also tells `entropy`, the exact mean of
  `-log p` of the very sequences that are scored, in nats, and `nats_above`,
  how many more nats the model needs.

  Attributes:
    kind: kind of bound, see `log_likelihood_bound`; an autoregressive model's
      number is exact, whatever the kind.
    num_times: network calls for each sequence, at most.
    max_stderr: standard error, nats a sequence, at which to stop.

  Raises:
    InputError: unknown `kind`, or a negative `max_stderr`.
  """

  kind: str = setting("tight", among=KINDS)
  num_times: int = count(128)
  max_stderr: float = setting(0.0, least=0)

  def __post_init__(self):
    require(self, "likelihood")

  def __call__(self, run, denoiser, records, key, batch_size=256):
    found = self.measure(run, denoiser, records, key, batch_size)
    report = dataclasses.asdict(found)
    exact = entropy(run.task, records)
    if exact is not None:
      report |= {"entropy": exact, "nats_above": found.nats - exact}
    return report

  def measure(
    self,
    run: Run,
    denoiser: ModelDenoiser,
    records: Records,
    key: Key[Array, ""],
    batch_size: int = 256,
  ) -> Likelihood:
    """Measures the likelihood of sequences, on the path of the run.

    Takes what an `Evaluation` is called with, and at least two records.

    Raises:
      InputError: the run is not on unconditional sequences, there are fewer
        than two records, batch_size < 1, or `num_times` is too small to tell
        the error of a bound.
    """
    require_task(run, SequenceTask, "likelihood", "unconditional sequences")
    if len(records) < 2:
      raise InputError(
        f"num={len(records)} must be at least 2: errors need it."
      )
    if self.num_times < 2 * _CALLS and not run.task.causal:
      raise InputError(
        f"num_times={self.num_times} is too small to tell the error of the"
        f" bound: give at least {2 * _CALLS}."
      )
    rows = [run.task.encode(record) for record in records]
    batches = make_batches(rows, batch_size)
    if run.task.causal:
      kind, nats = "exact", _exact_nats(run, denoiser, batches)
      error, calls = np.zeros_like(nats), 1
    else:
      kind = self.kind
      nats, error, calls = self._bound(run, denoiser, batches, key)

    nats_per_token = nats.sum() / sum(len(x["tokens"]) for x in records)
    bits_per_character = None
    if all("characters" in record for record in records):
      characters = sum(record["characters"] for record in records)
      bits_per_character = float(nats.sum() / characters / math.log(2))
    return Likelihood(
      kind=kind,
      nats=float(nats.mean()),
      stderr=mean_error(error),
      data_stderr=float(nats.std(ddof=1) / math.sqrt(len(nats))),
      calls=calls,
      nats_per_token=float(nats_per_token),
      bits_per_token=float(nats_per_token / math.log(2)),
      perplexity=math.exp(nats_per_token),
      bits_per_character=bits_per_character,
    )

  def _bound(self, run, denoiser, batches, key):
    """Estimates the bound of each row: nats, their errors, calls a row."""
    on_path, vocab = run.on_path(denoiser), run.task.vocab

    def estimate(key):
      keys = jax.random.split(key, len(batches))
      return _over(
        batches,
        lambda i, *rows: _log_likelihood_bound(
          keys[i], on_path, *rows, run.path, vocab, _CALLS, self.kind
        ),
      )

    estimates = [estimate(jax.random.fold_in(key, i)) for i in range(2)]
    error = _error(estimates)
    while mean_error(error) > self.max_stderr and (
      _CALLS * (len(estimates) + 1) <= self.num_times
    ):
      estimates.append(estimate(jax.random.fold_in(key, len(estimates))))
      error = _error(estimates)
    return np.mean(estimates, axis=0), error, _CALLS * len(estimates)


def entropy(task: Task, records: Records) -> float | None:
  """Computes the mean of `-log p` of records, nats, if their law is known."""
  if not isinstance(task, MarkovTask):
    return None
  return -float(task.language.log_prob([x["tokens"] for x in records]).mean())


class Batch(NamedTuple):
  """Batch of rows of like length.

  Attributes:
    rows: places of the rows among all; fewer than the arrays hold, if these
      were filled up.
    tokens, length: arrays as the network takes them.
  """

  rows: np.ndarray
  tokens: Int[np.ndarray, "B L"]
  length: Int[np.ndarray, " B"]


def make_batches(rows: Sequence[Rows], batch_size: int) -> list[Batch]:
  """Batches rows of like length, and crops them.

  Arrays are as long as a power of two that holds their rows, or as an example,
  so that few shapes are compiled. The last batch is filled up by repeating.

  Raises:
    InputError: batch_size < 1.
  """
  if batch_size < 1:
    raise InputError(f"batch_size={batch_size} must be at least 1.")
  order = np.argsort([int(row.length) for row in rows], kind="stable")
  batches = []
  for first in range(0, len(rows), batch_size):
    chosen = order[first : first + batch_size]
    longest = int(rows[chosen[-1]].length)
    room = 1 << max(longest - 1, 7).bit_length()
    cropped = [
      rows[i].crop(min(room, rows[i].tokens.size))
      for i in np.resize(chosen, batch_size)
    ]
    batches.append(
      Batch(
        chosen,
        np.stack([row.tokens for row in cropped]),
        np.stack([row.length for row in cropped]),
      )
    )
  return batches


_log_likelihood_bound = jax.jit(
  log_likelihood_bound, static_argnums=(4, 5, 6, 7)
)
_next_token_nats = jax.jit(next_token_nats, static_argnums=3)


def _exact_nats(run, denoiser, batches: list[Batch]) -> np.ndarray:
  """Computes the exact `-log p` of each row under a causal model."""
  return _over(
    batches,
    lambda _, *rows: _next_token_nats(denoiser, *rows, run.task.vocab).sum(
      axis=-1
    ),
  )


def _over(batches: list[Batch], nats_of: Callable[..., Array]) -> np.ndarray:
  """Calls `nats_of(batch's number, tokens, length)` for all rows, in order."""
  nats = np.zeros(sum(len(batch.rows) for batch in batches))
  for i, (rows, tokens, length) in enumerate(batches):
    nats[rows] = np.asarray(nats_of(i, tokens, length))[: len(rows)]
  return nats


def _error(estimates: Sequence[np.ndarray]) -> np.ndarray:
  """Computes the standard error of the mean of some estimates of each row."""
  return np.std(estimates, axis=0, ddof=1) / math.sqrt(len(estimates))


def mean_error(error: np.ndarray) -> float:
  """Computes the standard error of a mean from those of its numbers."""
  return float(np.sqrt(np.sum(error**2)) / len(error))
