"""The sampler: alternately reveal masks and insert masks, from t = 0 to 1.

One network call a step serves both moves, with the rates of the step's start.
The last step reveals every mask and inserts nothing.

Source: arXiv 2509.01025, "sampling algorithms".
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from flexmdm_jax.errors import InputError
from flexmdm_jax.interpolant import JointInterpolant
from flexmdm_jax.kernels.insert_unmask import insert_unmask
from flexmdm_jax.rates import Denoiser, Prediction, forbid_mask
from flexmdm_jax.sampling import choices
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

  Returns:
    The `Samples`.

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
  if jax.tree_util.all_leaves([denoiser]):  # a plain function
    denoiser = jax.tree_util.Partial(denoiser)
  return _sample(key, denoiser, start, interpolant, vocab, config, trace)


def in_batches(
  draw: Callable[..., Samples],
  key: Key[Array, ""],
  start: Start,
  batch_size: int,
) -> Samples:
  """Samples at most `batch_size` rows at a time; the result is the same.

  Args:
    draw: `(key, start=...) -> Samples`, `sample` with its other arguments
      given.
    key: one key.
    start: N rows.
    batch_size: rows at once. The last batch is filled up by repeating rows, so
      that one compiled program serves them all.

  Returns:
    N `Samples`, as NumPy arrays on the host, without a trace.

  Raises:
    InputError: batch_size < 1, or as `draw`.
  """
  if batch_size < 1:
    raise InputError(f"batch_size={batch_size} must be at least 1.")
  N = start.tokens.shape[0]
  keys = row_keys(key, N)
  done = []
  for first in range(0, N, batch_size):
    rows = np.arange(first, first + min(batch_size, N)) % N
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


@functools.partial(
  jax.jit, static_argnames=("interpolant", "vocab", "config", "trace")
)
def _sample(key, denoiser, start, interpolant, vocab, config, trace):
  B, _ = start.tokens.shape
  if key.ndim == 0:
    key = row_keys(key, B)
  # [steps, B] keys, and the ends of the steps.
  keys = jax.vmap(lambda k: jax.random.split(k, config.steps), out_axes=1)(key)
  times = jnp.asarray(config.times())

  choose = functools.partial(
    _choose, interpolant=interpolant, vocab=vocab, config=config
  )

  def step(state, inputs):
    tokens, length, closed, truncated = state
    keys, s, u = inputs
    prediction = denoiser(tokens, length, jnp.broadcast_to(s, (B,)))
    open_gaps = _open_gaps(closed, start, length)
    revealed, insertions = jax.vmap(
      choose, in_axes=(0, 0, 0, 0, 0, None, None)
    )(keys, prediction, tokens, length, open_gaps, s, u)
    # Whether the gap before a token is closed moves with the token: packed
    # into one id, a single pass moves both. New masks have open gaps.
    packed, length, full = insert_unmask(
      2 * tokens + closed,
      length,
      jnp.where(revealed >= 0, 2 * revealed + closed, -1),
      insertions,
      mask=2 * vocab.mask,
      pad=2 * vocab.pad,
    )
    state = (packed // 2, length, packed % 2, truncated | full)
    return state, (Trace(state[0], length) if trace else None)

  closed = (~start.open_gaps[:, :-1]).astype(jnp.int32)
  state = (start.tokens, start.length, closed, jnp.zeros(B, bool))
  state, states = jax.lax.scan(step, state, (keys, times[:-1], times[1:]))
  if trace:
    states = Trace(
      jnp.concatenate([start.tokens[None], states.tokens]),
      jnp.concatenate([start.length[None], states.length]),
    )
  tokens, length, _, truncated = state
  return Samples(tokens, length, truncated, states)


def _open_gaps(closed, start, length):
  """The open gaps of the present states, [B, L+1].

  The gap after the last token is open if it was so at the start.
  """
  B, L = closed.shape
  end = jnp.take_along_axis(start.open_gaps, start.length[:, None], axis=1)
  index = jnp.arange(L + 1)
  before = jnp.concatenate([closed == 0, jnp.zeros((B, 1), bool)], axis=1)
  is_open = jnp.where(index == length[:, None], end, before)
  return is_open & (index <= length[:, None])


def _choose(
  key: Key[Array, ""],
  prediction: Prediction,
  tokens: Int[Array, " L"],
  length: Int[Array, ""],
  open_gaps: Bool[Array, " L+1"],
  s: Float[Array, ""],
  u: Float[Array, ""],
  *,
  interpolant: JointInterpolant,
  vocab: Vocab,
  config: SamplerConfig,
) -> tuple[Int[Array, " L"], Int[Array, " L+1"]]:
  """What changes in one sequence in the step from `s` to `u`.

  Returns:
    (revealed: the new token of each revealed position, -1 elsewhere;
     insertions: the number of masks to insert in each gap).
  """
  token_key, reveal_key, insert_key = jax.random.split(key, 3)
  masked = (tokens == vocab.mask) & (jnp.arange(tokens.size) < length)
  logits = prediction.token_logits.astype(jnp.float32)
  logits = forbid_mask(logits, vocab)
  drawn = choices.draw_tokens(
    token_key, logits, config.temperature, config.top_p
  )

  last = u >= 1.0
  if config.method == "euler":
    chance = interpolant.unmasking.hazard(s) * (u - s)
  else:
    chance = interpolant.unmasking.jump(s, u)
  chance = jnp.where(last, 1.0, jnp.clip(chance, 0.0, 1.0))
  reveal = masked & (jax.random.uniform(reveal_key, tokens.shape) < chance)
  if config.method == "adaptive":
    count = jnp.sum(reveal, dtype=jnp.int32)
    reveal = choices.most_confident(
      masked,
      choices.confidence(config.confidence, logits),
      count,
      jnp.where(last, tokens.size, _window(count, tokens.size, config)),
    )
  revealed = jnp.where(reveal, drawn, -1)

  log_gaps = prediction.log_gaps.astype(jnp.float32)
  if config.method == "euler":
    chance = interpolant.insertion.hazard(s) * jnp.exp(log_gaps) * (u - s)
    coin = jax.random.uniform(insert_key, log_gaps.shape)
    insertions = (coin < chance).astype(jnp.int32)
  elif prediction.gap_logits is not None:
    insertions = choices.thinned_insertions(
      insert_key,
      prediction.gap_logits.astype(jnp.float32),
      interpolant.insertion.jump(s, u),
    )
  else:
    insertions = choices.poisson_insertions(
      insert_key,
      interpolant.insertion.integrated_hazard(s, u) * jnp.exp(log_gaps),
    )
  return revealed, jnp.where(open_gaps & ~last, insertions, 0)


def _window(
  count: Int[Array, ""], L: int, config: SamplerConfig
) -> Int[Array, ""]:
  """How many of the leftmost masks may be revealed when `count` are."""
  window = jnp.int32(L)
  if config.window_scale is not None:
    scaled = config.window_scale * count.astype(jnp.float32)
    window = jnp.minimum(jnp.floor(scaled).astype(jnp.int32), window)
  if config.max_window is not None:
    window = jnp.minimum(window, config.max_window)
  return window
