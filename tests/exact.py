"""Small data laws whose marginals and posteriors are known exactly.

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
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.stats

import flexmdm_jax as fm

VOCAB = fm.Vocab(size=5, mask=3, pad=4)
L = 6

# Tests of samplers spend their time compiling, which is twice as fast so.
quick_jit = functools.partial(
  jax.jit, compiler_options={"xla_backend_optimization_level": 1}
)

# All strings over two tokens and the mask, and one row for the impossible. All
# laws have tables of one size, so that a sampler compiles once for all.
_ROWS = (3 ** (L + 1) - 1) // 2 + 1


class Item(NamedTuple):
  tokens: tuple[int, ...]
  frozen: tuple[bool, ...]
  probability: float


class Embedding(NamedTuple):
  """One way in which an item shows up as a state."""

  state: tuple[int, ...]
  item: Item
  source: tuple[int, ...]
  absent: int
  masked: int
  clean: int


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Denoiser:
  """The exact posterior of a law, by the number of absent tokens."""

  row: jax.Array
  log_weight: jax.Array
  tokens: jax.Array
  gaps: jax.Array
  insertion: fm.schedules.Schedule = dataclasses.field(
    metadata={"static": True}
  )
  gap_law: bool = dataclasses.field(metadata={"static": True})
  one_time: bool = dataclasses.field(metadata={"static": True})

  def __call__(self, tokens, length, t):
    rows = self.row[encode(tokens, length)]
    if not self.one_time:
      return self._posterior(rows, t[:, None])
    table = self._posterior(jnp.arange(_ROWS), t[0])
    return jax.tree.map(lambda x: x[rows], table)

  def _posterior(self, rows, t):
    survival = jnp.maximum(self.insertion.survival(t), 1e-30)
    log_weight = self.log_weight[rows] + jnp.arange(L + 1.0) * jnp.log(survival)
    weight = jax.nn.softmax(log_weight)
    tokens = jnp.einsum("sk,sklv->slv", weight, self.tokens[rows])
    gaps = jnp.einsum("sk,skgc->sgc", weight, self.gaps[rows])
    return fm.Prediction(
      token_logits=jnp.log(tokens),
      log_gaps=jnp.log(gaps @ jnp.arange(L + 1.0)),
      gap_logits=jnp.log(gaps) if self.gap_law else None,
    )


class Law:
  """A data law, the law of its states, and its perfect denoiser.

  Args:
    probabilities: of each sequence, written as digits; or of each pair of a
      sequence and the indices of its frozen tokens. All have equally many.
  """

  def __init__(self, probabilities):
    self.items = []
    for name, probability in probabilities.items():
      digits, kept = name if isinstance(name, tuple) else (name, ())
      frozen = tuple(i in kept for i in range(len(digits)))
      self.items.append(Item(tuple(map(int, digits)), frozen, probability))
    self.embeddings = [e for item in self.items for e in _embeddings(item)]
    states = {e.state for e in self.embeddings}
    self.states = sorted(states, key=lambda state: (len(state), state))
    self.index = {state: i for i, state in enumerate(self.states)}

    self.outcomes = {}
    for item in self.items:
      self.outcomes.setdefault(item.tokens, 0.0)
      self.outcomes[item.tokens] += item.probability

  def marginal(self, absent, masked, clean):
    """`p_t` over `states`, given the probabilities of a token at time t."""
    p = np.zeros(len(self.states))
    for e in self.embeddings:
      weight = absent**e.absent * masked**e.masked * clean**e.clean
      p[self.index[e.state]] += e.item.probability * weight
    return p

  def denoiser(self, insertion, gap_law=False, one_time=True):
    """The exact posterior as a denoiser.

    A state that no sequence leads to, which a sampler of few steps may reach,
    gets the tokens 0 and 1 alike and no missing ones.

    Args:
      insertion: the insertion schedule.
      gap_law: whether to give the law of the missing tokens, not just its mean.
      one_time: all rows have the same time, as they do in the sampler: the
        posteriors of all states are computed once.
    """
    weight = np.zeros((_ROWS, L + 1))
    tokens = np.zeros((_ROWS, L + 1, L, VOCAB.size))
    gaps = np.zeros((_ROWS, L + 1, L + 1, L + 1))
    for e in self.embeddings:
      at = self.index[e.state], e.absent
      weight[at] += e.item.probability
      for i, source in enumerate(e.source):
        tokens[at][i, e.item.tokens[source]] += e.item.probability
      ends = (-1, *e.source, len(e.item.tokens))
      for i, (before, after) in enumerate(itertools.pairwise(ends)):
        gaps[at][i, after - before - 1] += e.item.probability
    impossible = slice(len(self.states), None)
    weight[impossible, 0] = 1.0
    tokens[impossible, 0, :, :2] = 0.5
    gaps[impossible, 0, :, 0] = 1.0

    row = np.full((VOCAB.size + 1) ** L, _ROWS - 1, np.int32)
    row[encode(*pack(self.states))] = np.arange(len(self.states))
    scale = np.where(weight > 0, weight, 1.0)[..., None, None]
    with np.errstate(divide="ignore"):
      tables = np.log(weight), tokens / scale, gaps / scale
    tables = [jnp.asarray(table, jnp.float32) for table in tables]
    return Denoiser(jnp.asarray(row), *tables, insertion, gap_law, one_time)

  def counts(self, samples):
    """How often each outcome was sampled; last, anything else."""
    code = encode(np.asarray(samples.tokens), np.asarray(samples.length))
    hits = code[:, None] == encode(*pack(list(self.outcomes)))
    return np.append(hits.sum(axis=0), (~hits.any(axis=1)).sum())

  def tv(self, samples):
    """Total variation between the empirical law of `samples` and this one."""
    counts = self.counts(samples)
    law = np.append(list(self.outcomes.values()), 0.0)
    return 0.5 * np.abs(counts / counts.sum() - law).sum()

  def floor(self, num):
    """The mean total variation of `num` perfect samples."""
    p = np.array(list(self.outcomes.values()))
    return 0.5 * np.sqrt(2 * p * (1 - p) / (np.pi * num)).sum()

  def p_value(self, samples):
    """Of the chi-square test that those `samples` that are outcomes have the
    law's proportions."""
    counts = self.counts(samples)[:-1]
    p = np.array(list(self.outcomes.values()))
    return scipy.stats.chisquare(counts, p * counts.sum()).pvalue


