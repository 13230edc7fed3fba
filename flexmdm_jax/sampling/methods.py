"""The paper's methods, whose steps end at the times of a grid.

They call the network once a step, with the rates of its start: a method is an
`OneCall` that says which tokens it wants, which masks it reveals, and how many
it inserts.

Source: arXiv 2509.01025, "sampling algorithms".
"""

import abc
import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from flexmdm_jax.gap_laws import GapLaw
from flexmdm_jax.interpolant import JointInterpolant
from flexmdm_jax.kernels.token_sample import TokenSamples
from flexmdm_jax.prediction import insert_rates
from flexmdm_jax.sampling import draws, insertions
from flexmdm_jax.sampling.canvas import Canvas
from flexmdm_jax.sampling.chain import Chain
from flexmdm_jax.sampling.step import Moved, Moves, Turn, call, split_rows


class _Plan(NamedTuple):
  """Decisions of a step before it calls the network.

  Attributes:
    due: masks whose event falls into the step.
    wanted: positions whose token, or confidence, the step will ask for.
    open_gaps: gaps in which the step may insert.
  """

  due: Bool[Array, "B C"]
  wanted: Bool[Array, "B C"]
  open_gaps: Bool[Array, "B C+1"]

  def moves(self) -> Bool[Array, " B"]:
    """Tells whether anything can change in each row."""
    return jnp.any(self.wanted, axis=1) | jnp.any(self.open_gaps, axis=1)


@dataclasses.dataclass(frozen=True)
class OneCall(abc.ABC):
  """A method that calls the network once a step, or not at all.

  Its events are drawn first: they tell which positions want a token, and
  whether the network has to be called. The functions below are of one row.

  Attributes:
    confidence: what masks are ranked by where it matters which are revealed;
      see `draws.confidence`.
    finish: whether the run has steps at time 1, which reveal an even share of
      the masks each. The grid's last step then inserts what is missing, and
      reveals none.
  """

  confidence: str = "margin"
  finish: bool = False
  calls = 1

  @abc.abstractmethod
  def unmask_probability(
    self, path: JointInterpolant, s: Float[Array, ""], u: Float[Array, ""]
  ) -> Float[Array, ""]:
    """Probability that a mask's event falls into the step."""

  @abc.abstractmethod
  def insert_probability(
    self, path: JointInterpolant, s: Float[Array, ""], u: Float[Array, ""]
  ) -> Float[Array, ""]:
    """Probability that a missing token's event falls into the step.

    Where it is 0 the step asks for no gaps.
    """

  def wants(
    self, masked: Bool[Array, " C"], due: Bool[Array, " C"]
  ) -> Bool[Array, " C"]:
    """Marks the positions whose token, or confidence, `reveals` looks at."""
    del masked
    return due

  def reveals(
    self,
    wanted: Bool[Array, " C"],
    due: Bool[Array, " C"],
    drawn: TokenSamples,
  ) -> Bool[Array, " C"]:
    """Marks the masks to reveal, all of them wanted."""
    del wanted, drawn
    return due

  @abc.abstractmethod
  def inserts(
    self,
    key: Key[Array, ""],
    log_gaps: Float[Array, " G"],
    law: GapLaw | None,
    path: JointInterpolant,
    s: Float[Array, ""],
    u: Float[Array, ""],
  ) -> Int[Array, " G"]:
    """Draws the number of masks to insert in each gap, as if all were open."""

  def step(
    self, chain: Chain, keys: Key[Array, " B"], canvas: Canvas, turn: Turn
  ) -> Moved:
    """Takes the rows to the end of the step; see `step.Method`."""
    s, u = turn.start, turn.end
    token_keys, reveal_keys, insert_keys = split_rows(keys, 3)
    plan = self._plan(chain, reveal_keys, canvas, turn)

    end = jnp.broadcast_to(u, s.shape)

    def decide(answer):
      reveal = jax.vmap(self.reveals)(plan.wanted, plan.due, answer.drawn)
      if self.finish:
        share = jax.vmap(self._even_share, (0, 0, None))(
          plan.wanted, answer.drawn, turn.left
        )
        reveal = jnp.where(s[0] >= 1, share, reveal)
      inserted = jax.vmap(lambda *row: self.inserts(*row, chain.path, s[0], u))(
        insert_keys, answer.log_gaps, answer.law
      )
      inserted = jnp.where(plan.open_gaps, inserted, 0)
      return Moves(reveal, inserted, jnp.zeros(s.shape, bool), end)

    return call(
      chain, token_keys, canvas, s, plan.wanted, plan.moves(), decide, end
    )

  def _plan(self, chain, keys, canvas, turn: Turn) -> _Plan:
    """Draws the events of the step; no network is called."""
    s, u = turn.start[0], turn.end
    last = turn.left == 1
    masked = canvas.masked(chain.vocab)
    chance = self.unmask_probability(chain.path, s, u)
    chance = jnp.where(last, 1.0, jnp.clip(chance, 0.0, 1.0))
    coins = jax.vmap(lambda key: jax.random.uniform(key, (canvas.width,)))(keys)
    due = masked & (coins < chance)
    inserts = ~last & (self.insert_probability(chain.path, s, u) > 0)
    if self.finish:
      due, inserts = due & (last | (u < 1)), inserts & (s < 1)
    wants = jax.vmap(self.wants)(masked, due)
    # In the last step every mask is due, and no method may leave one out.
    all_of_them = last | (s >= 1) if self.finish else last
    wanted = jnp.where(all_of_them, masked, wants)
    return _Plan(due, wanted, canvas.open_gaps() & inserts)

  def _even_share(
    self, masked: Bool[Array, " C"], drawn: TokenSamples, left: Int[Array, ""]
  ) -> Bool[Array, " C"]:
    """Marks the most confident masks, as many as each step left must reveal."""
    count = (jnp.sum(masked, dtype=jnp.int32) + left - 1) // left
    return draws.most_confident(
      masked, draws.confidence(self.confidence, drawn), count
    )


