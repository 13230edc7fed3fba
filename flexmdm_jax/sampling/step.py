"""What a method is: it takes a batch of rows one step further.

The loop tells a step where its rows are, and learns where they have come to.
"""

from typing import NamedTuple, Protocol

from jaxtyping import Array, Bool, Float, Int, Key

from flexmdm_jax.sampling.canvas import Canvas
from flexmdm_jax.sampling.chain import Chain


class Turn(NamedTuple):
  """What a step is told of the run.

  Attributes:
    start: time of each row, in [0, 1]; at 1 nothing is missing any more, and
      what is still masked only waits to be revealed.
    end: time at which the step is to end, by the grid; methods with clocks of
      their own do not read it.
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
