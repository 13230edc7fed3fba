"""The sampler's methods: how the rows get from time `s` to `u`.

A method is a small frozen object with a `step`. Those here call the network
once a step, with the rates of its start: they are an `OneCall` that says which
tokens it wants, which masks it reveals, and how many it inserts. Another kind
of method, of two calls or with a corrector, writes a `step` of its own.

Source: arXiv 2509.01025, "sampling algorithms".
"""

import abc
import dataclasses
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from flexmdm_jax.gap_laws import GapLaw
from flexmdm_jax.interpolant import JointInterpolant
from flexmdm_jax.kernels.token_sample import TokenSamples
from flexmdm_jax.prediction import insert_rates
from flexmdm_jax.sampling import draws
from flexmdm_jax.sampling.canvas import Canvas
from flexmdm_jax.sampling.chain import Chain


class Method(Protocol):
  """A way to simulate the chain; a hashable value."""

  def step(
    self,
    chain: Chain,
    keys: Key[Array, " B"],
    canvas: Canvas,
    s: Float[Array, ""],
    u: Float[Array, ""],
  ) -> tuple[Canvas, Bool[Array, " B"]]:
    """Takes the rows from time `s` to `u`.

    Args:
      chain: what is simulated.
      keys: a key for each row. A row's result depends on its own alone, and not
        on the width of the canvas: a step that does not fit is undone and
        repeated on a longer one.
      canvas: the rows at time `s`.
      s: time at which the step starts, in [0, 1].
      u: time at which it ends; at 1 every mask is revealed, none inserted.

    Returns:
      The rows at time `u`, and which of them wanted more room than there is.
    """


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

  def moves(self) -> Bool[Array, ""]:
    """Tells whether anything can change in any row."""
    return jnp.any(self.wanted) | jnp.any(self.open_gaps)


class OneCall(abc.ABC):
  """A method that calls the network once a step, or not at all.

  Its events are drawn first: they tell which positions want a token, and
  whether the network has to be called. The functions below are of one row.
  """

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
    self,
    chain: Chain,
    keys: Key[Array, " B"],
    canvas: Canvas,
    s: Float[Array, ""],
    u: Float[Array, ""],
  ) -> tuple[Canvas, Bool[Array, " B"]]:
    """Takes the rows from time `s` to `u`; see `Method`."""
    token_keys, reveal_keys, insert_keys = jnp.moveaxis(
      jax.vmap(lambda key: jax.random.split(key, 3))(keys), 1, 0
    )
    plan = self._plan(chain, reveal_keys, canvas, s, u)

    def move(canvas):
      answer = chain.ask(token_keys, canvas, s, plan.wanted)
      reveal = jax.vmap(self.reveals)(plan.wanted, plan.due, answer.drawn)
      insertions = jax.vmap(lambda *row: self.inserts(*row, chain.path, s, u))(
        insert_keys, answer.log_gaps, answer.law
      )
      return chain.move(
        canvas,
        jnp.where(reveal, answer.drawn.token, -1),
        jnp.where(plan.open_gaps, insertions, 0),
      )

    def stay(canvas):
      return canvas, jnp.zeros(canvas.length.shape, bool)

    return jax.lax.cond(plan.moves(), move, stay, canvas)

  def _plan(self, chain, keys, canvas, s, u) -> _Plan:
    """Draws the events of the step; no network is called."""
    last = u >= 1.0
    masked = canvas.masked(chain.vocab)
    chance = self.unmask_probability(chain.path, s, u)
    chance = jnp.where(last, 1.0, jnp.clip(chance, 0.0, 1.0))
    coins = jax.vmap(lambda key: jax.random.uniform(key, (canvas.width,)))(keys)
    due = masked & (coins < chance)
    # In the last step every mask is due, and no method may leave one out.
    wanted = jnp.where(last, masked, jax.vmap(self.wants)(masked, due))
    inserts = ~last & (self.insert_probability(chain.path, s, u) > 0)
    return _Plan(due, wanted, canvas.open_gaps() & inserts)


@dataclasses.dataclass(frozen=True)
class TauLeaping(OneCall):
  """Takes all events of a step, at the rates of its start."""

  def unmask_probability(self, path, s, u):
    """Probability that a mask's event falls into the step, exactly."""
    return path.unmasking.jump(s, u)

  def insert_probability(self, path, s, u):
    """Probability that a missing token's event falls into it, exactly."""
    return path.insertion.jump(s, u)

  def inserts(self, key, log_gaps, law, path, s, u):
    """Thins the law of the missing tokens, or draws Poisson numbers."""
    chance = self.insert_probability(path, s, u)
    return draws.thinned_insertions(key, log_gaps, law, chance)


@dataclasses.dataclass(frozen=True)
class Adaptive(TauLeaping):
  """Reveals as many masks as tau-leaping does, but the most confident ones.

  Attributes:
    confidence: what masks are ranked by; see `draws.confidence`.
    window_scale: K masks are chosen among the leftmost
      `floor(window_scale * K)` only. None: among all.
    max_window: upper limit of that window. None: no limit.
  """

  confidence: str = "margin"
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
