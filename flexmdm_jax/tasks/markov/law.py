"""A hidden Markov language: a law of sequences whose likelihood is known.

A chain walks over hidden phases, from a uniform first one, and each token is
drawn from its phase's law over the symbols. Only the last phase can end a
sequence: after n tokens it does with probability `1 - exp(-rate * n)`. So the
length depends on the content, and its law is a hump, not geometric. Everything
is conditioned on a sequence that fits in `max_length`.

Source: Rabiner, "A tutorial on hidden Markov models", 1989, section III.A, for
the forward recursion.
"""

import dataclasses
import functools
import math
from collections.abc import Sequence

import numpy as np

from flexmdm_jax import schema
from flexmdm_jax.errors import InputError
from flexmdm_jax.exact.law import draw_columns, estimate_entropy
from flexmdm_jax.schema import count, setting
from flexmdm_jax.vocab import Vocab

# Concentration of the Dirichlet laws of the matrices' rows: few entries have
# most of the weight. A sequence of the default language has 54 nats, where
# independent tokens would have 66; with 0.3 it has 78, where they have 82.
_CONCENTRATION = 0.1
# Weight of a uniform law in each row: no phase is absorbing, and no symbol so
# rare that a single one decides a mean of log-probabilities.
_UNIFORM = 0.05
# Between these rates the mean length takes all values that it can have.
_RATES = (1e-12, 50.0)


