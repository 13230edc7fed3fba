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
from flexmdm_jax.kernels.token_sample import TokenSamples, token_sample
from flexmdm_jax.rates import Denoiser, forbid_mask
from flexmdm_jax.sampling import choices
from flexmdm_jax.sampling.placement import Placement, on_axis
from flexmdm_jax.sampling.start import Start
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
    plan = _plan(
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
      revealed, insertions = _choose(
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


class _Plan(NamedTuple):
  """What a step decides before it calls the network.

  Attributes:
    token_keys, insert_keys: of each row.
    masked: positions that hold a mask.
    reveal: masks that events reveal; "adaptive" reveals as many others.
    count, window: see `choices.most_confident`.
    wanted: positions whose token, or confidence, the step will ask for.
    open_gaps: gaps in which the step may insert.
    moves: whether anything can change in any row.
  """

  token_keys: Key[Array, " B"]
  insert_keys: Key[Array, " B"]
  masked: Bool[Array, "B C"]
  reveal: Bool[Array, "B C"]
  count: Int[Array, " B"]
  window: Int[Array, " B"]
  wanted: Bool[Array, "B C"]
  open_gaps: Bool[Array, "B C+1"]
  moves: Bool[Array, ""]


def _plan(
  keys, tokens, length, open_gaps, s, u, *, interpolant, vocab, config
) -> _Plan:
  """Draws the events of the step from `s` to `u`."""
  C = tokens.shape[1]
  token_keys, reveal_keys, insert_keys = jnp.moveaxis(
    jax.vmap(lambda k: jax.random.split(k, 3))(keys), 1, 0
  )
  masked = (tokens == vocab.mask) & (jnp.arange(C) < length[:, None])
  last = u >= 1.0
  if config.method == "euler":
    chance = interpolant.unmasking.hazard(s) * (u - s)
    inserts = interpolant.insertion.hazard(s)
  else:
    chance = interpolant.unmasking.jump(s, u)
    inserts = interpolant.insertion.jump(s, u)
  chance = jnp.where(last, 1.0, jnp.clip(chance, 0.0, 1.0))
  coins = jax.vmap(lambda k: jax.random.uniform(k, (C,)))(reveal_keys)
  reveal = masked & (coins < chance)
  count = jnp.sum(reveal, axis=1, dtype=jnp.int32)
  window = jnp.where(last, C, _window(count, C, config))
  wanted = reveal
  if config.method == "adaptive":
    wanted = masked & (jnp.cumsum(masked, axis=1) <= window[:, None])
    wanted &= (count > 0)[:, None]
  open_gaps = open_gaps & ~last & (inserts > 0)
  moves = jnp.any(wanted) | jnp.any(open_gaps)
  return _Plan(
    token_keys,
    insert_keys,
    masked,
    reveal,
    count,
    window,
    wanted,
    open_gaps,
    moves,
  )


def _choose(
  denoiser,
  plan,
  tokens,
  length,
  s,
  u,
  *,
  interpolant,
  vocab,
  config,
  vocab_axis,
) -> tuple[Int[Array, "B C"], Int[Array, "B C+1"]]:
  """What changes in the step from `s` to `u`.

  Returns:
    (revealed: the new token of each revealed position, -1 elsewhere;
     insertions: the number of masks to insert in each gap).
  """
  t = jnp.broadcast_to(s, length.shape)
  # A position draws from bits of its own, wherever the row's batch puts it.
  index = jnp.arange(tokens.shape[1])
  keys = jax.vmap(jax.vmap(jax.random.fold_in, (None, 0)), (0, None))(
    plan.token_keys, index
  )
  if hasattr(denoiser, "features"):
    predicted = denoiser.features(tokens, length, t)
    drawn = _draw_wanted(
      keys, predicted, plan.wanted, vocab, config, vocab_axis
    )
  else:
    predicted = denoiser(tokens, length, t)
    drawn = choices.draw_tokens(
      keys,
      forbid_mask(predicted.token_logits.astype(jnp.float32), vocab),
      config.temperature,
      config.top_p,
    )
  reveal = plan.reveal
  if config.method == "adaptive":
    reveal = jax.vmap(choices.most_confident)(
      plan.wanted,
      choices.confidence(config.confidence, drawn),
      plan.count,
      plan.window,
    )
  revealed = jnp.where(reveal, drawn.token, -1)

  log_gaps = predicted.log_gaps.astype(jnp.float32)
  if config.method == "euler":
    chance = interpolant.insertion.hazard(s) * jnp.exp(log_gaps) * (u - s)
    insertions = jax.vmap(choices.bernoulli_insertions)(
      plan.insert_keys, chance
    )
  elif predicted.gap_logits is not None:
    insertions = jax.vmap(choices.thinned_insertions, (0, 0, None))(
      plan.insert_keys,
      predicted.gap_logits.astype(jnp.float32),
      interpolant.insertion.jump(s, u),
    )
  else:
    expected = interpolant.insertion.integrated_hazard(s, u) * jnp.exp(log_gaps)
    insertions = jax.vmap(choices.poisson_insertions)(
      plan.insert_keys, expected
    )
  return revealed, jnp.where(plan.open_gaps, insertions, 0)


def _draw_wanted(
  keys, features, wanted, vocab, config, vocab_axis
) -> TokenSamples:
  """Tokens of the wanted positions, [B, C]; elsewhere undefined.

  The positions are gathered, so that the vocabulary head's cost follows their
  number.
  """
  B, C = wanted.shape
  rows = jnp.nonzero(wanted.ravel(), size=B * C, fill_value=B * C)[0]
  hidden, unembed = features.hidden, features.unembed
  if features.adapter is not None:
    inner, matrix = features.adapter
    hidden = jnp.concatenate([hidden, inner.astype(hidden.dtype)], axis=-1)
    unembed = jnp.concatenate([unembed, matrix.astype(unembed.dtype)])
  draw = functools.partial(
    token_sample,
    temperature=config.temperature,
    top_p=config.top_p,
    banned=jnp.array([vocab.mask], jnp.int32),
    axis_name=vocab_axis,
  )
  bias = features.bias
  if bias is None:
    bias = jnp.zeros(unembed.shape[1], jnp.float32)
  columns = (P(), P(None, vocab_axis), P(), P(), P(vocab_axis))
  drawn = on_axis(
    vocab_axis, lambda *args: draw(*args[:4], bias=args[4]), columns, P()
  )(
    hidden.reshape(B * C, -1).at[rows].get(mode="clip"),
    unembed,
    jnp.sum(wanted, dtype=jnp.int32),
    keys.ravel().at[rows].get(mode="clip"),
    bias,
  )
  return jax.tree.map(
    lambda x: (
      jnp.zeros(B * C, x.dtype).at[rows].set(x, mode="drop").reshape(B, C)
    ),
    drawn,
  )


def _window(
  count: Int[Array, " B"], C: int, config: SamplerConfig
) -> Int[Array, " B"]:
  """How many of the leftmost masks may be revealed when `count` are."""
  window = jnp.full_like(count, C)
  if config.window_scale is not None:
    scaled = config.window_scale * count.astype(jnp.float32)
    window = jnp.minimum(jnp.floor(scaled).astype(jnp.int32), window)
  if config.max_window is not None:
    window = jnp.minimum(window, config.max_window)
  return window
