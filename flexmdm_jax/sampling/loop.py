"""The sampler's loop: from time 0 to 1, revealing masks and inserting others.

    Start --> Canvas: the rows, C positions wide, at time s <-----------+
                |                                                       |
     before     |  method: which masks may be revealed, which tokens    |
     the call   |    it wants                                           |
                +---> no token wanted, no gap open: the rows stay ------+
                |                                                       |
     the call   |  Chain.ask: the network, once, at time s; a token     |
                |    for each wanted position, and what the gaps miss   |
                |                                                       |
     after      |  method: which masks it reveals, how many it inserts  |
     the call   |  Chain.move: both, in one pass over the rows          |
                +---> a row wants more than C < L positions: the step   |
                |     is undone; a wider canvas repeats it, with the    |
                |     same bits ----------------------------------------+
                v                                                       |
              trace[i + 1] = the rows, at times of their own -----------+
                |
                v  at time 1
             Samples

The loop has the times, the width of the canvas and the trace; what lies between
is one `step` of a method (see `step`). The last step reveals every mask.

Source: arXiv 2509.01025, "sampling algorithms".
"""

import dataclasses
import functools
from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from flexmdm_jax.errors import InputError
from flexmdm_jax.interpolant import JointInterpolant
from flexmdm_jax.prediction import Denoiser, as_pytree
from flexmdm_jax.rows import Start
from flexmdm_jax.sampling.canvas import GIVEN, Canvas, canvas_widths
from flexmdm_jax.sampling.chain import Chain
from flexmdm_jax.sampling.config import SamplerConfig
from flexmdm_jax.sampling.placement import Placement
from flexmdm_jax.sampling.rounding import round_parameters
from flexmdm_jax.sampling.step import Turn, split_rows
from flexmdm_jax.vocab import Vocab


class Trace(NamedTuple):
  """States of a batch, one after each step, from the start to the sample."""

  tokens: Int[Array, "steps+1 B L"]
  length: Int[Array, "steps+1 B"]


class Samples(NamedTuple):
  """A batch of samples.

  Attributes:
    tokens: left-aligned rows.
    length: their numbers of tokens.
    truncated: rows that wanted more room than L at some step. They kept what
      fitted.
    calls: network calls that each row needed.
    given: tokens that the start held; between them lies what filled its holes.
    trace: the states on the way, if asked for.
  """

  tokens: Int[Array, "B L"]
  length: Int[Array, " B"]
  truncated: Bool[Array, " B"]
  calls: Int[Array, " B"]
  given: Bool[Array, "B L"]
  trace: Trace | None = None

  def sequences(self) -> list[np.ndarray]:
    """Returns the ids of each row without padding, int32[n] each."""
    tokens, length = np.asarray(self.tokens), np.asarray(self.length)
    return [row[:n] for row, n in zip(tokens, length, strict=True)]


def sample(
  key: Key[Array, "*B"],
  denoiser: Denoiser,
  start: Start,
  interpolant: JointInterpolant,
  vocab: Vocab,
  config: SamplerConfig,
  trace: bool = False,
  placement: Placement | None = None,
) -> Samples:
  """Samples a batch of sequences.

  A canvas (see `SamplerConfig.buckets`) is one compiled loop, without any
  exchange with the host; it is compiled when rows reach it. On several devices,
  or inside of `jax.jit`, all canvases are one program. It compiles once for
  each (denoiser structure, shapes, interpolant, vocab, config); new parameters
  do not recompile if the denoiser is a pytree, as `denoiser()` is.

  Args:
    key: one key, or one for each row. A row's sample depends on its own key
      (with one key: on the key and the row's index) and its own start alone.
    denoiser: the model.
    start: the state at time 0.
    interpolant: the path's schedules: those the model was trained with, unless
      the denoiser is put on another path by `on_path`.
    vocab: the id space.
    config: the sampler's settings.
    trace: whether to keep every state.
    placement: the devices, if there are several.

  Returns:
    The `Samples`.

  Raises:
    InputError: shapes in `start` disagree, `key` is neither one nor B keys, or
      the rows do not divide over the placement.
  """
  key = require_rows(key, start)
  if placement is not None:
    placement.require_divides(start.tokens.shape[0])
  denoiser = as_pytree(denoiser)
  settings = Settings(
    interpolant, vocab, config, trace, placement and placement.vocab_axis
  )
  traced = any(
    isinstance(x, jax.core.Tracer)
    for x in jax.tree.leaves((key, denoiser, start))
  )
  if traced or (placement is not None and placement.mesh.size > 1):
    return _in_one_program(key, denoiser, start, settings, placement)
  key = as_row_keys(key, start)
  return as_samples(advance(key, denoiser, start, settings, config.num_steps))


