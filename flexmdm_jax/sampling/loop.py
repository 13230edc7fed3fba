"""The sampler: alternately reveal masks and insert masks, from t = 0 to 1.

One network call a step serves both moves, with the rates of the step's start.
The last step reveals every mask and inserts nothing.

Source: arXiv 2509.01025, "sampling algorithms".
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Bool, Int, Key

from flexmdm_jax.errors import InputError
from flexmdm_jax.interpolant import JointInterpolant
from flexmdm_jax.kernels.insert_unmask import insert_unmask
from flexmdm_jax.prediction import Denoiser
from flexmdm_jax.rows import Start
from flexmdm_jax.sampling.placement import Placement, on_axis
from flexmdm_jax.sampling.step import choose, plan_step
from flexmdm_jax.vocab import Vocab

METHODS = ("tau_leaping", "euler", "adaptive")
CONFIDENCES = ("margin", "top_prob", "entropy", "position")


@dataclasses.dataclass(frozen=True)
class SamplerConfig:
  """How to sample.

  Attributes:
    steps: network calls.
    method: "tau_leaping", exact in the number of events for the rates of the
      step's start; "euler", first order in the step; "adaptive", which reveals
      as many masks as tau-leaping but chooses the most confident ones.
    confidence: what "adaptive" ranks masks by; see `choices.confidence`.
    window_scale: "adaptive" chooses K masks among the leftmost
      `floor(window_scale * K)` only. None: among all.
    max_window: upper limit of that window. None: no limit.
    temperature: of the token posterior; 0 takes its mode.
    top_p: nucleus of the token posterior.
    time_exponent: the steps end at `1 - (1 - i / steps) ** time_exponent`;
      above 1 they shorten towards the end, where the hazards are large.
    buckets: lengths of canvas that the loop is compiled for, ascending; L is
      added. It runs in the shortest that holds the longest row, and moves up as
      rows grow, which changes the cost and no sample. None: `default_buckets`,
      or L alone if the denoiser is a plain callable, or one whose rows see the
      padding after them.

  Raises:
    InputError: a field is out of its range; the message names it.
  """

  steps: int
  method: str = "tau_leaping"
  confidence: str = "margin"
  window_scale: float | None = None
  max_window: int | None = None
  temperature: float = 1.0
  top_p: float = 1.0
  time_exponent: float = 1.0
  buckets: tuple[int, ...] | None = None

  def __post_init__(self):
    def require(ok, field, rule):
      if not ok:
        value = getattr(self, field)
        raise InputError(f"SamplerConfig.{field}={value!r} {rule}.")

    is_int = isinstance(self.steps, int) and not isinstance(self.steps, bool)
    require(is_int and self.steps >= 1, "steps", "must be an int >= 1")
    require(self.method in METHODS, "method", f"must be one of {METHODS}")
    require(
      self.confidence in CONFIDENCES,
      "confidence",
      f"must be one of {CONFIDENCES}",
    )
    for field in ("window_scale", "max_window"):
      value = getattr(self, field)
      require(
        value is None or self.method == "adaptive",
        field,
        'needs method="adaptive"',
      )
      require(value is None or value >= 1, field, "must be None or >= 1")
    require(0 <= self.temperature < float("inf"), "temperature", "must be >= 0")
    require(0 < self.top_p <= 1, "top_p", "must be in (0, 1]")
    require(
      0 < self.time_exponent < float("inf"), "time_exponent", "must be > 0"
    )
    if self.buckets is not None:
      buckets = tuple(self.buckets)
      object.__setattr__(self, "buckets", buckets)
      require(
        all(isinstance(C, int) and C >= 1 for C in buckets)
        and list(buckets) == sorted(set(buckets)),
        "buckets",
        "must be ascending ints >= 1",
      )

  def times(self) -> np.ndarray:
    """The times between the steps, f32[steps + 1], from 0 to 1."""
    even = np.arange(self.steps + 1, dtype=np.float32) / self.steps
    return 1 - (1 - even) ** np.float32(self.time_exponent)


class Trace(NamedTuple):
  """Every state of a batch, from the start to the sample."""

  tokens: Int[Array, "steps+1 B L"]
  length: Int[Array, "steps+1 B"]


class Samples(NamedTuple):
  """A batch of samples.

  Attributes:
    tokens: left-aligned rows.
    length: their numbers of tokens.
    truncated: rows that wanted more room than L at some step. They kept what
      fitted.
    trace: the states on the way, if asked for.
  """

  tokens: Int[Array, "B L"]
  length: Int[Array, " B"]
  truncated: Bool[Array, " B"]
  trace: Trace | None = None


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

  Runs as one compiled loop without any exchange with the host. It compiles
  once for each (denoiser structure, shapes, interpolant, vocab, config); new
  parameters do not recompile if the denoiser is a pytree, as `denoiser()` is.

  Args:
    key: one key, or one for each row. A row's sample depends on its own key
      (with one key: on the key and the row's index) and its own start alone.
    denoiser: the model.
    start: the state at time 0.
    interpolant: the schedules the model was trained with.
    vocab: the id space.
    config: how to sample.
    trace: whether to keep every state.
    placement: the devices, if there are several.

  Returns:
    The `Samples`.

  Raises:
    InputError: shapes in `start` disagree, `key` is neither one nor B keys, or
      the rows do not divide over the placement.
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
  if jax.tree_util.all_leaves([denoiser]):  # a plain function
    denoiser = jax.tree_util.Partial(denoiser)
  if placement is not None:
    placement.require_divides(B)
  return _sample(
    key, denoiser, start, interpolant, vocab, config, trace, placement
  )


def in_batches(
  draw: Callable[..., Samples],
  key: Key[Array, ""],
  start: Start,
  batch_size: int,
  shares: int = 1,
) -> Samples:
  """Samples at most `batch_size` rows at a time; the result is the same.

  Args:
    draw: `(key, start=...) -> Samples`, `sample` with its other arguments
      given.
    key: one key.
    start: N rows.
    batch_size: rows at once. The last batch is filled up by repeating rows, so
      that one compiled program serves them all.
    shares: devices over which a batch divides: it is rounded up to that.

  Returns:
    N `Samples`, as NumPy arrays on the host, without a trace.

  Raises:
    InputError: batch_size < 1, or as `draw`.
  """
  if batch_size < 1:
    raise InputError(f"batch_size={batch_size} must be at least 1.")
  N = start.tokens.shape[0]
  keys = row_keys(key, N)
  batch_size = shares * -(-min(batch_size, N) // shares)
  done = []
  for first in range(0, N, batch_size):
    rows = np.arange(first, first + batch_size) % N
    batch = Start(*(np.asarray(x)[rows] for x in start))
    samples = draw(keys[rows], start=batch)
    real = min(batch_size, N - first)
    done.append([np.asarray(x)[:real] for x in samples[:3]])
  return Samples(*(np.concatenate(x) for x in zip(*done, strict=True)))


def row_keys(key: Key[Array, ""], num_rows: int) -> Key[Array, " N"]:
  """A key for each row, that of row i whatever the number of rows."""
  return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(
    key, jnp.arange(num_rows)
  )


class _State(NamedTuple):
  """Where the loop is; arrays are as wide as the canvas, C.

  Attributes:
    step: steps done.
    tokens, length: the rows.
    closed: whether the gap before each token is closed, 0 or 1.
    truncated: as in `Samples`.
    overflow: the step after `step` needs a longer canvas.
    trace: states so far, [steps+1, B, L], if asked for.
  """

  step: Int[Array, ""]
  tokens: Int[Array, "B C"]
  length: Int[Array, " B"]
  closed: Int[Array, "B C"]
  truncated: Bool[Array, " B"]
  overflow: Bool[Array, ""]
  trace: Trace | None


@functools.partial(
  jax.jit,
  static_argnames=("interpolant", "vocab", "config", "trace", "placement"),
)
def _sample(key, denoiser, start, interpolant, vocab, config, trace, placement):
  if key.ndim == 0:
    key = row_keys(key, start.tokens.shape[0])
  run = functools.partial(
    _sample_rows,
    interpolant=interpolant,
    vocab=vocab,
    config=config,
    trace=trace,
    vocab_axis=placement and placement.vocab_axis,
  )
  if placement is not None:
    frames = Trace(placement.rows(1), placement.rows(1)) if trace else None
    run = placement.by_rows(run, Samples(*[placement.rows()] * 3, frames))
  return run(key, denoiser, start)


def _sample_rows(
  key, denoiser, start, *, interpolant, vocab, config, trace, vocab_axis
):
  """Samples the rows of one device, or of those that split the vocabulary."""
  B, L = start.tokens.shape
  # [steps, B] keys, and the ends of the steps.
  keys = jax.vmap(lambda k: jax.random.split(k, config.steps), out_axes=1)(key)
  times = jnp.asarray(config.times())
  # The gap after the last token is open if it was so at the start.
  end_open = jnp.take_along_axis(start.open_gaps, start.length[:, None], axis=1)
  insert = functools.partial(
    insert_unmask, mask=2 * vocab.mask, pad=2 * vocab.pad
  )
  insert = on_axis(vocab_axis, insert, P(), P())

  def step(state: _State) -> _State:
    i = state.step
    C = state.tokens.shape[1]
    plan = plan_step(
      keys[i],
      state.tokens,
      state.length,
      _open_gaps(state.closed, state.length, end_open),
      times[i],
      times[i + 1],
      interpolant=interpolant,
      vocab=vocab,
      config=config,
    )

    def move(tokens, length, closed):
      revealed, insertions = choose(
        denoiser,
        plan,
        tokens,
        length,
        times[i],
        times[i + 1],
        interpolant=interpolant,
        vocab=vocab,
        config=config,
        vocab_axis=vocab_axis,
      )
      # Whether the gap before a token is closed moves with the token: packed
      # into one id, a single pass moves both. New masks have open gaps.
      packed, length, full = insert(
        2 * tokens + closed,
        length,
        jnp.where(revealed >= 0, 2 * revealed + closed, -1),
        insertions,
      )
      return packed // 2, length, packed % 2, full

    def stay(tokens, length, closed):
      return tokens, length, closed, jnp.zeros(B, bool)

    rows = (state.tokens, state.length, state.closed)
    *moved, full = jax.lax.cond(plan.moves, move, stay, *rows)
    # Nothing of a step that does not fit is kept: the next canvas repeats it,
    # from the same bits.
    overflow = jnp.any(full) & (C < L)
    tokens, length, closed = jax.tree.map(
      lambda new, old: jnp.where(overflow, old, new), tuple(moved), rows
    )
    truncated = state.truncated | (full & ~overflow)
    i = jnp.where(overflow, i, i + 1)
    states = state.trace
    if states is not None:
      frame = Trace(_widen(tokens, L, vocab.pad), length)
      states = jax.tree.map(lambda all, one: all.at[i].set(one), states, frame)
    return _State(i, tokens, length, closed, truncated, overflow, states)

  frames = None
  if trace:
    frames = jax.tree.map(
      lambda x: jnp.broadcast_to(x, (config.steps + 1, *x.shape)),
      Trace(start.tokens, start.length),
    )
  state = _State(
    jnp.int32(0),
    start.tokens,
    start.length,
    (~start.open_gaps[:, :-1]).astype(jnp.int32),
    jnp.zeros(B, bool),
    jnp.array(False),
    frames,
  )
  for C in _canvases(config, denoiser, L):
    # Rows that begin longer than this canvas leave its loop at once.
    fits = jnp.max(state.length, initial=0) <= C
    short = state._replace(
      tokens=state.tokens[:, :C], closed=state.closed[:, :C], overflow=~fits
    )
    short = jax.lax.while_loop(
      lambda state: (state.step < config.steps) & ~state.overflow, step, short
    )
    tokens = _widen(short.tokens, L, vocab.pad)
    closed = _widen(short.closed, L, 0)
    state = short._replace(
      tokens=jnp.where(fits, tokens, state.tokens),
      closed=jnp.where(fits, closed, state.closed),
    )
  return Samples(state.tokens, state.length, state.truncated, state.trace)


def _canvases(
  config: SamplerConfig, denoiser: Denoiser, L: int
) -> tuple[int, ...]:
  """The lengths of canvas that the loop is compiled for, up to L."""
  buckets = config.buckets
  if buckets is None:
    # A plain callable may know its L only.
    short = getattr(denoiser, "ignores_padding", False)
    buckets = default_buckets(L) if short else ()
  return (*(C for C in buckets if C < L), L)


def default_buckets(L: int) -> tuple[int, ...]:
  """Lengths of canvas below L, such that one more is a multiple of 64.

  A model appends a pad to its rows, and hardware likes round numbers. Rows that
  end at a quarter of L never see more than a quarter of it; more lengths would
  save little and each is compiled.
  """
  shares = (L / 8, L / 4, L / 2, 3 * L / 4)
  lengths = {math.ceil(share / 64) * 64 - 1 for share in shares}
  return tuple(sorted(C for C in lengths if C <= 0.8 * L))


def _widen(x: Int[Array, "B C"], L: int, fill: int) -> Int[Array, "B L"]:
  return jnp.pad(x, ((0, 0), (0, L - x.shape[1])), constant_values=fill)


def _open_gaps(
  closed: Int[Array, "B C"], length: Int[Array, " B"], end: Bool[Array, "B 1"]
) -> Bool[Array, "B C+1"]:
  """The open gaps of the present states, of which the last is open if `end`."""
  index = jnp.arange(closed.shape[1] + 1)
  before = jnp.pad(closed == 0, ((0, 0), (0, 1)))
  is_open = jnp.where(index == length[:, None], end, before)
  return is_open & (index <= length[:, None])
