"""Sequences of a hidden Markov chain, of any length, and their exact denoiser.

A chain walks over K hidden phases. It emits a token in each, and ends after it
with the phase's probability. What is seen of a sequence at time t are some of
its tokens, each perhaps as a mask; between two that are present any number c
was left out. Each missing token weighs `q = 1 - alpha(t)`, so a gap is crossed
by the matrices `q^c A^(c+1)`, where A moves the chain by one token; the sum
over all c is `A (1 - q A)^-1`. A forward and a backward pass over the present
tokens then give every posterior in closed form. The beginning and the end are
two more phases, so that the first and the last gap are like any other.

Source: Rabiner, "A tutorial on hidden Markov models", 1989, section III.A and
B, for the passes; the gap matrices are ours.
"""

import dataclasses
import functools
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from flexmdm_jax.errors import InputError
from flexmdm_jax.exact.law import draw_columns, estimate_entropy
from flexmdm_jax.prediction import Prediction
from flexmdm_jax.schedules import Schedule
from flexmdm_jax.vocab import Vocab

_TINY = 1e-37
# Share of the sequences for which a law without a `max_length` has no room.
_LONGER = 1e-4


@dataclasses.dataclass(frozen=True, eq=False)
class HiddenMarkovLaw:
  """A law of sequences of any length.

  Attributes:
    initial: probabilities f64[K] of the first phase; what they lack to 1 is
      the probability of the empty sequence.
    transitions: probabilities f64[K, K] of the next phase (column) after each
      (row); what a row lacks to 1 is the probability to end there.
    emissions: probabilities f64[K, V] of the tokens in each phase.
    max_length: L, the room of a sampler, and the largest number that the law
      of a gap knows. The law itself has longer sequences. By default at most
      one in 10,000 is longer.

  Raises:
    InputError: a shape is wrong, rows are no probabilities, some sequences
      never end, or max_length < 1.
  """

  initial: np.ndarray
  transitions: np.ndarray
  emissions: np.ndarray
  max_length: int | None = None

  def __post_init__(self):
    K, V = len(self.initial), self.emissions.shape[-1]
    for name, shape in (("transitions", (K, K)), ("emissions", (K, V))):
      value = getattr(self, name)
      if value.shape != shape:
        raise InputError(
          f"{name} has shape {value.shape}: with {K} phases it must be {shape}."
        )
    for name in ("initial", "transitions", "emissions"):
      value = getattr(self, name)
      total = value.sum(axis=-1)
      if not ((value >= 0).all() and (total < 1 + 1e-6).all()):
        raise InputError(f"{name} must be probabilities, got {value}.")
    if not (abs(self.emissions.sum(axis=-1) - 1) < 1e-6).all():
      raise InputError(f"emissions must sum to 1, got {self.emissions}.")
    if abs(np.linalg.eigvals(self.transitions)).max() > 1 - 1e-9:
      raise InputError(
        "transitions let some sequences go on for ever: give a phase that is"
        " always reached a row that sums to less than 1."
      )
    if self.max_length is None:
      object.__setattr__(self, "max_length", self._room())
    if self.max_length < 1:
      raise InputError(f"max_length={self.max_length} must be at least 1.")

  @property
  def vocab(self) -> Vocab:
    """Ids: the tokens, then the mask, then the pad."""
    V = self.emissions.shape[1]
    return Vocab(size=V + 2, mask=V, pad=V + 1)

  @functools.cached_property
  def chain(self) -> np.ndarray:
    """Moves f64[K+2, K+2] of the phases, the beginning and the end."""
    K = len(self.initial)
    A = np.zeros((K + 2, K + 2))
    A[:K, :K], A[K, :K] = self.transitions, self.initial
    # Rounding must leave no probability below 0.
    A[: K + 1, K + 1] = np.maximum(1 - A[: K + 1].sum(axis=1), 0.0)
    return A

  def mean_length(self) -> float:
    """Computes the mean number of tokens."""
    visits = np.eye(len(self.initial)) - self.transitions
    return float(self.initial @ np.linalg.solve(visits, np.ones(len(visits))))

  def length_law(self) -> np.ndarray:
    """Computes the probabilities f64[L+1] of 0 to L tokens.

    They lack to 1 the share of longer sequences.
    """
    law = itertools.islice(self._lengths(), self.max_length + 1)
    return np.fromiter(law, float)

  def log_prob(self, sequences: Sequence[Sequence[int]]) -> np.ndarray:
    """Computes exact log-probabilities f64[N]; -inf for what cannot be."""
    K, V = self.emissions.shape
    length = np.array([len(sequence) for sequence in sequences], int)
    tokens = np.zeros((len(length), length.max(initial=0)), int)
    for row, sequence in zip(tokens, sequences, strict=True):
      row[: len(sequence)] = sequence
    known = ((tokens >= 0) & (tokens < V)).all(axis=1)
    result = np.full(len(length), -np.inf)
    rows = np.flatnonzero(known)
    emissions = np.concatenate([self.emissions, np.zeros((2, V))])
    phase = np.tile(np.eye(K + 2)[K], (rows.size, 1))
    log_scale = np.zeros(rows.size)
    for n in range(tokens.shape[1] + 1):
      phase = phase @ self.chain
      done = length[rows] == n
      with np.errstate(divide="ignore"):
        result[rows[done]] = log_scale[done] + np.log(phase[done, -1])
      rows, log_scale, phase = rows[~done], log_scale[~done], phase[~done]
      if not rows.size:
        break
      phase = phase * emissions.T[tokens[rows, n]]
      scale = np.maximum(phase.sum(axis=1), np.finfo(float).tiny)
      phase /= scale[:, None]
      log_scale += np.log(scale)
    return result

  def draw(self, num: int, seed: int) -> list[np.ndarray]:
    """Draws `num` independent sequences, int32[n] each."""
    rng = np.random.default_rng(seed)
    K = len(self.initial)
    rows, columns, length = np.arange(num), [], np.zeros(num, int)
    phase = np.full(num, K)
    while True:
      phase = draw_columns(rng, self.chain[phase])
      on = phase < K
      rows, phase = rows[on], phase[on]
      if not rows.size:
        break
      columns.append(np.zeros(num, np.int32))
      columns[-1][rows] = draw_columns(rng, self.emissions[phase])
      length[rows] += 1
    tokens = np.stack([np.zeros(num, np.int32), *columns], axis=1)
    return [row[1 : n + 1] for row, n in zip(tokens, length, strict=True)]

  def entropy(self, num: int = 100_000, seed: int = 0) -> tuple[float, float]:
    """Estimates the entropy, in nats a sequence, and its standard error."""
    return estimate_entropy(self, num, seed)

  def denoiser(
    self, insertion: Schedule, gap_law: bool = False
  ) -> "HiddenMarkovDenoiser":
    """Makes the exact denoiser, of rows of any width.

    A state that no sequence leads to, which a sampler of few steps may reach,
    gets all tokens alike, and no missing ones.

    Args:
      insertion: the insertion schedule of the path on which it is asked.
      gap_law: whether to give the law of the missing tokens, up to L of them,
        not just its mean.
    """
    A, powers = self.chain, []
    if gap_law:
      powers = [A]
      for _ in range(self.max_length):
        powers.append(powers[-1] @ A)
    emissions = np.concatenate([self.emissions, np.zeros((2, self.vocab.mask))])
    return HiddenMarkovDenoiser(
      *(jnp.asarray(x, jnp.float32) for x in (A, emissions, np.array(powers))),
      insertion=insertion,
    )

  def _lengths(self) -> Iterator[float]:
    """Computes the probabilities of 0, 1, 2, ... tokens."""
    chain = self.chain
    phase = np.eye(len(chain))[-2]
    while True:
      phase = phase @ chain
      yield phase[-1]

  def _room(self) -> int:
    """Finds a length that few sequences exceed."""
    left = 1.0
    for length, probability in enumerate(self._lengths()):
      left -= probability
      if left < _LONGER:
        return max(length, 1)


