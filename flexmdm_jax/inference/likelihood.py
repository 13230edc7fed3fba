"""Estimates of `-log p` of rows, batch by batch, with their errors."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Key

from flexmdm_jax.errors import InputError
from flexmdm_jax.interpolant import JointInterpolant
from flexmdm_jax.likelihood import log_likelihood_bound, next_token_nats
from flexmdm_jax.prediction import Denoiser, as_pytree
from flexmdm_jax.rows import Rows, stack
from flexmdm_jax.vocab import Vocab

# Network calls of one estimate of a bound; a second one tells its error.
CALLS = 16


class Batch(NamedTuple):
  """Batch of rows of like length.

  Attributes:
    places: places of the rows among all; fewer than the batch holds, if it was
      filled up.
    rows: the rows, as the network takes them.
  """

  places: np.ndarray
  rows: Rows


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
    batches.append(Batch(chosen, stack(cropped)))
  return batches


class Bound(NamedTuple):
  """Estimates of a bound on `-log p` of some rows.

  Attributes:
    nats: an estimate of each row, f64[N].
    error: its standard error, f64[N].
    calls: network calls that a row took.
  """

  nats: np.ndarray
  error: np.ndarray
  calls: int


def require_calls(num_times: int) -> None:
  """Raises an InputError if so few calls cannot tell the error of a bound."""
  if num_times < 2 * CALLS:
    raise InputError(
      f"num_times={num_times} is too small to tell the error of the bound:"
      f" give at least {2 * CALLS}."
    )


def bound(
  key: Key[Array, ""],
  denoiser: Denoiser,
  batches: Sequence[Batch],
  interpolant: JointInterpolant,
  vocab: Vocab,
  *,
  num_times: int,
  kind: str = "tight",
  max_stderr: float = 0.0,
  given: bool = False,
) -> Bound:
  """Estimates a bound on `-log p` of rows, until it is known well enough.

  Args:
    key: one key.
    denoiser: the model, on the path of `interpolant`.
    batches: the rows, as `make_batches` has them.
    interpolant: the schedules of the path.
    vocab: the id space.
    num_times: network calls for each row, at most.
    kind: kind of bound, see `log_likelihood_bound`.
    max_stderr: standard error of the mean over the rows, in nats, at which to
      stop.
    given: whether rows have frozen tokens, or closed gaps: the estimates are
      then of the rest, given these.

  Raises:
    InputError: num_times is too small to tell an error.
  """
  require_calls(num_times)
  denoiser = as_pytree(denoiser)

  def estimate(key):
    keys = jax.random.split(key, len(batches))

    def nats_of(i, rows):
      more = (rows.frozen, rows.open_gaps) if given else ()
      return _log_likelihood_bound(
        *(keys[i], denoiser, rows.tokens, rows.length),
        *(interpolant, vocab, CALLS, kind, *more),
      )

    return _over(batches, nats_of)

  estimates = [estimate(jax.random.fold_in(key, i)) for i in range(2)]
  error = _error(estimates)
  while mean_error(error) > max_stderr and (
    CALLS * (len(estimates) + 1) <= num_times
  ):
    estimates.append(estimate(jax.random.fold_in(key, len(estimates))))
    error = _error(estimates)
  return Bound(np.mean(estimates, axis=0), error, CALLS * len(estimates))


def exact_nats(
  denoiser: Denoiser, batches: Sequence[Batch], vocab: Vocab
) -> np.ndarray:
  """Computes the exact `-log p` of each row under a causal model, f64[N].

  It is of the tokens that are not frozen, and of the end, given the others.
  """

  def nats_of(_, rows):
    nats = _next_token_nats(denoiser, rows.tokens, rows.length, vocab)
    following = np.pad(rows.frozen[:, 1:], ((0, 0), (0, 1)))
    return np.where(following, 0.0, np.asarray(nats)).sum(axis=-1)

  return _over(batches, nats_of)


def mean_error(error: np.ndarray) -> float:
  """Computes the standard error of a mean from those of its numbers."""
  return float(np.sqrt(np.sum(error**2)) / len(error))


def _over(
  batches: Sequence[Batch], nats_of: Callable[[int, Rows], Array]
) -> np.ndarray:
  """Calls `nats_of(batch's number, rows)` for all rows, in order."""
  nats = np.zeros(sum(len(batch.places) for batch in batches))
  for i, (places, rows) in enumerate(batches):
    nats[places] = np.asarray(nats_of(i, rows))[: len(places)]
  return nats


def _error(estimates: Sequence[np.ndarray]) -> np.ndarray:
  """Computes the standard error of the mean of some estimates of each row."""
  return np.std(estimates, axis=0, ddof=1) / math.sqrt(len(estimates))


_log_likelihood_bound = jax.jit(
  log_likelihood_bound, static_argnums=(4, 5, 6, 7)
)
_next_token_nats = jax.jit(next_token_nats, static_argnums=3)
