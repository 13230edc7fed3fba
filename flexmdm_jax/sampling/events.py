"""Event-driven sampling: a call for every few events of a row.

A row's events are reveals of its masks and insertions of its missing tokens.
Given the network's answer, the times of all of them can be drawn in closed form
from the schedules: those of the masks after now, and of each missing token its
insertion and its reveal. A step takes the earliest ones, moves the row's clock
to the last of them, and forgets the others, which the next call draws anew.

    now                                      the clock moves here
     |---- insert ---- reveal ---- insert ----|---- reveal ---- insert --->
           gap 2       mask 5      gap 2           forgotten

Each row has its own clock, so that rows with little to do are not held up by
the others, and each call gets the same share of what is left to do. With one
event a call no two tokens are drawn without seeing each other.

Which masks are revealed is free, as long as the choice does not look at the
tokens drawn: the clean sequence's law given a state does not know the order
(see `paths`). So only their number is taken from the clock.
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
from flexmdm_jax.sampling.step import Moved, Turn


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


class _Missing(NamedTuple):
  """Missing tokens of one row, one a slot.

  Attributes:
    gap: gap of each.
    inserted: time of its insertion; infinite where there is no such token.
  """

  gap: Int[Array, " L"]
  inserted: Float[Array, " L"]


@dataclasses.dataclass(frozen=True)
class Events:
  """Takes the next few events of each row at every call.

  Attributes:
    order: which masks are revealed first; one of `draws.ORDERS`.
    insertions: how numbers of missing tokens are drawn; see `insertions`.
    group: events a call at least; more where the calls would not suffice.
    insertion_cost: what an insertion counts, where a reveal counts 1. Those of
      one call into the only open gap count nothing where its law is known: they
      follow it jointly.
    entropy_budget: reveals beyond the clock's, as long as the entropies of all
      that are revealed in a call are at most this, in nats.
    insert_budget: insertions beyond the clock's, up to so many a call.
  """

  order: str = "spread"
  insertions: str | None = None
  group: int = 1
  insertion_cost: float = 1.0
  entropy_budget: float | None = None
  insert_budget: float | None = None
  calls = 1

  def step(
    self, chain: Chain, keys: Key[Array, " B"], canvas: Canvas, turn: Turn
  ) -> Moved:
    """Takes each row's next events; see `step.Method`."""
    token_keys, due_keys, count_keys, slot_keys = jnp.moveaxis(
      jax.vmap(lambda key: jax.random.split(key, 4))(keys), 1, 0
    )
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

    def move(canvas):
      answer = chain.ask(token_keys, canvas, turn.start, row.wanted)
      reveal, inserted, time = jax.vmap(
        lambda *args: self._after(*args, turn, chain.path)
      )(row, answer.drawn, answer.log_gaps, answer.law, count_keys, slot_keys)
      moved, full = chain.move(
        canvas, jnp.where(reveal, answer.drawn.token, -1), inserted
      )
      return moved, time, full

    def stay(canvas):
      return canvas, jnp.ones_like(turn.start), jnp.zeros_like(waits)

    moved, time, full = jax.lax.cond(jnp.any(waits), move, stay, canvas)
    return Moved(moved, time, full, waits.astype(jnp.int32))

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
      most = jnp.sum(masked) + 2 * (turn.room - length)
      most = jnp.maximum(self._pace(most.astype(jnp.float32), turn), 1.0)
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
  ) -> tuple[Bool[Array, " C"], Int[Array, " G"], Float[Array, ""]]:
    """Picks the events of the step: reveals, insertions, and the time after."""
    kind = insertions.choose(self.insertions, law)
    whole = jnp.float32(1.0)
    count = insertions.draw(count_key, kind, log_gaps, law, whole, whole)
    count = jnp.where(row.open_gaps, count, 0)
    missing = self._missing(slot_key, row, count, turn, path)

    # Each missing token is to be inserted, and then revealed.
    mean = jnp.sum(jnp.where(row.open_gaps, jnp.exp(log_gaps), 0.0))
    mean = jnp.minimum(mean, (turn.room - row.length).astype(jnp.float32))
    masks = jnp.sum(row.masked, dtype=jnp.int32)
    pace = self._pace(masks + 2 * mean, turn)
    joint = (jnp.sum(row.open_gaps) == 1) & (kind == "thinned")
    cost = jnp.where(joint, 0.0, self.insertion_cost)
    clock = _clock(row.due, missing.inserted, cost, pace)
    clock = jnp.minimum(clock, self._halt(row.start, mean, joint, masks, turn, path))
    reveals = jnp.sum(row.due <= clock, dtype=jnp.int32)

    # The last call cannot insert: the one before it inserts all.
    until = jnp.where(turn.left <= 2, jnp.inf, clock)
    if self.insert_budget is not None:
      until = jnp.maximum(until, _nth(missing.inserted, self.insert_budget))
    comes = (missing.inserted <= until).astype(jnp.int32)
    inserted = jnp.zeros_like(count).at[missing.gap].add(comes, mode="drop")

    score = row.score
    if self.order in draws.CONFIDENCES:
      score = draws.confidence(self.order, drawn)
    if self.entropy_budget is not None:
      sure = draws.within_budget(
        row.masked, score, drawn.entropy, self.entropy_budget
      )
      reveals = jnp.maximum(reveals, sure)
    reveal = draws.most_confident(row.wanted, score, reveals)
    return reveal, inserted, jnp.minimum(until, 1.0)

  def _halt(self, start, mean, joint, masks, turn, path):
    """Time at which a call's share of the expected events is reached.

    Events that are not carried out must not set the clock: their times tell
    more of the missing tokens than the next state shows.
    """
    to_go = masks + 2 * mean
    share = to_go / turn.left.astype(jnp.float32)
    pace = self._pace(to_go, turn)

    def over(u):
        inserted = mean * path.insertion.jump(start, u)
        revealed = inserted * path.unmasking.jump(start, u) / 2
        return jnp.where(joint, revealed > pace, inserted > share)

    def halve(_, bounds):
        low, high = bounds
        middle = (low + high) / 2
        too_far = over(middle)
        return jnp.where(too_far, low, middle), jnp.where(too_far, middle, high)

    low, high = jax.lax.fori_loop(0, 24, halve, (start, jnp.ones_like(start)))
    return jnp.where(over(jnp.float32(1.0)), low, jnp.inf)

  def _missing(
    self,
    key: Key[Array, ""],
    row: _Row,
    count: Int[Array, " G"],
    turn: Turn,
    path: JointInterpolant,
  ) -> _Missing:
    """Draws the times of the missing tokens of one row, as far as they fit."""
    slot = jnp.arange(turn.room)
    total = jnp.cumsum(count)
    there = slot < jnp.minimum(total[-1], turn.room - row.length)
    gap = jnp.searchsorted(total, slot, side="right")
    start = jnp.broadcast_to(row.start, slot.shape)
    inserted = path.insertion.sample_after(key, start)
    return _Missing(gap, jnp.where(there, inserted, jnp.inf))


def _clock(
  due: Float[Array, " C"],
  inserted: Float[Array, " L"],
  insertion_cost: Float[Array, ""],
  pace: Float[Array, ""],
) -> Float[Array, ""]:
  """Finds the time of the last event within the pace; infinite if all are.

  The first event is always within it.
  """
  time = jnp.concatenate([due, inserted])
  cost = insertion_cost * jnp.ones_like(inserted)
  cost = jnp.concatenate([jnp.ones_like(due), cost])
  order = jnp.argsort(time, stable=True)
  time, spent = time[order], jnp.cumsum(cost[order])
  # Costs are sums of fractions: a little more than the pace is the pace.
  taken = (spent <= pace + 1e-3) | (jnp.arange(time.size) == 0)
  last = jnp.max(jnp.where(taken, time, -jnp.inf))
  left = jnp.any(~taken & (time < jnp.inf))
  return jnp.where(left, last, jnp.inf)


def _nth(time: Float[Array, " L"], n: float) -> Float[Array, ""]:
  """Finds the n-th of some times; infinite if there are not more."""
  n = min(int(n), time.size)
  return jnp.sort(time)[n - 1]