@dataclasses.dataclass(frozen=True)
class MarkovLanguage:
  """The law of a language; it follows from the settings alone.

  Attributes:
    symbols: V, the tokens; at least 1.
    phases: K, the hidden phases; at least 1.
    mean_length: mean number of tokens; the rate of the end is solved for it.
    max_length: L, tokens of the longest sequence; at least 2.
    seed: seed of the matrices; at least 0.

  Raises:
    InputError: a number is out of range.
  """

  symbols: int = count(8)
  phases: int = count(4)
  mean_length: float = setting(40.0, above=0)
  max_length: int = count(96, least=2)
  seed: int = schema.seed(0)

  def __post_init__(self):
    schema.require(self, "data")
    longest, shortest = (self._mean_at(rate) for rate in _RATES)
    if not shortest < self.mean_length < longest:
      raise InputError(
        f"data.mean_length={self.mean_length} must be between {shortest:.3f}"
        f" and {longest:.3f}, the means that data.max_length="
        f"{self.max_length} and data.seed={self.seed} allow."
      )

  @property
  def vocab(self) -> Vocab:
    """Ids: the symbols, then the mask, then the pad."""
    V = self.symbols
    return Vocab(size=V + 2, mask=V, pad=V + 1)

  @property
  def emissions(self) -> np.ndarray:
    """Probabilities f64[K, V] of the symbols in each phase."""
    return self._matrices[0]

  @property
  def transitions(self) -> np.ndarray:
    """Probabilities f64[K, K] of the next phase (column) after each (row)."""
    return self._matrices[1]

  @functools.cached_property
  def ends(self) -> np.ndarray:
    """Probabilities f64[L+1, K] to end after n tokens, in each phase.

    They are those of the law before it is conditioned.
    """
    # The mean falls as the rate rises; 50 halvings leave a relative 1e-13.
    low, high = np.log(_RATES)
    for _ in range(50):
      middle = (low + high) / 2
      if self._mean_at(math.exp(middle)) > self.mean_length:
        low = middle
      else:
        high = middle
    return self._ends_at(math.exp(low))

  def length_law(self) -> np.ndarray:
    """Computes the exact probabilities f64[L+1] of 0 to L tokens."""
    joint = self._joint_length_law(self.ends)
    return joint / joint.sum()

  def log_prob(self, sequences: Sequence[Sequence[int]]) -> np.ndarray:
    """Computes exact log-probabilities, the end included, by the recursion.

    Args:
      sequences: N sequences of ids.

    Returns:
      f64[N] nats; -inf where a sequence is empty, is longer than `max_length`,
      or holds an id that is no symbol.
    """
    L = self.max_length
    length = np.array([len(sequence) for sequence in sequences], int)
    tokens = np.zeros((len(length), L), np.int64)
    for row, sequence in zip(tokens, sequences, strict=True):
      row[: len(sequence)] = sequence[:L]
    known = ((tokens >= 0) & (tokens < self.symbols)).all(axis=1)
    result = np.full(len(length), -np.inf)
    rows = np.flatnonzero(known & (length >= 1) & (length <= L))
    # Joint law of the phase and the tokens so far: scaled, and its scale.
    joint = self.emissions.T[tokens[rows, 0]] / self.phases
    log_scale = np.full(rows.size, -np.log(self._fits[0]))
    for n in range(1, L + 1):
      done = length[rows] == n
      with np.errstate(divide="ignore"):
        end = np.log(joint[done] @ self.ends[n])
      result[rows[done]] = log_scale[done] + end
      rows, log_scale, joint = rows[~done], log_scale[~done], joint[~done]
      if not rows.size:
        break
      joint = (joint * (1 - self.ends[n])) @ self.transitions
      joint *= self.emissions.T[tokens[rows, n]]
      scale = np.maximum(joint.sum(axis=1), np.finfo(float).tiny)
      joint /= scale[:, None]
      log_scale += np.log(scale)
    return result

  def draw(self, num: int, seed: int) -> list[np.ndarray]:
    """Draws independent sequences of the law.

    Nothing is rejected: each step is drawn given that the sequence will fit.

    Args:
      num: number of sequences; at least 1.
      seed: seed of the draws; at least 0. Another gives independent ones.

    Returns:
      `num` arrays int32[n] of tokens, 1 <= n <= L.

    Raises:
      InputError: an argument is out of range.
    """
    for name, value, least in (("num", num, 1), ("seed", seed, 0)):
      if value < least:
        raise InputError(f"{name}={value} must be at least {least}.")
    # Not [self.seed], of which the matrices are made.
    rng = np.random.default_rng([self.seed, 1, seed])
    L, fits, ends = self.max_length, self._fits[1], self.ends
    tokens = np.empty((num, L), np.int32)
    length = np.empty(num, int)
    rows = np.arange(num)
    phase = draw_columns(rng, np.broadcast_to(fits[1], (num, self.phases)))
    for n in range(1, L + 1):
      tokens[rows, n - 1] = draw_columns(rng, self.emissions[phase])
      # At L it is 1 in the last phase, and by then no other is possible.
      done = rng.random(rows.size) < ends[n, phase] / fits[n, phase]
      length[rows[done]] = n
      rows, phase = rows[~done], phase[~done]
      if not rows.size:
        break
      phase = draw_columns(rng, (self.transitions * fits[n + 1])[phase])
    return [row[:n] for row, n in zip(tokens, length, strict=True)]

  def entropy(self, num: int = 100_000, seed: int = 0) -> tuple[float, float]:
    """Estimates the entropy: the mean of exact `-log p` over many draws.

    Args:
      num: number of draws; at least 2.
      seed: seed of the draws.

    Returns:
      The estimate and its standard error, in nats a sequence.

    Raises:
      InputError: an argument is out of range.
    """
    return estimate_entropy(self, num, seed)

  @functools.cached_property
  def _matrices(self) -> tuple[np.ndarray, np.ndarray]:
    """Emissions and transitions."""
    rng = np.random.default_rng(self.seed)
    return tuple(
      (1 - _UNIFORM) * rng.dirichlet(np.full(n, _CONCENTRATION), self.phases)
      + _UNIFORM / n
      for n in (self.symbols, self.phases)
    )

  @functools.cached_property
  def _fits(self) -> tuple[float, np.ndarray]:
    """Probability to fit in L; and f64[L+2, K], from token n in each phase."""
    fits = np.zeros((self.max_length + 2, self.phases))
    for n in range(self.max_length, 0, -1):
      end = self.ends[n]
      fits[n] = end + (1 - end) * (self.transitions @ fits[n + 1])
    return float(fits[1].mean()), fits

  def _ends_at(self, rate: float) -> np.ndarray:
    """Computes `ends` at a rate."""
    ends = np.zeros((self.max_length + 1, self.phases))
    ends[:, -1] = -np.expm1(-rate * np.arange(self.max_length + 1))
    return ends

  def _joint_length_law(self, ends: np.ndarray) -> np.ndarray:
    """Computes probabilities f64[L+1] of 0 to L tokens, not conditioned."""
    law = np.zeros(self.max_length + 1)
    phase = np.full(self.phases, 1 / self.phases)
    for n in range(1, self.max_length + 1):
      law[n] = phase @ ends[n]
      phase = (phase * (1 - ends[n])) @ self.transitions
    return law

  def _mean_at(self, rate: float) -> float:
    """Computes the mean length at a rate."""
    joint = self._joint_length_law(self._ends_at(rate))
    return float(joint @ np.arange(len(joint)) / joint.sum())