@functools.partial(
  jax.tree_util.register_dataclass,
  data_fields=["chain", "emissions", "powers"],
  meta_fields=["insertion"],
)
@dataclasses.dataclass(frozen=True, eq=False)
class HiddenMarkovDenoiser:
  """The exact posterior of a `HiddenMarkovLaw`.

  Attributes:
    chain: A, the moves [K, K]; the last two phases are the beginning and the
      end.
    emissions: probabilities [K, V] of the tokens in each phase.
    powers: A^(c+1) of the numbers c of missing tokens, [C, K, K]; or [0].
    insertion: the insertion schedule.
  """

  chain: Any
  emissions: Any
  powers: Any
  insertion: Schedule
  ignores_padding = True

  def __call__(self, tokens, length, t) -> Prediction:
    q = jnp.maximum(self.insertion.survival(t), 0.0)
    return jax.vmap(self._row)(tokens, length, q)

  def _row(
    self,
    tokens: Int[Array, " L"],
    length: Int[Array, ""],
    q: Float[Array, ""],
  ) -> Prediction:
    """Predicts one row at the survival q."""
    (L,), (K, V) = tokens.shape, self.emissions.shape
    inside = jnp.arange(L) < length
    # Likelihood of each token by its phase; a mask may be any.
    any_token = jnp.where(jnp.arange(K) < K - 2, 1.0, 0.0)
    clean = (inside & (tokens < V))[:, None]
    seen = self.emissions.T[jnp.clip(tokens, 0, V - 1)]
    seen = jnp.where(clean, seen, any_token)
    start, end = jnp.eye(K)[K - 2], jnp.eye(K)[K - 1]
    R = jnp.linalg.inv(jnp.eye(K) - q * self.chain)
    step = self.chain @ R

    # left[i]: phase of token i - 1, given it and all before it.
    def forward(left, seen):
      before = left @ step
      return _scaled(before * seen), (left, before)

    last, (left, before) = jax.lax.scan(forward, start, seen)
    left = jnp.concatenate([left, last[None]])

    # right[i]: likelihood of token i and of all after it, by its phase.
    def backward(right, at):
      seen, inside = at
      after = step @ right
      right = jnp.where(inside, _scaled(after * seen), right)
      return right, (right, after)

    _, (right, after) = jax.lax.scan(
      backward, end, (seen, inside), reverse=True
    )
    right = jnp.concatenate([right, end[None]])

    posterior = (before * after * any_token) @ self.emissions
    total = jnp.sum(posterior, -1, keepdims=True)
    posterior = jnp.where(total > 0, posterior / jnp.maximum(total, _TINY), 1.0)
    token_logits = jnp.pad(
      jnp.log(posterior), ((0, 0), (0, 2)), constant_values=-jnp.inf
    )
    # Expected number: the derivative of the sum over c by log q.
    crossing = jnp.sum((left @ step) * right, axis=-1)
    more = jnp.sum((left @ step @ (q * self.chain @ R)) * right, axis=-1)
    real = jnp.arange(L + 1) <= length
    mean = jnp.where(real, more / jnp.maximum(crossing, _TINY), 0.0)
    if not self.powers.size:
      return Prediction(token_logits, jnp.log(mean))
    pairs = (left[:, :, None] * right[:, None, :]).reshape(L + 1, K * K)
    weights = pairs @ self.powers.reshape(-1, K * K).T
    count = jnp.arange(len(self.powers), dtype=jnp.float32)
    law = jnp.log(weights) + jnp.where(count > 0, count * jnp.log(q), 0.0)
    # Nothing is missing beyond the length, and in a row that cannot be.
    none = jnp.where(count > 0, -jnp.inf, 0.0)
    law = jnp.where((real & (crossing > 0))[:, None], law, none)
    return Prediction(token_logits, jnp.log(mean), gap_logits=law)


