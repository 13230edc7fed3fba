"""The face that all laws with a known likelihood share."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np

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
