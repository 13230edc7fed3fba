"""The joint interpolant: how data turns into partly inserted, masked states.

Each token of a clean sequence draws an insertion time `T1` and an unmasking
time `T2 > T1`. At time t it is absent (t < T1), a mask (T1 <= t < T2) or clean
(t >= T2); the state `x_t` is what is present, in order.

A plain masked diffusion model is the special case `MDM(unmasking)`: every
token is inserted at time 0, lengths are fixed and padding is a token.

Source: arXiv 2509.01025, "joint interpolant" and "conditional generation".
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from flexmdm_jax import schedules
from flexmdm_jax.schedules import Schedule
from flexmdm_jax.vocab import Vocab


@dataclasses.dataclass(frozen=True)
class JointInterpolant:
  """The schedules of insertion (alpha) and unmasking (beta).

  They belong to the trained model: sampling with others is a different law.
  """

  insertion: Schedule
  unmasking: Schedule

  def to_config(self) -> dict:
    """A JSON-ready description; stored in every checkpoint."""
    return {
      "insertion": schedules.to_config(self.insertion),
      "unmasking": schedules.to_config(self.unmasking),
    }

  @classmethod
  def from_config(cls, config) -> "JointInterpolant":
    """The interpolant that `to_config` described; InputError if unknown."""
    return cls(
      insertion=schedules.from_config(config["insertion"]),
      unmasking=schedules.from_config(config["unmasking"]),
    )


def MDM(unmasking: Schedule) -> JointInterpolant:  # noqa: N802 (the field's name)
  """The interpolant of a fixed-length masked diffusion model."""
  return JointInterpolant(schedules.Immediate(), unmasking)


class Noised(NamedTuple):
  """A state `x_t` of one sequence and the truth that a denoiser is to predict.

  Positions from `length` on hold pad in `tokens` and `target`, and 0 in
  `source`; gaps from `length + 1` on hold 0 and are not open.

  Attributes:
    tokens: the state, left-aligned, with masks.
    length: number of tokens in the state.
    source: index in the clean sequence of each token (the paper's `s_t`).
    target: the clean token at each position.
    masked: which positions hold a mask.
    gaps: number of missing tokens before each position; the last after it.
    open_gaps: the gaps into which the process may insert; only these carry
      loss.
  """

  tokens: Int[Array, "*b L"]
  length: Int[Array, "*b"]
  source: Int[Array, "*b L"]
  target: Int[Array, "*b L"]
  masked: Bool[Array, "*b L"]
  gaps: Int[Array, "*b L+1"]
  open_gaps: Bool[Array, "*b L+1"]


def draw_times(
  key: Key[Array, ""], interpolant: JointInterpolant, L: int
) -> tuple[Float[Array, " L"], Float[Array, " L"]]:
  """Draws the insertion and unmasking times of one sequence's tokens.

  Args:
    key: a PRNG key.
    interpolant: the two schedules.
    L: number of tokens.

  Returns:
    (insertion_time f32[L], unmasking_time f32[L]), the second not below the
    first: `P(T2 <= t | T1) = (beta(t) - beta(T1)) / (1 - beta(T1))`.
  """
  insertion_key, unmasking_key = jax.random.split(key)
  insertion_time = interpolant.insertion.sample(insertion_key, (L,))
  unmasking_time = interpolant.unmasking.sample_after(
    unmasking_key, insertion_time
  )
  return insertion_time, unmasking_time


def noise(
  tokens: Int[Array, " L"],
  length: Int[Array, ""],
  insertion_time: Float[Array, " L"],
  unmasking_time: Float[Array, " L"],
  t: Float[Array, ""],
  vocab: Vocab,
  frozen: Bool[Array, " L"] | None = None,
  open_gaps: Bool[Array, " L+1"] | None = None,
) -> Noised:
  """The state at time `t` of one clean sequence, and what is missing in it.

  Args:
    tokens: the clean sequence, left-aligned; what lies beyond `length` is not
      read.
    length: its number of tokens.
    insertion_time: time from which each token is present.
    unmasking_time: time from which each token is clean.
    t: the time, in [0, 1].
    vocab: supplies the mask and pad ids.
    frozen: tokens that are given (a prompt, the subgoals of a plan): never
      absent, never masked.
    open_gaps: gaps of the *clean* sequence, gap j lying before token j and gap
      `length` after the last, into which the process may insert. A gap of the
      state is open if a token is missing there or if it is open here. Default:
      every gap but those inside a frozen run or before one that starts the
      sequence, which is the rule for a prompt. Anchors (all True) and infilling
      (one hole, possibly empty) say it themselves.

  Returns:
    The `Noised` state.
  """
  (L,) = tokens.shape
  index = jnp.arange(L)
  exists = index < length
  frozen = jnp.zeros(L, bool) if frozen is None else frozen & exists
  if open_gaps is None:
    before = jnp.concatenate([jnp.ones(1, bool), frozen])
    after = jnp.concatenate([frozen, jnp.zeros(1, bool)])
    open_gaps = ~(before & after)

  present = exists & (frozen | (insertion_time <= t))
  clean = present & (frozen | (unmasking_time <= t))
  new_length = jnp.sum(present, dtype=jnp.int32)

  # Left-align what is present: token i goes to slot `slot[i]`, the rest to a
  # slot beyond the end, which `drop` discards.
  slot = jnp.where(present, jnp.cumsum(present) - 1, L)
  gather = (
    jnp.zeros(L, jnp.int32).at[slot].set(index.astype(jnp.int32), mode="drop")
  )
  in_state = index < new_length
  target = jnp.where(in_state, tokens[gather], vocab.pad)
  masked = in_state & ~clean[gather]

  # With sentinels -1 before the first and n after the last token, a gap is a
  # difference of neighbouring sources.
  gap_index = jnp.arange(L + 1)
  last = gap_index == new_length
  before = jnp.concatenate([jnp.full(1, -1), gather])
  after = jnp.where(last, length, jnp.append(gather, 0))
  gaps = jnp.where(gap_index <= new_length, after - before - 1, 0)
  still_open = (gaps > 0) | open_gaps[after]
  return Noised(
    tokens=jnp.where(masked, vocab.mask, target).astype(jnp.int32),
    length=new_length,
    source=jnp.where(in_state, gather, 0),
    target=target.astype(jnp.int32),
    masked=masked,
    gaps=gaps.astype(jnp.int32),
    open_gaps=(gap_index <= new_length) & still_open,
  )