def sample_steps(
  key: Key[Array, "*B"],
  denoiser: Denoiser,
  start: Start,
  interpolant: JointInterpolant,
  vocab: Vocab,
  config: SamplerConfig,
) -> Iterator[Samples]:
  """Samples as `sample` does, and yields what is there after each step.

  It is for those who watch: the host is asked after each step, and several
  devices do the same work.

  Args:
    key: one key, or one for each row.
    denoiser: the model.
    start: the state at time 0.
    interpolant: the path's schedules.
    vocab: the id space.
    config: the sampler's settings.

  Yields:
    The `Samples` so far; the last are those of `sample`.

  Raises:
    InputError: shapes in `start` disagree, or `key` is neither one nor B keys.
  """
  denoiser = as_pytree(denoiser)
  settings = Settings(interpolant, vocab, config, trace=False)
  key = as_row_keys(require_rows(key, start), start)
  state = begin(start, config.num_steps, trace=False)
  for done in range(config.num_steps):
    state = advance(key, denoiser, state, settings, done + 1)
    yield as_samples(state)


def row_keys(
  key: Key[Array, ""], rows: int | Int[Array, " N"]
) -> Key[Array, " N"]:
  """Makes a key for each row, which does not depend on the other rows.

  Args:
    key: one key.
    rows: number of rows, or their places among all.
  """
  places = jnp.arange(rows) if isinstance(rows, int) else rows
  return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, places)


class Progress(NamedTuple):
  """The loop's state.

  Attributes:
    steps: number of steps done.
    canvas: the rows.
    time: time of each row.
    truncated: rows that wanted more room than L so far.
    calls: network calls that each row needed so far.
    overflow: whether the next step needs a wider canvas.
    trace: states so far, [steps+1, B, L], if asked for.
  """

  steps: Int[Array, ""]
  canvas: Canvas
  time: Float[Array, " B"]
  truncated: Bool[Array, " B"]
  calls: Int[Array, " B"]
  overflow: Bool[Array, ""]
  trace: Trace | None


@dataclasses.dataclass(frozen=True)
class Settings:
  """What a loop is compiled for, beside shapes: the arguments of `sample`."""

  interpolant: JointInterpolant
  vocab: Vocab
  config: SamplerConfig
  trace: bool
  vocab_axis: str | None = None


@functools.partial(jax.jit, static_argnames=("settings", "placement"))
def _in_one_program(key, denoiser, start, settings, placement) -> Samples:
  """Samples with all canvases in one program."""

  def run(key, denoiser, start):
    state = start
    L = start.tokens.shape[1]
    for C in canvas_widths(settings.config.buckets, denoiser, L):
      state = _on_canvas(C, key, denoiser, state, settings)
    return as_samples(state)

  key = as_row_keys(key, start)
  if placement is None:
    return run(key, denoiser, start)
  frames = placement.rows(1)
  trace = Trace(frames, frames) if settings.trace else None
  out_specs = Samples(*[placement.rows()] * 5, trace)
  return placement.by_rows(run, out_specs)(key, denoiser, start)


def advance(
  key: Key[Array, " B"],
  denoiser: Denoiser,
  state: Start | Progress,
  settings: Settings,
  until: int,
) -> Progress:
  """Takes rows on until so many steps are done, with a program for each canvas.

  A canvas is compiled when rows reach it, and the host is asked once a canvas.

  Args:
    key: a key for each row.
    denoiser: the model, a pytree.
    state: the rows, at the start or on the way.
    settings: what the programs are compiled for.
    until: number of steps in all, more than are done.
  """
  rows = state if isinstance(state, Start) else state.canvas
  longest = int(np.max(rows.length, initial=0))
  L = rows.tokens.shape[1]
  for C in canvas_widths(settings.config.buckets, denoiser, L):
    if C >= longest:
      state = _on_canvas_alone(C, key, denoiser, state, settings, until)
      if int(state.steps) == until:
        break
  return state


def require_rows(key: Array, start: Start) -> Array:
  """Checks that a start's shapes agree, and its keys with them.

  Returns:
    The keys, also of the raw data of some.

  Raises:
    InputError: shapes in `start` disagree, or `key` is neither one nor B keys.
  """
  B, L = start.tokens.shape
  shapes = {"length": (B,), "frozen": (B, L), "open_gaps": (B, L + 1)}
  for name, shape in shapes.items():
    if getattr(start, name).shape != shape:
      raise InputError(
        f"start.{name} has shape {getattr(start, name).shape}; with"
        f" start.tokens {start.tokens.shape} it must be {shape}."
      )
  if not jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
    key = jax.random.wrap_key_data(key)
  if key.shape not in ((), (B,)):
    raise InputError(f"key has shape {key.shape}: pass one key or {B} keys.")
  return key


