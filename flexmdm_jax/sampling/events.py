"""Event-driven sampling: a call for every few events of a row.

A row's events are reveals of its masks and insertions of its missing tokens.
Given the network's answer, the times of all of them can be drawn in closed form
from the schedules. A step takes the earliest ones, moves the row's clock to the
last of them, and forgets the others, which the next call draws anew.

    now                                      the clock moves here
     |---- insert ---- reveal ---- insert ----|---- reveal ---- insert --->
           gap 2       mask 5      gap 2           forgotten

Each row has its own clock, so that rows with little to do are not held up by
the others, and each call takes an even share of what is left to do. With one
event a call no two tokens are drawn without seeing each other. The clock stops
earlier, at a halt, where the answer would be used for too long: counts of
several gaps are drawn as if they were independent, and change with alpha.

Two things may not set the clock, since their times tell more of the missing
tokens than the next state shows: an event that is not carried out, and a number
of missing tokens that was drawn. Halts follow from the state and the means.

Which masks are revealed is free, as long as the choice does not look at the
tokens drawn: the clean sequence's law given a state does not know the order
(see `paths`). So only their number is taken from the clock.

Source: ours. "First-hitting" sampling of a fixed length (arXiv 2409.02908) is
the case of one event a call without insertions.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from flexmdm_jax.gap_laws import GapLaw
from flexmdm_jax.interpolant import JointInterpolant
from flexmdm_jax.kernels.token_sample import TokenSamples
from flexmdm_jax.sampling import draws, insertions
from flexmdm_jax.sampling.canvas import Canvas
from flexmdm_jax.sampling.chain import Chain
from flexmdm_jax.sampling.step import Moved, Moves, Turn, call, split_rows


class _Row(NamedTuple):
  """One row before the call.

  Attributes:
    masked: its masks.
    open_gaps: gaps in which tokens may be missing.
    due: time at which each mask is to be revealed.
    score: which masks are revealed first; higher is earlier.
    wanted: positions whose token, or confidence, will be looked at.
    length: its number of tokens.
    start: its time.
  """

  masked: Bool[Array, " C"]
  open_gaps: Bool[Array, " G"]
  due: Float[Array, " C"]
  score: Float[Array, " C"]
  wanted: Bool[Array, " C"]
  length: Int[Array, ""]
  start: Float[Array, ""]


class _ToDo(NamedTuple):
  """What is left to do in one row.

  Attributes:
    masks: number of masks.
    mean: expected number of missing tokens, as far as they fit.
    one_gap: whether they are all in one gap.
  """

  masks: Float[Array, ""]
  mean: Float[Array, ""]
  one_gap: Bool[Array, ""]

  @property
  def events(self) -> Float[Array, ""]:
    """Number of events: a missing token is inserted, and then revealed."""
    return self.masks + 2 * self.mean


@dataclasses.dataclass(frozen=True)
class Events:
  """Takes the next few events of each row at every call.

  Attributes:
    order: which masks are revealed first; one of `draws.ORDERS`.
    insertions: how numbers of missing tokens are drawn; see `insertions`.
    group: events a call at least; more where the calls would not suffice.
    entropy_budget: reveals beyond the clock's, as long as the entropies of all
      that are revealed in a call are at most this, in nats.
    insert_budget: insertions beyond the clock's, up to so many a call.
  """

  order: str = "spread"
  insertions: str | None = None
  group: int = 1
  entropy_budget: float | int | None = None
  insert_budget: float | int | None = None
  calls = 1

  def step(
    self, chain: Chain, keys: Key[Array, " B"], canvas: Canvas, turn: Turn
  ) -> Moved:
    """Takes each row's next events; see `step.Method`."""
    token_keys, due_keys, count_keys, slot_keys = split_rows(keys, 4)
    row = jax.vmap(self._before, (0, 0, 0, 0, 0, None, None))(
      due_keys,
      canvas.masked(chain.vocab),
      canvas.open_gaps(),
      canvas.length,
      turn.start,
      turn,
      chain.path,
    )
    waits = jnp.any(row.masked, axis=-1) | jnp.any(row.open_gaps, axis=-1)

    def decide(answer):
      return jax.vmap(lambda *args: self._after(*args, turn, chain.path))(
        row, answer.drawn, answer.log_gaps, answer.law, count_keys, slot_keys
      )

    return call(
      chain,
      token_keys,
      canvas,
      turn.start,
      row.wanted,
      waits,
      decide,
      otherwise=jnp.ones_like(turn.start),
    )

  def _before(
    self, key, masked, open_gaps, length, start, turn: Turn, path
  ) -> _Row:
    """Draws what needs no network: when masks are due, and in which order."""
    due_key, order_key = jax.random.split(key)
    after = path.unmasking.sample_after(
      due_key, jnp.broadcast_to(start, masked.shape)
    )
    # At time 1 the schedules say nothing of the order.
    late = 1.0 + jax.random.uniform(due_key, masked.shape)
    due = jnp.where(masked, jnp.where(start >= 1, late, after), jnp.inf)
    # Neither in the last step, nor where the path has inserted everything.
    missing = (turn.left > 1) & (path.insertion.survival(start) > 0)
    score = draws.order_before(self.order, order_key, masked, due)
    if score is None or self.entropy_budget is not None:
      wanted = masked
    else:
      to_go = jnp.sum(masked, dtype=jnp.int32) + 2 * (turn.room - length)
      most = self._pace(to_go.astype(jnp.float32), turn).astype(jnp.int32)
      most = jnp.maximum(most, jnp.sum(due <= turn.end, dtype=jnp.int32))
      wanted = draws.most_confident(masked, score, most)
    if score is None:
      score = jnp.zeros(masked.shape)
    return _Row(masked, open_gaps & missing, due, score, wanted, length, start)

  def _pace(self, to_go: Float[Array, ""], turn: Turn) -> Float[Array, ""]:
    """Number of events that this call takes, of `to_go` that are expected."""
    even = jnp.ceil(to_go / turn.left.astype(jnp.float32))
    return jnp.maximum(even, float(self.group))

  def _after(
    self,
    row: _Row,
    drawn: TokenSamples,
    log_gaps: Float[Array, " G"],
    law: GapLaw | None,
    count_key: Key[Array, ""],
    slot_key: Key[Array, ""],
    turn: Turn,
    path: JointInterpolant,
  ) -> Moves:
    """Picks the events of the step, of one row."""
    kind = insertions.choose(self.insertions, law)
    whole = jnp.float32(1.0)
    count = insertions.draw(count_key, kind, log_gaps, law, whole, whole)
    count = jnp.where(row.open_gaps, count, 0)
    most = turn.room - row.length
    gap, there = insertions.slots(count, turn.room, most)
    times = path.insertion.sample_after(
      slot_key, jnp.broadcast_to(row.start, there.shape)
    )
    times = jnp.where(there, times, jnp.inf)

    mean = jnp.sum(jnp.where(row.open_gaps, jnp.exp(log_gaps), 0.0))
    to_do = _ToDo(
      jnp.sum(row.masked).astype(jnp.float32),
      jnp.minimum(mean, most.astype(jnp.float32)),
      jnp.sum(row.open_gaps) == 1,
    )
    clock = self._clock(row, times, to_do, kind == "thinned", turn, path)
    reveals = jnp.sum(row.due <= clock, dtype=jnp.int32)

    # The last call cannot insert: the one before it inserts all.
    until = jnp.where(turn.left <= 2, jnp.inf, clock)
    if self.insert_budget is not None:
      until = jnp.maximum(until, _nth(times, self.insert_budget))
    comes = there & (times <= until)
    inserted, cut = insertions.fill(count, gap, comes, most)

    score = row.score
    if self.order in draws.CONFIDENCES:
      score = draws.confidence(self.order, drawn)
    if self.entropy_budget is not None:
      sure = draws.within_budget(
        row.masked, score, drawn.entropy, self.entropy_budget
      )
      reveals = jnp.maximum(reveals, sure)
    reveal = draws.most_confident(row.wanted, score, reveals)
    return Moves(reveal, inserted, cut, jnp.minimum(until, 1.0))

  def _clock(
    self,
    row: _Row,
    inserted: Float[Array, " L"],
    to_do: _ToDo,
    law_known: bool,
    turn: Turn,
    path: JointInterpolant,
  ) -> Float[Array, ""]:
    """Finds the time to which the call takes the row; infinite if to its end.

    It is that of the last event within the pace, but no later than a halt that
    depends on the state alone. What is not carried out must not set the clock:
    it tells more of the missing tokens than the next state shows.
    """
    pace = self._pace(to_do.events, turn)
    joint = to_do.one_gap & law_known
    last = _last_event(row.due, inserted, ~joint, pace)
    # An even share of all events; where calls are plenty, of the insertions.
    left = turn.left.astype(jnp.float32)
    most = to_do.events / left
    even = jnp.where(most > 1, jnp.inf, 2 * to_do.mean / left)
    most = jnp.minimum(most, even)
    halt = _halt(row.start, to_do.mean, most, joint, pace, path)
    clock = jnp.minimum(last, halt)
    # With more events than calls the clock does not fall behind the grid: a
    # path that inserts first does so for its reasons. Of a mean alone it is the
    # grid's: the times of the next few events are guesses, and where the clock
    # stops at them texts become too long (45 tokens for 39 at 32 calls).
    few_calls = (to_do.events > left) & (row.start < 1) & (turn.left > 1)
    grid = jnp.maximum(turn.end, row.start)
    by_grid = jnp.maximum(clock, grid) if law_known else grid
    return jnp.where(few_calls, by_grid, clock)