def markov_law(
  symbols: int = 8,
  phases: int = 3,
  stages: int = 3,
  mean_length: float = 39.0,
  seed: int = 2,
  max_length: int | None = None,
) -> HiddenMarkovLaw:
  """Makes a language with much to know: tokens follow each other in cycles.

  A sequence runs through stages, each of geometric length, so that its own
  length has a hump. A stage goes round its phases, nearly always to the next,
  and each phase has a law of its own over the symbols, a Dirichlet draw of
  concentration .1. A sequence of the default language has 44 nats, where
  independent tokens would have 69: what was inserted or revealed without seeing
  its neighbours is often wrong.

  Args:
    symbols: number of tokens, V.
    phases: number of phases of a stage.
    stages: number of stages; the variance of the lengths falls with it.
    mean_length: mean number of tokens; at least the stages.
    seed: seed of the laws.
    max_length: see `HiddenMarkovLaw`.

  Raises:
    InputError: a number is below 1, or the mean cannot be had.
  """
  sizes = dict(symbols=symbols, phases=phases, stages=stages)
  for name, value in sizes.items():
    if value < 1:
      raise InputError(f"{name}={value} must be at least 1.")
  if not mean_length >= stages:
    raise InputError(
      f"mean_length={mean_length} must be at least {stages}, the stages."
    )
  rng = np.random.default_rng(seed)
  emissions = rng.dirichlet(np.full(symbols, 0.1), phases * stages)
  # A little of a uniform law: no symbol is so rare that one decides a mean.
  emissions = 0.98 * emissions + 0.02 / symbols
  cycle = 0.95 * np.roll(np.eye(phases), 1, axis=1) + 0.05 / phases
  leave = stages / mean_length
  transitions = np.kron(np.eye(stages), (1 - leave) * cycle)
  transitions += np.kron(np.eye(stages, k=1), leave * cycle)
  initial = np.zeros(stages * phases)
  initial[:phases] = 1 / phases
  return HiddenMarkovLaw(initial, transitions, emissions, max_length)


def _scaled(x: Float[Array, " K"]) -> Float[Array, " K"]:
  return x / jnp.maximum(jnp.sum(x), _TINY)
