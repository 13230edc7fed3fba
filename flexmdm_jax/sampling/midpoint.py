"""A method of second order: two calls a step, between which its events split.

What is wrong with one call a step are pairs of events: the second does not see
the first. A step of length h has a pair with a probability of order h^2, so the
error of a run is of order h. Here a step is split where its events are: the
first call draws all of them and carries out the earlier half, at least one; the
second sees those and draws the rest anew. Every pair is then right, and what is
left are triples, of order h^3 a step.

    s ------ insert --- reveal --|-- ........................ ------- u
      call 1, at the middle of   tau   call 2, at the middle of (tau, u],
      (s, u], draws all events         draws what follows anew

Two more things of order h must be right. The rates change with time while
nothing happens: both calls show the network the state as it is and the middle
of the interval in which their answer is used. And positions move between the
two stages: nothing of the first answer is carried over to the second, so no
rate has to be attributed to a mask or a gap that was not there. All rates stay
positive, which an extrapolation of two answers would not grant.

The hazard is infinite in the step in which the path inserts what is missing,
mostly the last: its first call is asked at the time of the state, and inserts
all of it; no later one inserts any.

Source: ours; the theta-trapezoidal method of arXiv 2502.00234 has the same
order for chains that do not insert.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from flexmdm_jax import gap_laws
from flexmdm_jax.interpolant import JointInterpolant
from flexmdm_jax.sampling import insertions
from flexmdm_jax.sampling.canvas import Canvas
from flexmdm_jax.sampling.chain import Chain
from flexmdm_jax.sampling.step import Moved, Moves, Turn, call, split_rows


@dataclasses.dataclass(frozen=True)
class Midpoint:
  """Takes the earlier half of a step's events, then draws the rest anew.

  Attributes:
    insertions: how many missing tokens come in the last step that inserts; see
      `insertions`. Before it their numbers are Poisson, at the rates.
  """

  insertions: str | None = None
  calls = 2

  def step(self, chain: Chain, keys, canvas: Canvas, turn: Turn) -> Moved:
    """Takes the rows to the end of the step; see `step.Method`."""
    first, second = split_rows(keys, 2)
    end = jnp.broadcast_to(turn.end, turn.start.shape)
    moved = self._stage(chain, first, canvas, turn.start, end, turn, True)
    rest = self._stage(
      chain, second, moved.canvas, moved.time, end, turn, False
    )
    return Moved(
      rest.canvas, end, moved.full | rest.full, moved.calls + rest.calls
    )

  def _stage(self, chain, keys, canvas, s, u, turn, halve) -> Moved:
    """Draws all events in (s, u] of each row, and takes them, or half of them.

    The time after is that of the last event taken; `u` if there was none.
    """
    token_keys, due_keys, count_keys, slot_keys = split_rows(keys, 4)
    masked = canvas.masked(chain.vocab)
    due = jax.vmap(
      lambda key, s: chain.path.unmasking.sample_after(
        key, jnp.broadcast_to(s, (canvas.width,))
      )
    )(due_keys, s)
    due = jnp.where(masked & (due <= u[:, None]), due, jnp.inf)
    inserts = (chain.path.insertion.jump(s, u) > 0) & (s < u)
    if not halve:
      inserts &= ~_inserts_all(chain.path, u)
    open_gaps = canvas.open_gaps() & inserts[:, None]
    moves = jnp.any(due < jnp.inf, axis=1) | jnp.any(open_gaps, axis=1)

    # All that is missing now is more than what will be in the middle.
    asked = (s + u) / 2
    if halve:
      asked = jnp.where(_inserts_all(chain.path, u), s, asked)

    def decide(answer):
      return jax.vmap(
        lambda *row: self._take(*row, turn.room, chain.path, halve)
      )(
        due,
        open_gaps,
        answer.log_gaps,
        answer.law,
        canvas.length,
        s,
        u,
        count_keys,
        slot_keys,
      )

    wanted = due < jnp.inf
    return call(
      chain, token_keys, canvas, asked, wanted, moves, decide, otherwise=u
    )

  def _take(
    self,
    due: Float[Array, " C"],
    open_gaps,
    log_gaps,
    law,
    length,
    s,
    u,
    count_key,
    slot_key,
    room: int,
    path: JointInterpolant,
    halve: bool,
  ) -> Moves:
    """Picks the events of one row to carry out."""
    last = _inserts_all(path, u)
    hazard = path.insertion.integrated_hazard(s, u)
    count = gap_laws.poisson(count_key, hazard * jnp.exp(log_gaps))
    kind = insertions.choose(self.insertions, law)
    whole = jnp.float32(1.0)
    everything = insertions.draw(count_key, kind, log_gaps, law, whole, hazard)
    count = jnp.where(open_gaps, jnp.where(last, everything, count), 0)
    if not halve:
      return Moves(due < jnp.inf, count, jnp.array(False), u)
    most = room - length
    gap, there = insertions.slots(count, room, most)
    # Uniform in the integrated hazard: the rates are those of the middle.
    share = jax.random.uniform(slot_key, there.shape)
    left = path.insertion.survival(u) / path.insertion.survival(s)
    left = jnp.maximum(left, 1e-37) ** share
    when = path.insertion.inverse_survival(path.insertion.survival(s) * left)
    when = jnp.where(there, jnp.clip(when, s, u), jnp.inf)

    time = jnp.sort(jnp.concatenate([due, when]))
    num = jnp.sum(time < jnp.inf)
    tau = time[jnp.maximum(num // 2, 1) - 1]
    tau = jnp.where(num > 0, tau, u)
    comes = there & (last | (when <= tau))
    inserted, cut = insertions.fill(count, gap, comes, most)
    return Moves(due <= tau, inserted, cut, tau)


def _inserts_all(path: JointInterpolant, u: Float[Array, "*b"]):
  """Tells whether nothing is missing any more at time `u`."""
  return (u >= 1) | (path.insertion.survival(u) <= 0)