def _last_event(
  due: Float[Array, " C"],
  inserted: Float[Array, " L"],
  counts: Bool[Array, ""],
  pace: Float[Array, ""],
) -> Float[Array, ""]:
  """Finds the time of the last event within the pace; infinite if all are.

  Args:
    due: times of the reveals, infinite where there is none.
    inserted: times of the insertions, likewise.
    counts: whether insertions count; reveals do.
    pace: number of events, at least 1.
  """
  time = jnp.concatenate([due, inserted])
  cost = jnp.broadcast_to(counts.astype(due.dtype), inserted.shape)
  cost = jnp.concatenate([jnp.ones_like(due), cost])
  order = jnp.argsort(time, stable=True)
  time = time[order]
  taken = jnp.cumsum(cost[order]) <= pace
  last = jnp.max(jnp.where(taken, time, -jnp.inf))
  return jnp.where(jnp.any(~taken & (time < jnp.inf)), last, jnp.inf)


def _halt(
  start: Float[Array, ""],
  mean: Float[Array, ""],
  most: Float[Array, ""],
  joint: Bool[Array, ""],
  pace: Float[Array, ""],
  path: JointInterpolant,
) -> Float[Array, ""]:
  """Finds the time at which a call has inserted enough; infinite if none.

  The numbers of several gaps are drawn as if independent, and those of a mean
  have a guessed law, so a call inserts a part only. The only open gap has
  neither error: it halts where the path would reveal what was inserted.

  Args:
    start: time of the row.
    mean: expected number of missing tokens.
    most: number of insertions to expect in this call.
    joint: whether they are all in one gap, of a known law.
    pace: number of events in this call.
    path: the schedules.
  """

  def too_far(u):
    inserted = mean * path.insertion.jump(start, u)
    revealed = inserted * path.unmasking.jump(start, u) / 2
    return jnp.where(joint, revealed > pace, inserted > most)

  def halve(_, bounds):
    low, high = bounds
    middle = (low + high) / 2
    beyond = too_far(middle)
    return jnp.where(beyond, low, middle), jnp.where(beyond, middle, high)

  # Unrolled: a turn is too little work for a kernel of its own.
  low, _ = jax.lax.fori_loop(
    0, 24, halve, (start, jnp.ones_like(start)), unroll=8
  )
  return jnp.where(too_far(jnp.ones_like(start)), low, jnp.inf)


def _nth(time: Float[Array, " L"], n: float | int) -> Float[Array, ""]:
  """Finds the n-th of some times; infinite if there are not more."""
  n = min(int(n), time.size)
  return jnp.sort(time)[n - 1]
