"""A law that lists its sequences, and its exact denoiser.

A law lists clean sequences with their probabilities and, for conditional
sampling, their frozen tokens. Each free token is absent, a mask or clean at
time t, independently of the others: a sequence of n free tokens shows up in
3^n ways. What a perfect denoiser knows is a sum over those that look alike.

Two ways to make the same state have as many masks and clean tokens; only the
number of absent tokens tells them apart. So the posterior depends on time
through the powers of `P(absent)` alone, and so does not know `beta`.
"""

import dataclasses
import functools
import itertools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from flexmdm_jax.errors import InputError
from flexmdm_jax.interpolant import JointInterpolant
from flexmdm_jax.prediction import Prediction, rates
from flexmdm_jax.schedules import Schedule
from flexmdm_jax.vocab import Vocab

# A sampler compiles once for all laws whose tables have one size.
_LEAST_ROWS = 1024
# Entries of the largest table: 256 MiB.
_MAX_ENTRIES = 2**26
# Python lists the ways one by one, some 500,000 a second.
_MAX_WAYS = 2**20

Key = str | tuple


class Item(NamedTuple):
  """A clean sequence of a law.

  Attributes:
    tokens: its ids.
    frozen: which of them are given.
    probability: of the sequence with these frozen tokens.
  """

  tokens: tuple[int, ...]
  frozen: tuple[bool, ...]
  probability: float


class Embedding(NamedTuple):
  """One way in which an item shows up as a state.

  Attributes:
    state: the ids of the state.
    item: the clean sequence.
    source: index in it of each token of the state.
    absent: number of free tokens that are missing.
    masked: number of free tokens that are masks.
    clean: number of free tokens that are clean.
  """

  state: tuple[int, ...]
  item: Item
  source: tuple[int, ...]
  absent: int
  masked: int
  clean: int


@functools.partial(
  jax.tree_util.register_dataclass,
  data_fields=["row", "log_weight", "tokens", "gaps"],
  meta_fields=["insertion", "gap_law", "one_time"],
)
@dataclasses.dataclass(frozen=True, eq=False)
class ShortDenoiser:
  """The exact posterior of a `ShortLaw`, by the number k of absent tokens.

  Attributes:
    row: row of the tables i32[codes] for each state's code.
    log_weight: log-probability f32[S, L+1] of the state with k absent tokens,
      but for its powers of the time.
    tokens: posterior f32[S, L+1, L, V] of the token at each position, given k.
    gaps: laws f32[S, L+1, L+1, L+1] of the missing tokens of each gap, given k.
    insertion: the insertion schedule.
    gap_law: whether to give the law of a gap's missing tokens.
    one_time: whether all rows of a call have the time of the first.
  """

  row: Any
  log_weight: Any
  tokens: Any
  gaps: Any
  insertion: Schedule
  gap_law: bool
  one_time: bool

  def __call__(self, tokens, length, t) -> Prediction:
    L, V = self.tokens.shape[-2:]
    if tokens.shape[1] != L:
      raise InputError(
        f"rows of {tokens.shape[1]} positions: this law's denoiser has tables"
        f" for max_length={L}."
      )
    rows = self.row[_encode(tokens, length, V)]
    if not self.one_time:
      return self._posterior(rows, t[:, None])
    table = self._posterior(jnp.arange(len(self.tokens)), t[0])
    return jax.tree.map(lambda x: x[rows], table)

  def _posterior(self, rows, t):
    """Predicts for rows of the tables."""
    number = jnp.arange(self.log_weight.shape[1], dtype=jnp.float32)
    survival = jnp.maximum(self.insertion.survival(t), 1e-30)
    log_weight = self.log_weight[rows] + number * jnp.log(survival)
    weight = jax.nn.softmax(log_weight)
    tokens = jnp.einsum("sk,sklv->slv", weight, self.tokens[rows])
    gaps = jnp.einsum("sk,skgc->sgc", weight, self.gaps[rows])
    return Prediction(
      token_logits=jnp.log(tokens),
      log_gaps=jnp.log(gaps @ number),
      gap_logits=jnp.log(gaps) if self.gap_law else None,
    )


