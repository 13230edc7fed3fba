"""Likelihood of held-out sequences, in the units that people compare.

A FlexMDM and a fixed-length MDM have a bound, an autoregressive model the exact
number; all are of `-log p(x)`, the length of `x` included. An MDM pays for its
length by predicting the padding behind it.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Int, Key

from flexmdm_jax.errors import InputError
from flexmdm_jax.likelihood import (
  KINDS,
  log_likelihood_bound,
  next_token_nats,
)
from flexmdm_jax.models.denoiser import ModelDenoiser
from flexmdm_jax.rows import Rows
from flexmdm_jax.runs import Run

# Network calls of one estimate of a bound; a second one tells its error.
_CALLS = 16


@dataclasses.dataclass(frozen=True)
class Likelihood:
  """The negative log-likelihood of a set of sequences, or a bound on it.

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


def evaluate_likelihood(
  key: Key[Array, ""],
  run: Run,
  denoiser: ModelDenoiser,
  records: Sequence[Mapping[str, Any]],
  *,
  kind: str = "tight",
  max_stderr: float = 0.0,
  max_calls: int = 128,
  batch_size: int = 256,
) -> Likelihood:
  """Measures the likelihood of held-out sequences.

  Args:
    key: a PRNG key.
    run: what was trained, on unconditional sequences.
    denoiser: its EMA parameters.
    records: the sequences, at least two.
    kind: of bound, see `log_likelihood_bound`; an autoregressive model's number
      is exact, whatever the kind.
    max_stderr: stop as soon as `stderr` is as small, nats a sequence.
    max_calls: network calls a sequence, at most.
    batch_size: sequences at once.

  Raises:
    InputError: unknown `kind`, fewer than two records, batch_size < 1, or too
      few calls to tell the error of a bound.
  """
  if kind not in KINDS:
    raise InputError(f"--kind={kind} is unknown: choose one of {KINDS}.")
  if len(records) < 2:
    raise InputError(
      f"--num={len(records)} must be at least 2: errors need it."
    )
  if max_calls < 2 * _CALLS and not run.task.causal:
    raise InputError(
      f"--num_times={max_calls} is too small to tell the error of the bound:"
      f" give at least {2 * _CALLS}."
    )
  batches = make_batches(
    [run.task.encode(record) for record in records], batch_size
  )
  vocab = run.task.vocab
  if run.task.causal:
    kind = "exact"
    nats = _over(
      batches, lambda _, *rows: _exact(denoiser, *rows, vocab).sum(axis=-1)
    )
    error, calls = np.zeros_like(nats), 1
  else:
    on_path = run.on_path(denoiser)

    def estimate(key):
      keys = jax.random.split(key, len(batches))
      return _over(
        batches,
        lambda i, *rows: _bound(
          keys[i], on_path, *rows, run.path, vocab, _CALLS, kind
        ),
      )

    estimates = [estimate(jax.random.fold_in(key, i)) for i in range(2)]
    error = _error(estimates)
    while mean_error(error) > max_stderr and (
      _CALLS * (len(estimates) + 1) <= max_calls
    ):
      estimates.append(estimate(jax.random.fold_in(key, len(estimates))))
      error = _error(estimates)
    nats, calls = np.mean(estimates, axis=0), _CALLS * len(estimates)

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


class Batch(NamedTuple):
  """Rows of like length.

  Attributes:
    rows: their places among all; fewer than the arrays hold, if these were
      filled up.
    tokens, length: as the network takes them.
  """

  rows: np.ndarray
  tokens: Int[np.ndarray, "B L"]
  length: Int[np.ndarray, " B"]


def make_batches(rows: Sequence[Rows], batch_size: int) -> list[Batch]:
  """Batches of rows of like length, cropped.

  Arrays are as long as a power of two that holds their rows, or as an example,
  so that few shapes are compiled. The last batch is filled up by repeating.

  Raises:
    InputError: batch_size < 1.
  """
  if batch_size < 1:
    raise InputError(f"--batch_size={batch_size} must be at least 1.")
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


_bound = jax.jit(log_likelihood_bound, static_argnums=(4, 5, 6, 7))
_exact = jax.jit(next_token_nats, static_argnums=3)


def _over(batches: list[Batch], nats_of: Callable[..., Array]) -> np.ndarray:
  """`nats_of(batch's number, tokens, length)` for all rows, in their order."""
  nats = np.zeros(sum(len(batch.rows) for batch in batches))
  for i, (rows, tokens, length) in enumerate(batches):
    nats[rows] = np.asarray(nats_of(i, tokens, length))[: len(rows)]
  return nats


def _error(estimates: Sequence[np.ndarray]) -> np.ndarray:
  """Standard error of the mean of some estimates of each row."""
  return np.std(estimates, axis=0, ddof=1) / math.sqrt(len(estimates))


def mean_error(error: np.ndarray) -> float:
  """Standard error of a mean of independent numbers, from theirs."""
  return float(np.sqrt(np.sum(error**2)) / len(error))
