"""The canvas: a batch of rows, as wide as its longest row needs for now.

The network's cost follows the canvas. The loop is compiled for a few widths and
moves up as rows grow, which changes no sample.
"""

import math
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from flexmdm_jax.prediction import Denoiser, ignores_padding
from flexmdm_jax.rows import Start
from flexmdm_jax.vocab import Vocab

# Marks of a token, which move with it, and one more than all of them together.
CLOSED, GIVEN, FROZEN, MARKS = 1, 2, 4, 8


class Canvas(NamedTuple):
  """A batch of rows at one time, C positions wide.

  Attributes:
    tokens: left-aligned rows, the pad from `length` on.
    length: their numbers of tokens.
    marks: what is known of each token: CLOSED, the gap before it is; GIVEN, the
      start held it; FROZEN, it is never masked. 0 from `length` on.
    end_open: whether the gap after the last token is open.
  """

  tokens: Int[Array, "B C"]
  length: Int[Array, " B"]
  marks: Int[Array, "B C"]
  end_open: Bool[Array, "B 1"]

  @classmethod
  def of(cls, start: Start) -> "Canvas":
    """Makes the canvas at time 0, as wide as the start."""
    end = jnp.take_along_axis(start.open_gaps, start.length[:, None], axis=1)
    inside = jnp.arange(start.tokens.shape[1]) < start.length[:, None]
    closed = jnp.where(start.open_gaps[:, :-1], 0, CLOSED)
    frozen = jnp.where(start.frozen, FROZEN, 0)
    marks = jnp.where(inside, closed + GIVEN + frozen, 0).astype(jnp.int32)
    return cls(start.tokens, start.length, marks, end)

  @property
  def width(self) -> int:
    """Number of positions, C."""
    return self.tokens.shape[1]

  def masked(self, vocab: Vocab) -> Bool[Array, "B C"]:
    """Marks the positions that hold a mask."""
    inside = jnp.arange(self.width) < self.length[:, None]
    return (self.tokens == vocab.mask) & inside

  def open_gaps(self) -> Bool[Array, "B G"]:
    """Marks the gaps into which the process may insert."""
    index = jnp.arange(self.width + 1)
    before = jnp.pad(self.marks & CLOSED == 0, ((0, 0), (0, 1)))
    is_open = jnp.where(index == self.length[:, None], self.end_open, before)
    return is_open & (index <= self.length[:, None])

  def cut(self, C: int) -> "Canvas":
    """Keeps the first C positions only."""
    return self._replace(tokens=self.tokens[:, :C], marks=self.marks[:, :C])

  def widen(self, C: int, vocab: Vocab) -> "Canvas":
    """Makes room for C tokens."""
    return self._replace(
      tokens=_widen(self.tokens, C, vocab.pad), marks=_widen(self.marks, C, 0)
    )


def _widen(x: Int[Array, "B C"], L: int, fill: int) -> Int[Array, "B L"]:
  return jnp.pad(x, ((0, 0), (0, L - x.shape[1])), constant_values=fill)


def canvas_widths(
  buckets: tuple[int, ...] | None, denoiser: Denoiser, L: int
) -> tuple[int, ...]:
  """Lists the widths that the loop is compiled for, up to L.

  Args:
    buckets: the widths below L, or None for what suits the denoiser.
    denoiser: one that does not ignore padding is shown L positions only.
    L: the full width.
  """
  if buckets is None:
    buckets = default_buckets(L) if ignores_padding(denoiser) else ()
  return (*(C for C in buckets if C < L), L)


def default_buckets(L: int) -> tuple[int, ...]:
  """Lists widths of canvas below L, each one less than a round number.

  They double from L / 16 on, with one more at three quarters of L: wherever
  rows end, most of their calls see at most half again what they need. A canvas
  that no row reaches costs nothing. A model appends a pad to its rows, and
  hardware likes round numbers: multiples of 64 where L is 1024 or more.
  """
  unit = min(64, max(8, 2 ** int(math.log2(max(L, 1) / 16))))
  widths = {math.ceil(0.75 * L / unit) * unit - 1}
  C = unit
  while C <= L:
    widths.add(C - 1)
    C *= 2
  return tuple(sorted(C for C in widths if 0 < C <= 0.8 * L))
