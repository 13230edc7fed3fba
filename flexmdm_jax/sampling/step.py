"""What a method is: it takes a batch of rows one step further.

The loop tells a step where its rows are, and learns where they have come to.
"""

from collections.abc import Callable
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from flexmdm_jax.sampling.canvas import Canvas
from flexmdm_jax.sampling.chain import Answer, Chain


class Turn(NamedTuple):
  """What a step is told of the run.

  Attributes:
    start: time of each row, in [0, 1]; at 1 nothing is missing any more, and
      what is still masked only waits to be revealed.
    end: time at which the step is to end, by the grid; a method with clocks of
      its own may leave it aside.
    left: steps left, this one included. After the last one no row has a mask.
    room: number of tokens that a row may have, L.
  """

  start: Float[Array, " B"]
  end: Float[Array, ""]
  left: Int[Array, ""]
  room: int


class Moved(NamedTuple):
  """What a step made of its rows.

  Attributes:
    canvas: the rows.
    time: their times, in [0, 1].
    full: which of them wanted more room than the canvas has.
    calls: network calls that each row needed.
  """

  canvas: Canvas
  time: Float[Array, " B"]
  full: Bool[Array, " B"]
  calls: Int[Array, " B"]


class Method(Protocol):
  """A way to simulate the chain; a hashable value.

  Attributes:
    calls: network calls of one step, at most.
  """

  calls: int

  def step(
    self, chain: Chain, keys: Key[Array, " B"], canvas: Canvas, turn: Turn
  ) -> Moved:
    """Takes the rows one step further.

    Args:
      chain: what is simulated.
      keys: a key for each row. A row's result depends on its own alone, and not
        on the width of the canvas: a step that does not fit is undone and
        repeated on a longer one.
      canvas: the rows.
      turn: where they are in the run.
    """


class Moves(NamedTuple):
  """What a method decides after a network call, of one row or a batch.

  Attributes:
    reveal: masks that take their drawn token.
    inserted: number of masks to insert in each gap.
    cut: whether the row wanted to insert more than has been decided.
    time: time of the row afterwards.
  """

  reveal: Bool[Array, "*b C"]
  inserted: Int[Array, "*b C+1"]
  cut: Bool[Array, "*b"]
  time: Float[Array, "*b"]


def call(
  chain: Chain,
  keys: Key[Array, " B"],
  canvas: Canvas,
  at: Float[Array, " B"],
  wanted: Bool[Array, "B C"],
  waits: Bool[Array, " B"],
  decide: Callable[[Answer], Moves],
  otherwise: Float[Array, " B"],
) -> Moved:
  """Calls the network once and moves the rows, or lets all of them stay.

  Args:
    chain: what is simulated.
    keys: a key for each row, of its tokens.
    canvas: the rows.
    at: times that the network is shown.
    wanted: positions whose token or confidence will be looked at.
    waits: rows in which something can change; without any there is no call.
    decide: what is made of the answer.
    otherwise: times of the rows if there is no call.
  """

  def move(canvas):
    answer = chain.ask(keys, canvas, at, wanted)
    moves = decide(answer)
    moved, full = chain.move(
      canvas, jnp.where(moves.reveal, answer.drawn.token, -1), moves.inserted
    )
    return moved, moves.time, full | moves.cut

  def stay(canvas):
    return canvas, otherwise, jnp.zeros(waits.shape, bool)

  moved, time, full = jax.lax.cond(jnp.any(waits), move, stay, canvas)
  return Moved(moved, time, full, waits.astype(jnp.int32))


def split_rows(keys: Key[Array, " B"], num: int) -> Key[Array, "num B"]:
  """Makes `num` keys of each row's key."""
  return jnp.moveaxis(
    jax.vmap(lambda key: jax.random.split(key, num))(keys), 1, 0
  )
