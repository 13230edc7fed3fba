"""Laws of states: at which states a model is trained, and with what weights.

The posterior of tokens and gaps is a function of the state and of alpha alone
(`paths`). So it can be learned from any joint law of the insertion progress `a`
(the share of tokens that are present) and the mask share `m` (the share of the
present tokens that are masks), with any positive weights on the two losses: the
minimiser is the same. Which law learns fastest is a matter of measurement.

- `PathStates`, the paper's: the states of the joint interpolant at a time, with
  the weights that make the loss a likelihood bound.
- `MixedStates`, ours: `a` and `m` independent, with shares of rows in which
  nothing is missing (a masked diffusion model without padding) or all is masked
  (the law of the length), and a curriculum of these shares.

Source: arXiv 2509.01025 for the first; the second is ours.
"""

import dataclasses
import math
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from flexmdm_jax.errors import InputError
from flexmdm_jax.interpolant import (
  JointInterpolant,
  Noised,
  draw_times,
  noise,
)
from flexmdm_jax.paths import trained_clock
from flexmdm_jax.schedules import Immediate, Power, Schedule
from flexmdm_jax.schema import count, require, setting
from flexmdm_jax.times import EXPONENT, stratified_times
from flexmdm_jax.vocab import Vocab

# The default law of the progress: few of its states are nearly empty.
_PROGRESS = Power(3.0)
# Share of the blank rows that are where a sample starts.
_START = 0.4
# A lattice of this step spreads any run of consecutive rows evenly over [0, 1).
_GOLDEN = (math.sqrt(5.0) - 1.0) / 2.0


class States(NamedTuple):
  """The random numbers of a batch's rows, before their noise.

  Attributes:
    key: key of each row's noise.
    t: the trained clock, which the network is shown.
    progress: `a`, or the time on the path for `PathStates`.
    masks: `m`; not used by `PathStates`.
    unmask_weight: weight of the row's token loss.
    insert_weight: weight of the row's gap loss.
  """

  key: Key[Array, " B"]
  t: Float[Array, " B"]
  progress: Float[Array, " B"]
  masks: Float[Array, " B"]
  unmask_weight: Float[Array, " B"]
  insert_weight: Float[Array, " B"]


class StateLaw(Protocol):
  """A law of states, with weights.

  Attributes:
    is_bound: whether the weights make the loss the paper's bound on the
      trained schedules.
  """

  is_bound: bool

  def draw(
    self, key: Key[Array, ""], batch_size: int, step: Int[Array, ""] | int
  ) -> States:
    """Draws the states of a batch at a training step."""
    ...

  def noise(
    self,
    state: States,
    tokens: Int[Array, " L"],
    length: Int[Array, ""],
    vocab: Vocab,
    frozen: Bool[Array, " L"],
    open_gaps: Bool[Array, " L+1"],
  ) -> Noised:
    """Makes one row's state and its truth; see `interpolant.noise`."""
    ...


@dataclasses.dataclass(frozen=True)
class PathStates:
  """The states of the joint interpolant, at stratified times.

  Attributes:
    interpolant: the schedules.
    time_exponent: density of the times near 1; see `times`.
    weight_floor: number added to the survival that a weight is divided by,
      `a' / (1 - a + floor)`. 0 gives the hazards, and with them the bound; the
      public 7B's is 1e-3, which makes the weights fall to 0 near t = 1.

  Raises:
    InputError: a number is out of range.
  """

  interpolant: JointInterpolant
  time_exponent: float = setting(EXPONENT, least=0.01, most=100)
  weight_floor: float = setting(0.0, least=0, most=1)

  def __post_init__(self):
    require(self, "train")

  @property
  def is_bound(self) -> bool:
    """Tells whether the weights are the hazards."""
    return self.weight_floor == 0

  def draw(self, key, batch_size, step=0) -> States:
    """Draws stratified times; the hazards are the weights.

    Args:
      key: a PRNG key.
      batch_size: rows.
      step: not used.
    """
    del step
    time_key, row_key = jax.random.split(key)
    times = stratified_times(time_key, batch_size, self.time_exponent)
    keys = jax.random.split(row_key, batch_size)
    return self.at(keys, times.t, times.weight)

  def at(
    self, key: Key[Array, " B"], t: Float[Array, " B"], weight=1.0
  ) -> States:
    """Makes the states at given times; `weight` multiplies theirs."""
    return States(
      key=key,
      t=t,
      progress=t,
      masks=jnp.zeros_like(t),
      unmask_weight=weight * self._weight(self.interpolant.unmasking, t),
      insert_weight=weight * self._weight(self.interpolant.insertion, t),
    )

  def _weight(self, schedule, t):
    if self.is_bound:
      return schedule.hazard(t)
    return schedule.derivative(t) / (schedule.survival(t) + self.weight_floor)

  def noise(self, state, tokens, length, vocab, frozen, open_gaps) -> Noised:
    """Makes the joint interpolant's state of one row."""
    (L,) = tokens.shape
    times = draw_times(state.key, self.interpolant, L)
    return noise(
      tokens, length, *times, state.progress, vocab, frozen, open_gaps
    )


