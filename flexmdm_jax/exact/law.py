"""The face that all laws with a known likelihood share, and what they reuse."""

import math
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np

from flexmdm_jax.errors import InputError
from flexmdm_jax.vocab import Vocab


@runtime_checkable
class KnownLaw(Protocol):
  """A law of sequences that can be drawn and whose likelihood is known.

  Any class of this form will do. It is hashable, as classes are unless they
  say otherwise. One that also has `denoiser(insertion, gap_law)`, the exact
  posterior, can measure samplers without a model.

  Attributes:
    vocab: the id space.
    max_length: L, the room that a sampler gets.
  """

  vocab: Vocab
  max_length: int

  def draw(self, num: int, seed: int) -> list[np.ndarray]:
    """Draws `num` independent sequences of ids, int32[n] each."""

  def log_prob(self, sequences: Sequence[Sequence[int]]) -> np.ndarray:
    """Computes log-probabilities f64[N], in nats; -inf for what cannot be."""

  def entropy(self) -> tuple[float, float]:
    """Gives the entropy, in nats a sequence, and its standard error."""


def estimate_entropy(law: KnownLaw, num: int, seed: int) -> tuple[float, float]:
  """Estimates the entropy: the mean of exact `-log p` over many draws.

  Args:
    law: the law.
    num: number of draws; at least 2.
    seed: seed of the draws.

  Returns:
    The estimate and its standard error, in nats a sequence.

  Raises:
    InputError: num < 2.
  """
  if num < 2:
    raise InputError(f"num={num} must be at least 2: an error needs it.")
  nats = -law.log_prob(law.draw(num, seed))
  return float(nats.mean()), float(nats.std(ddof=1) / math.sqrt(num))


def draw_columns(rng: np.random.Generator, weights: np.ndarray) -> np.ndarray:
  """Draws a column for each row of f64[N, K], in proportion to its entries."""
  sums = weights.cumsum(axis=1)
  below = sums <= rng.random((len(weights), 1)) * sums[:, -1:]
  # Rounding could choose beyond the end.
  return np.minimum(below.sum(axis=1), weights.shape[1] - 1)