def _embeddings(item):
  for fates in itertools.product(
    *[
      ("clean",) if frozen else ("absent", "mask", "clean")
      for frozen in item.frozen
    ]
  ):
    source = tuple(i for i, fate in enumerate(fates) if fate != "absent")
    yield Embedding(
      state=tuple(
        VOCAB.mask if fates[i] == "mask" else item.tokens[i] for i in source
      ),
      item=item,
      source=source,
      absent=fates.count("absent"),
      masked=fates.count("mask"),
      clean=fates.count("clean") - sum(item.frozen),
    )


def pack(sequences):
  """(tokens i32[N, L], length i32[N]) of left-aligned rows."""
  tokens = np.full((len(sequences), L), VOCAB.pad, np.int32)
  for row, sequence in zip(tokens, sequences, strict=True):
    row[: len(sequence)] = sequence
  return tokens, np.array([len(s) for s in sequences], np.int32)


def encode(tokens, length):
  """A number for each row, whatever it holds beyond its length."""
  inside = (np.arange(L) < length[..., None]).astype(np.int32)
  base = (VOCAB.size + 1) ** np.arange(L, dtype=np.int32)
  return (inside * (tokens + 1) * base).sum(-1)


def texts(tokens, length):
  """The distinct states among [..., L] rows, as digits."""
  rows = np.reshape(tokens, (-1, L))
  _, first = np.unique(encode(rows, np.ravel(length)), return_index=True)
  return {
    "".join(map(str, rows[i, :n]))
    for i, n in zip(first, np.ravel(length)[first], strict=True)
  }


# The law on which the bounds of the paper were worked out, entropy 1.4964.
PAPER = Law({"": 0.1, "0": 0.2, "00": 0.1, "010": 0.35, "1101": 0.25})
# With three tokens, the kinds of confidence rank masks differently.
THREE = Law({"": 0.1, "2": 0.15, "021": 0.3, "1200": 0.25, "0112": 0.2})
# Most rows end with no room left.
FULL = Law({"": 0.1, "1": 0.1, "010": 0.1, "011010": 0.4, "110001": 0.3})
# The fixed-length law of an MDM: padding, here 4, is a token like any other.
FIXED = Law({"014444": 0.2, "101444": 0.3, "000114": 0.4, "111111": 0.1})