def token_shares(
  interpolant: JointInterpolant, t: float
) -> tuple[float, float, float]:
  """Computes the probabilities that a token is absent, a mask and clean.

  By quadrature over the time of its insertion, to some 1e-6.

  Args:
    interpolant: the schedules.
    t: the time, in [0, 1].
  """
  inserted = float(interpolant.insertion.alpha(t))
  x, weight = np.polynomial.legendre.leggauss(40)
  # Evenly in alpha: with `a` its insertion is at the time inverse(a).
  born = interpolant.insertion.inverse(jnp.asarray(inserted * (x + 1) / 2))
  revealed = interpolant.unmasking.jump(born, jnp.full(born.shape, t))
  clean = inserted * float(weight @ np.asarray(revealed, np.float64)) / 2
  return 1 - inserted, inserted - clean, clean


class ShortLaw:
  """A law of a few short sequences, all listed.

  Args:
    probabilities: probability of each sequence, a tuple of ids or a string of
      digits; or of each pair of a sequence and the indices of its frozen
      tokens. All have the same frozen tokens, in order.
    vocab: the id space.
    max_length: L, room for the longest sequence.

  Attributes:
    vocab: the id space.
    max_length: L.
    items: the sequences as given.
    outcomes: probability of each sequence, whichever of its tokens are frozen.
    embeddings: all ways in which an item shows up as a state.
    states: the states, the shortest first.
    index: number of each state in `states`.

  Raises:
    InputError: the probabilities do not sum to 1, a sequence is too long or
      holds an id that is no token, the frozen tokens differ, or the tables
      would be too large.
  """

  def __init__(
    self, probabilities: Mapping[Key, float], vocab: Vocab, max_length: int
  ):
    self.vocab, self.max_length = vocab, max_length
    self.items = [self._item(*pair) for pair in probabilities.items()]
    given = {
      tuple(itertools.compress(item.tokens, item.frozen)) for item in self.items
    }
    if len(given) > 1:
      raise InputError(f"the frozen tokens must be the same, got {given}.")
    total = sum(item.probability for item in self.items)
    if abs(total - 1) > 1e-6:
      raise InputError(f"probabilities must sum to 1, not {total}.")
    ways = sum(3 ** item.frozen.count(False) for item in self.items)
    if ways > _MAX_WAYS or (vocab.size + 1) ** max_length > _MAX_ENTRIES:
      raise InputError(
        f"the tables of this law would be too large: {ways} ways to show up"
        f" (at most {_MAX_WAYS}), (vocab.size + 1) ** max_length ="
        f" {(vocab.size + 1) ** max_length} codes (at most {_MAX_ENTRIES})."
      )
    self.embeddings = [e for item in self.items for e in self._embeddings(item)]
    states = {e.state for e in self.embeddings}
    self.states = sorted(states, key=lambda state: (len(state), state))
    self.index = {state: i for i, state in enumerate(self.states)}
    self.outcomes = {}
    for item in self.items:
      self.outcomes.setdefault(item.tokens, 0.0)
      self.outcomes[item.tokens] += item.probability

  def draw(self, num: int, seed: int) -> list[np.ndarray]:
    """Draws `num` independent sequences, int32[n] each."""
    rng = np.random.default_rng(seed)
    p = np.array(list(self.outcomes.values()))
    sequences = [np.array(tokens, np.int32) for tokens in self.outcomes]
    return [sequences[i] for i in rng.choice(len(p), num, p=p / p.sum())]

  def log_prob(self, sequences: Sequence[Sequence[int]]) -> np.ndarray:
    """Computes exact log-probabilities f64[N]; -inf for what is not listed."""
    p = [self.outcomes.get(tuple(map(int, x)), 0.0) for x in sequences]
    with np.errstate(divide="ignore"):
      return np.log(np.array(p, np.float64))

  def entropy(self) -> tuple[float, float]:
    """Computes the entropy, in nats a sequence, and its error, which is 0."""
    p = np.array(list(self.outcomes.values()))
    p = p[p > 0]
    return float(-(p * np.log(p)).sum()), 0.0

  def length_law(self) -> np.ndarray:
    """Computes the probabilities f64[L+1] of 0 to L tokens."""
    law = np.zeros(self.max_length + 1)
    for tokens, probability in self.outcomes.items():
      law[len(tokens)] += probability
    return law

  def mean_length(self) -> float:
    """Computes the mean number of tokens."""
    return float(self.length_law() @ np.arange(self.max_length + 1))

  def counts(self, sequences: Sequence[Sequence[int]]) -> np.ndarray:
    """Counts each outcome among N sequences; last, anything else."""
    seen = Counter(tuple(map(int, x)) for x in sequences)
    counts = [seen[tokens] for tokens in self.outcomes]
    return np.array([*counts, len(sequences) - sum(counts)])

  def total_variation(self, sequences: Sequence[Sequence[int]]) -> float:
    """Computes the total variation between the law of N sequences and this."""
    counts = self.counts(sequences)
    law = np.append(list(self.outcomes.values()), 0.0)
    return float(0.5 * np.abs(counts / counts.sum() - law).sum())

  def total_variation_floor(self, num: int) -> float:
    """Computes the mean total variation of `num` perfect samples, nearly.

    The count of each outcome is taken as normal.
    """
    p = np.array(list(self.outcomes.values()))
    return float(0.5 * np.sqrt(2 * p * (1 - p) / (np.pi * num)).sum())

  def marginal(self, absent: float, masked: float, clean: float) -> np.ndarray:
    """Computes the law f64[S] of `states`.

    Args:
      absent: probability that a free token is absent.
      masked: probability that it is a mask.
      clean: probability that it is clean.
    """
    p = np.zeros(len(self.states))
    for e in self.embeddings:
      weight = absent**e.absent * masked**e.masked * clean**e.clean
      p[self.index[e.state]] += e.item.probability * weight
    return p

  def generator(self, interpolant: JointInterpolant, t: float) -> np.ndarray:
    """Computes the exact rates f64[S, S] from each of `states` to each other.

    Row i has the rates at which state i is left at time t, and minus their sum
    on the diagonal: a state's probability flows along them, and none is lost.

    Args:
      interpolant: the schedules.
      t: the time, in [0, 1).

    Raises:
      InputError: t is not in [0, 1), or the law has frozen tokens.
    """
    if not 0 <= t < 1:
      raise InputError(f"t={t} must be in [0, 1): rates have no end at 1.")
    if any(any(item.frozen) for item in self.items):
      raise InputError(
        "this law has frozen tokens: which of a state's tokens they are is not"
        " known, and so not its rates."
      )
    tokens, length = map(jnp.asarray, self.pack(self.states))
    time = jnp.full(length.shape, t, jnp.float32)
    prediction = self.denoiser(interpolant.insertion)(tokens, length, time)
    found = jax.vmap(rates, (0, 0, 0, 0, None, None))(
      prediction, tokens, length, time, interpolant, self.vocab
    )
    unmask, insert = (np.asarray(x, np.float64) for x in found)
    q = np.zeros((len(self.states), len(self.states)))
    for i, state in enumerate(self.states):
      for j, token in zip(*np.nonzero(unmask[i]), strict=True):
        target = (*state[:j], int(token), *state[j + 1 :])
        q[i, self.index[target]] += unmask[i, j, token]
      for j in np.flatnonzero(insert[i]):
        target = (*state[:j], self.vocab.mask, *state[j:])
        q[i, self.index[target]] += insert[i, j]
    return q - np.diag(q.sum(axis=1))

  def denoiser(
    self, insertion: Schedule, gap_law: bool = False, one_time: bool = False
  ) -> ShortDenoiser:
    """Makes the exact denoiser, of rows of L positions.

    A state that no sequence leads to, which a sampler of few steps may reach,
    gets all tokens that are somewhere free alike, and no missing ones.

    Args:
      insertion: the insertion schedule of the path on which it is asked.
      gap_law: whether to give the law of the missing tokens, not just its mean.
      one_time: whether all rows of a call have one time, as on a grid: the
        posteriors of all states are then computed once. Methods whose rows have
        clocks of their own, "events" and "midpoint", need False.
    """
    L, V = self.max_length, self.vocab.size
    S = max(_LEAST_ROWS, 1 << len(self.states).bit_length())
    entries = S * (L + 1) * max(L * V, (L + 1) ** 2)
    if entries > _MAX_ENTRIES:
      raise InputError(
        f"the tables of this law would be too large: {entries} entries for"
        f" {len(self.states)} states (at most {_MAX_ENTRIES})."
      )
    weight = np.zeros((S, L + 1))
    tokens = np.zeros((S, L + 1, L, V))
    gaps = np.zeros((S, L + 1, L + 1, L + 1))
    for e in self.embeddings:
      at = self.index[e.state], e.absent
      weight[at] += e.item.probability
      for i, source in enumerate(e.source):
        tokens[at][i, e.item.tokens[source]] += e.item.probability
      ends = (-1, *e.source, len(e.item.tokens))
      for i, (before, after) in enumerate(itertools.pairwise(ends)):
        gaps[at][i, after - before - 1] += e.item.probability
    free = self._free_ids()
    impossible = slice(len(self.states), None)
    weight[impossible, 0] = 1.0
    tokens[impossible, 0, :, free] = 1 / len(free)
    gaps[impossible, 0, :, 0] = 1.0

    row = np.full((V + 1) ** L, S - 1, np.int32)
    row[self.encode(*self.pack(self.states))] = np.arange(len(self.states))
    scale = np.where(weight > 0, weight, 1.0)[..., None, None]
    with np.errstate(divide="ignore"):
      tables = np.log(weight), tokens / scale, gaps / scale
    tables = [jnp.asarray(table, jnp.float32) for table in tables]
    return ShortDenoiser(
      jnp.asarray(row), *tables, insertion, gap_law, one_time
    )

  def pack(
    self, sequences: Sequence[Sequence[int]]
  ) -> tuple[np.ndarray, np.ndarray]:
    """Packs N sequences into left-aligned rows.

    Returns:
      Tokens i32[N, L], the pad beyond the length, and lengths i32[N].
    """
    tokens = np.full(
      (len(sequences), self.max_length), self.vocab.pad, np.int32
    )
    for row, sequence in zip(tokens, sequences, strict=True):
      row[: len(sequence)] = sequence
    return tokens, np.array([len(s) for s in sequences], np.int32)

  def encode(self, tokens: np.ndarray, length: np.ndarray) -> np.ndarray:
    """Numbers rows [..., L] by what they hold up to their length [...]."""
    return _encode(tokens, length, self.vocab.size)

  def _item(self, key: Key, probability: float) -> Item:
    """Reads one entry of the probabilities."""
    tokens, kept = key, ()
    if (
      isinstance(key, tuple)
      and key
      and not np.issubdtype(type(key[0]), np.integer)
    ):
      tokens, kept = key
    try:
      tokens = tuple(map(int, tokens))
    except ValueError:
      raise InputError(
        f"sequence {tokens!r} must be ids, or a string of digits."
      ) from None
    size, mask, L = self.vocab.size, self.vocab.mask, self.max_length
    if len(tokens) > L:
      raise InputError(
        f"sequence {key!r} has {len(tokens)} tokens: max_length={L}."
      )
    if not all(0 <= token < size and token != mask for token in tokens):
      raise InputError(
        f"sequence {key!r} must hold ids in [0, {size}) without the mask"
        f" {mask}."
      )
    if not set(kept) <= set(range(len(tokens))):
      raise InputError(
        f"frozen tokens {tuple(kept)} of {key!r} must be indices below"
        f" {len(tokens)}."
      )
    if not probability >= 0:
      raise InputError(
        f"the probability of {key!r} must be at least 0, got {probability}."
      )
    frozen = tuple(i in kept for i in range(len(tokens)))
    return Item(tokens, frozen, probability)

  def _free_ids(self) -> list[int]:
    """Lists the ids that some free token has; all tokens if none is free."""
    free = {
      token
      for item in self.items
      for token, frozen in zip(item.tokens, item.frozen, strict=True)
      if not frozen
    }
    return sorted(free or set(range(self.vocab.size)) - {self.vocab.mask})

  def _embeddings(self, item: Item) -> Iterator[Embedding]:
    """Lists the ways in which an item shows up."""
    for fates in itertools.product(
      *[
        ("clean",) if frozen else ("absent", "mask", "clean")
        for frozen in item.frozen
      ]
    ):
      source = tuple(i for i, fate in enumerate(fates) if fate != "absent")
      yield Embedding(
        state=tuple(
          self.vocab.mask if fates[i] == "mask" else item.tokens[i]
          for i in source
        ),
        item=item,
        source=source,
        absent=fates.count("absent"),
        masked=fates.count("mask"),
        clean=fates.count("clean") - sum(item.frozen),
      )


def _encode(tokens, length, size: int):
  """Numbers rows [..., L], whatever they hold beyond their length."""
  L = tokens.shape[-1]
  inside = (np.arange(L) < length[..., None]).astype(np.int32)
  base = (size + 1) ** np.arange(L, dtype=np.int32)
  return (inside * (tokens + 1) * base).sum(-1)