@dataclasses.dataclass(frozen=True)
class MixedStates:
  """States whose insertion progress and mask share are independent.

  A batch has rows of three kinds, their shares a piecewise linear function of
  the step, the curriculum:

  - full: nothing is missing, a = 1; the token loss is a masked diffusion
    model's, and there is no gap to learn;
  - blank: every present token is a mask, m = 1; only the gaps are learned,
    which are the law of the length. In four of ten such rows nothing is
    present: every sample starts there, and no other state teaches it;
  - mixed, the rest: both losses.

  `a = insertion.alpha(u)` and `m = r ** mask_exponent` for u and r that
  together are stratified in the unit square. Weights are those of the bound of
  a path with these marginals: `1 / m` (per density of m) for tokens, the hazard
  of `insertion` at u for gaps. A clean token or a mask is a coin of its own.

  Attributes:
    interpolant: the schedules whose clock the network is shown.
    insertion: the law of the progress; `Power(3)` has few empty states.
    mask_exponent: 1 draws m uniformly; above, fewer masks with less variance.
    steps: training steps at which the shares are given, ascending; two alike
      make a jump. Before the first and after the last they are constant.
    full: share of full rows at each of them, in [0, 1].
    blank: share of blank rows.

  Raises:
    InputError: a share is outside [0, 1], or the shares of a step sum to more
      than 1; lengths differ, or steps descend; the model has a fixed length.
  """

  interpolant: JointInterpolant
  insertion: Schedule = _PROGRESS
  mask_exponent: float = setting(1.0, least=0.01, most=100)
  steps: tuple[int, ...] = count((0,), least=0)
  full: tuple[float, ...] = setting((0.3,), least=0, most=1)
  blank: tuple[float, ...] = setting((0.05,), least=0, most=1)
  is_bound = False

  def __post_init__(self):
    require(self, "train.states")
    if isinstance(self.interpolant.insertion, Immediate):
      raise InputError(
        "train.states: a fixed-length model has no missing tokens: choose"
        " law='path'."
      )
    sizes = {len(self.steps), len(self.full), len(self.blank)}
    if len(sizes) > 1 or 0 in sizes:
      raise InputError(
        f"train.states: steps={self.steps}, full={self.full} and"
        f" blank={self.blank} must be of one length, at least 1."
      )
    if list(self.steps) != sorted(self.steps):
      raise InputError(f"train.states.steps={self.steps} must ascend.")
    for step, full, blank in zip(
      self.steps, self.full, self.blank, strict=True
    ):
      if full + blank > 1 + 1e-9:
        raise InputError(
          f"train.states: at step {step} the shares full={full} and"
          f" blank={blank} must sum to at most 1."
        )

  def shares(
    self, step: Int[Array, ""] | int
  ) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Computes the shares (full, blank) of the rows at a training step."""
    at = jnp.asarray(step, jnp.float32)
    steps = jnp.asarray(self.steps, jnp.float32)
    # Of two equal steps `interp` takes the later: the curriculum jumps there.
    full, blank = (
      jnp.interp(at, steps, jnp.asarray(values, jnp.float32))
      for values in (self.full, self.blank)
    )
    return full, blank

  def draw(self, key, batch_size, step=0) -> States:
    """Draws progress and mask shares, stratified together.

    Args:
      key: a PRNG key.
      batch_size: rows; the first are full, then come blank ones.
      step: the training step, which decides the shares.
    """
    row_key, place_key, shift_key = jax.random.split(key, 3)
    index = jnp.arange(batch_size, dtype=jnp.float32)
    place = (index + jax.random.uniform(place_key, (batch_size,))) / batch_size
    r = jnp.mod(jax.random.uniform(shift_key) + _GOLDEN * index, 1.0)
    r = jnp.clip(1.0 - r, 2.0**-24, 1.0)  # 0 has no masks and no weight

    full, blank = self.shares(step)
    is_full = place < full
    is_blank = ~is_full & (place < full + blank)
    begin = jnp.where(is_blank, full, full + blank)
    width = jnp.where(is_blank, blank, 1.0 - full - blank)
    u = jnp.clip((place - begin) / jnp.maximum(width, 1e-6), 0.0, 1 - 2.0**-24)
    u = jnp.where(is_blank, jnp.maximum(u - _START, 0.0) / (1 - _START), u)

    e = self.mask_exponent
    clock = JointInterpolant(self.insertion, self.interpolant.unmasking)
    return States(
      key=jax.random.split(row_key, batch_size),
      t=jnp.where(is_full, 1.0, trained_clock(self.interpolant, clock, u)),
      progress=jnp.where(is_full, 1.0, self.insertion.alpha(u)),
      masks=jnp.where(is_blank, 1.0, r**e),
      unmask_weight=jnp.where(is_blank, 0.0, e / r),
      insert_weight=jnp.where(is_full, 0.0, self.insertion.hazard(u)),
    )

  def noise(self, state, tokens, length, vocab, frozen, open_gaps) -> Noised:
    """Makes the state of one row with its progress and mask share."""
    (L,) = tokens.shape
    insertion_key, mask_key = jax.random.split(state.key)
    arrival = jax.random.uniform(insertion_key, (L,))
    # Times before and after every progress: clean, or a mask.
    is_mask = jax.random.uniform(mask_key, (L,)) < state.masks
    reveal = jnp.where(is_mask, 2.0, -1.0)
    return noise(
      tokens, length, arrival, reveal, state.progress, vocab, frozen, open_gaps
    )