@dataclasses.dataclass(frozen=True)
class TauLeaping(OneCall):
  """Takes all events of a step, at the rates of its start.

  Attributes:
    insertions: how numbers of missing tokens are drawn; see `insertions`.
  """

  insertions: str | None = None

  def unmask_probability(self, path, s, u):
    """Probability that a mask's event falls into the step, exactly."""
    return path.unmasking.jump(s, u)

  def insert_probability(self, path, s, u):
    """Probability that a missing token's event falls into it, exactly."""
    return path.insertion.jump(s, u)

  def inserts(self, key, log_gaps, law, path, s, u):
    """Draws how many of the missing tokens come within the step."""
    kind = insertions.choose(self.insertions, law)
    chance = path.insertion.jump(s, u)
    hazard = path.insertion.integrated_hazard(s, u)
    return insertions.draw(key, kind, log_gaps, law, chance, hazard)


@dataclasses.dataclass(frozen=True)
class Adaptive(TauLeaping):
  """Reveals as many masks as tau-leaping does, but the most confident ones.

  Attributes:
    window_scale: K masks are chosen among the leftmost
      `floor(window_scale * K)` only. None: among all.
    max_window: upper limit of that window. None: no limit.
  """

  window_scale: float | int | None = None
  max_window: int | None = None

  def wants(self, masked, due):
    """Asks for the confidence of all masks in the window."""
    count = jnp.sum(due, dtype=jnp.int32)
    window = self._window(count, masked.size)
    return draws.leftmost(masked, window) & (count > 0)

  def reveals(self, wanted, due, drawn):
    """Reveals the most confident of the wanted masks, as many as are due."""
    score = draws.confidence(self.confidence, drawn)
    return draws.most_confident(wanted, score, jnp.sum(due, dtype=jnp.int32))

  def _window(self, count: Int[Array, ""], C: int) -> Int[Array, ""]:
    """Number of leftmost masks among which `count` are chosen."""
    window = jnp.full_like(count, C)
    if self.window_scale is not None:
      scaled = self.window_scale * count.astype(jnp.float32)
      window = jnp.minimum(jnp.floor(scaled).astype(jnp.int32), window)
    if self.max_window is not None:
      window = jnp.minimum(window, self.max_window)
    return window


@dataclasses.dataclass(frozen=True)
class Euler(OneCall):
  """Takes at most one event of a mask or gap, to first order in the step."""

  def unmask_probability(self, path, s, u):
    """Unmasking rate of a mask times the step."""
    return path.unmasking.hazard(s) * (u - s)

  def insert_probability(self, path, s, u):
    """Insertion rate of a missing token times the step."""
    return path.insertion.hazard(s) * (u - s)

  def inserts(self, key, log_gaps, law, path, s, u):
    """Inserts one mask or none in each gap."""
    del law
    chance = insert_rates(log_gaps, s, path) * (u - s)
    return draws.bernoulli_insertions(key, chance)