def as_row_keys(key: Key[Array, "*B"], start: Start) -> Key[Array, " B"]:
  """Makes a key for each row, of one key or of as many."""
  return row_keys(key, start.tokens.shape[0]) if key.ndim == 0 else key


def as_samples(state: Progress) -> Samples:
  """Makes samples of what is there so far."""
  return Samples(
    state.canvas.tokens,
    state.canvas.length,
    state.truncated,
    state.calls,
    state.canvas.marks & GIVEN > 0,
    state.trace,
  )


def _on_canvas(
  C: int,
  key: Key[Array, " B"],
  denoiser: Denoiser,
  state: Start | Progress,
  settings: Settings,
  until: int | Int[Array, ""] | None = None,
) -> Progress:
  """Takes all steps that fit a canvas of C positions, from a start on or not.

  The rows are those of one device, or of the devices that split the vocabulary.
  With `until` it stops once so many steps are done in all.
  """
  config = settings.config
  num_steps = config.num_steps
  until = num_steps if until is None else until
  if isinstance(state, Start):
    state = begin(state, num_steps, settings.trace)
  B, L = state.canvas.tokens.shape
  step = functools.partial(
    _step,
    method=config.make_method(),
    chain=Chain(
      round_parameters(denoiser, B, L),
      settings.interpolant,
      settings.vocab,
      config.temperature,
      config.top_p,
      settings.vocab_axis,
    ),
    # [steps, B]
    keys=jax.vmap(lambda k: jax.random.split(k, num_steps), out_axes=1)(key),
    plan=config.plan(settings.interpolant),
    L=L,
  )
  # Rows that begin longer than this canvas leave its loop at once.
  fits = jnp.max(state.canvas.length, initial=0) <= C
  after = jax.lax.while_loop(
    lambda state: (state.steps < until) & ~state.overflow,
    step,
    state._replace(canvas=state.canvas.cut(C), overflow=~fits),
  )
  canvas = _choose(fits, after.canvas.widen(L, settings.vocab), state.canvas)
  return after._replace(canvas=canvas)


_on_canvas_alone = jax.jit(_on_canvas, static_argnums=(0, 4))


def begin(start: Start, num_steps: int, trace: bool) -> Progress:
  """Makes the state before the first step."""
  B = start.tokens.shape[0]
  return Progress(
    jnp.int32(0),
    Canvas.of(start),
    jnp.zeros(B),
    jnp.zeros(B, bool),
    jnp.zeros(B, jnp.int32),
    jnp.array(False),
    _begin_trace(start, num_steps) if trace else None,
  )


def _step(state: Progress, *, method, chain, keys, plan, L) -> Progress:
  """Takes one step; one that does not fit a canvas below L is undone."""
  i, before = state.steps, state.canvas
  key, start = keys[i], state.time
  if plan.goes_back:
    key, noise_key = split_rows(key, 2)
    back = jnp.asarray(plan.back_to)[i]
    before, start = jax.lax.cond(
      back < 1.0,
      lambda: (
        chain.noise(noise_key, before, back),
        jnp.full_like(start, back),
      ),
      lambda: (before, start),
    )
  turn = Turn(start, jnp.asarray(plan.end)[i], jnp.asarray(plan.left)[i], L)
  moved = method.step(chain, key, before, turn)
  overflow = jnp.any(moved.full) & (before.width < L)
  canvas = _choose(overflow, state.canvas, moved.canvas)
  i = jnp.where(overflow, i, i + 1)
  trace = state.trace
  if trace is not None:
    trace = _record(trace, i, canvas.widen(L, chain.vocab))
  return Progress(
    i,
    canvas,
    jnp.where(overflow, state.time, moved.time),
    state.truncated | (moved.full & ~overflow),
    state.calls + jnp.where(overflow, 0, moved.calls),
    overflow,
    trace,
  )


def _choose(first: Bool[Array, ""], a: Canvas, b: Canvas) -> Canvas:
  """Picks `a` if `first`, else `b`."""
  return jax.tree.map(lambda x, y: jnp.where(first, x, y), a, b)


def _begin_trace(start: Start, num_steps: int) -> Trace:
  """Makes a trace that holds the start throughout."""
  return jax.tree.map(
    lambda x: jnp.broadcast_to(x, (num_steps + 1, *x.shape)),
    Trace(start.tokens, start.length),
  )


def _record(trace: Trace, i: Int[Array, ""], canvas: Canvas) -> Trace:
  """Writes the rows into a trace, as its state `i`."""
  return Trace(
    trace.tokens.at[i].set(canvas.tokens), trace.length.at[i].set(canvas.length)
  )
