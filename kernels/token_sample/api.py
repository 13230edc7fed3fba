"""The public `token_sample`: checks, choice of an implementation, nucleus."""

import functools
import numbers
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Int, Int32, Key, UInt32

from flexmdm_jax.kernels import common
from flexmdm_jax.kernels.token_sample import (
  noise,
  ref,
  stats,
  xla,
)
from flexmdm_jax.kernels.token_sample.config import (
  GpuConfig,
  TpuConfig,
  XlaConfig,
)


class TokenSamples(NamedTuple):
  """Drawn tokens, and four numbers that describe each one's law.

  The numbers describe the law at temperature 1 over the allowed ids.

  Attributes:
    token: token of each row.
    log_prob: log-probability of the token.
    top_prob: largest probability.
    margin: largest probability less the second largest.
    entropy: entropy in nats.
  """

  token: Int32[Array, " N"]
  log_prob: Float32[Array, " N"]
  top_prob: Float32[Array, " N"]
  margin: Float32[Array, " N"]
  entropy: Float32[Array, " N"]


def token_sample(
  hidden: Float[Array, "N D"],
  unembed: Float[Array, "D V"],
  num_rows: int | Int[Array, ""],
  key: Key[Array, "*n"] | UInt32[Array, "*n 2"],
  *,
  temperature: float | int,
  banned: Int32[Array, " K"] | None = None,
  bias: Float32[Array, " V"] | None = None,
  top_p: float | int = 1.0,
  axis_name: str | None = None,
  implementation: str | None = None,
  interpret: Any = False,
  config: GpuConfig | TpuConfig | XlaConfig | None = None,
) -> TokenSamples:
  """Draws a token for each row of `hidden @ unembed + bias`.

  The logits are never all in memory (but with "reference"): tiles of them are
  computed and reduced. Accumulation is in float32; float32 inputs are
  multiplied at full float32 precision.

  The random bits depend on a row's key and a token's id alone: neither on
  tiles, sharding, other rows nor the implementation. A row's noise for id v is
  `-log(E)` with, from word w of Threefry-2x32 with the row's key data on the
  counter (c, pass), where c = v // 256 * 128 + v % 128 and w = v // 128 % 2,

    t = min((float32(word >> 1) + 1/2) / 2^31, 1 - 2^-24)
    E = t + t^2/2 + t^3/3 + t^4/4 if t < 1/64, else -log(1 - t)

  and the largest `logit + temperature * noise` is drawn. `pass` is 0 but for
  `top_p` < 1: there a token whose more probable ids have a tempered mass of
  `top_p` or more is rejected, and the next pass draws among the logits above
  its own, until one is accepted.

  Args:
    hidden: hidden states, bfloat16 or float32.
    unembed: matrix of the vocabulary head, of the same type as `hidden`.
    num_rows: number of rows to draw for; later rows are skipped, and their
      outputs are undefined.
    key: a PRNG key, of which row r uses `fold_in(key, r)`; or N keys. The data
      of keys other than Threefry's is hashed, pair by pair, to two words.
    temperature: a Python number in [0, 1e20] that divides the logits for the
      draw; 0 takes the largest, the lowest id of equals.
    banned: ids that are never drawn.
    bias: numbers to add to the logits; -inf bans an id.
    top_p: a Python number in (0, 1]; draw among those ids only whose more
      probable ids have less than this probability in the tempered law.
    axis_name: inside `jax.shard_map`, the mesh axis over which the columns of
      `unembed` and `bias` are sharded in equal parts. `banned` and the tokens
      are global ids; the results are the same on all devices of the axis.
      Around a Mosaic kernel `jax.shard_map` needs `check_vma=False`.
    implementation: "reference", "xla", "mosaic_gpu", "mosaic_tpu", or None for
      the best on this backend.
    interpret: runs the named Mosaic kernel on the CPU: True, or the parameters
      of its interpreter.
    config: tile sizes of the named implementation, from `config.py`.

  Returns:
    The tokens, and the numbers that describe their laws.

  Raises:
    ValueError: bad arguments, or an implementation that is unknown or not
      available here.
  """
  hidden, unembed, num_rows, key, banned, bias = _checked(
    hidden, unembed, num_rows, key, temperature, banned, bias, top_p, axis_name
  )
  offered = dict(IMPLEMENTATIONS)
  if implementation is None:
    del offered["reference"]
  return TokenSamples(
    *common.dispatch(
      offered,
      implementation,
      hidden,
      unembed,
      num_rows,
      noise.row_words(key, hidden.shape[0]),
      temperature=temperature,
      banned=banned,
      bias=bias,
      top_p=top_p,
      axis_name=axis_name,
      interpret=interpret,
      config=config,
    )
  )


def _from_scans(
  scan: Callable[..., stats.Stats],
  hidden: Float[Array, "N D"],
  unembed: Float[Array, "D V"],
  num_rows: Int32[Array, ""],
  words: UInt32[Array, "N 2"],
  *,
  temperature: float | int,
  banned: Int32[Array, " K"],
  bias: Float32[Array, " V"],
  top_p: float | int,
  axis_name: str | None,
  config: Any = None,
  interpret: Any = False,
) -> tuple[
  Int32[Array, " N"],
  Float32[Array, " N"],
  Float32[Array, " N"],
  Float32[Array, " N"],
  Float32[Array, " N"],
]:
  """Computes the five arrays of `TokenSamples` by scans of the vocabulary.

  `scan` has the arguments of `xla.scan_vocab`, and the others those of
  `token_sample`, with `words` for the keys.
  """
  N, V = hidden.shape[0], unembed.shape[1]
  num_rows = jnp.clip(num_rows, 0, N)
  offset = jnp.int32(0)
  if axis_name is not None:
    offset = jax.lax.axis_index(axis_name) * V
    banned = banned - offset
  # Negative indices would count from the end.
  banned = jnp.where(banned < 0, V, banned)
  bias = jnp.maximum(bias, stats.LOW).at[banned].set(stats.LOW, mode="drop")

  def scan_all(hidden, num_rows, words, draw, floor):
    found = scan(
      hidden,
      unembed,
      num_rows,
      words,
      draw,
      bias,
      floor,
      offset,
      temperature=temperature,
      aligned=axis_name is None or V % noise.BLOCK == 0,
      config=config,
      interpret=interpret,
    )
    if axis_name is not None:
      found = stats.merge(_every_shard(found, axis_name), temperature)
    return found

  top_p = 1.0 if temperature == 0 else top_p
  floor = None if top_p == 1 else jnp.full(N, stats.LOW)
  found = scan_all(hidden, num_rows, words, jnp.uint32(0), floor)
  token, logit = found.token, found.logit
  if floor is not None:
    token, logit = _nucleus(
      found, top_p, temperature, hidden, num_rows, words, scan_all
    )
  log_total = jnp.log(found.total)
  top_prob = 1 / found.total
  return (
    token,
    logit - found.top - log_total,
    top_prob,
    top_prob * -jnp.expm1(found.second - found.top),
    log_total - found.deviation / found.total,
  )


def _nucleus(found, top_p, temperature, hidden, num_rows, words, scan_all):
  """Rejects tokens outside the nucleus and draws again: (token, logit)."""
  N = words.shape[0]

  def keep_drawing(state):
    return jnp.any(state[3])

  def draw_again(state):
    draw, token, logit, pending = state
    # Pending rows come first, so that the scan skips all others.
    order = jnp.argsort(~pending, stable=True)
    again = scan_all(
      hidden[order], jnp.sum(pending), words[order], draw, logit[order]
    )
    again = jax.tree.map(lambda x: jnp.zeros_like(x).at[order].set(x), again)
    # An id above itself is above by rounding only.
    accepted = (again.above < top_p * again.tempered) | (again.token == token)
    pending &= ~accepted
    return (
      draw + 1,
      jnp.where(pending, again.token, token),
      jnp.where(pending, again.logit, logit),
      pending,
    )

  # What is above an id has at most the mass that it leaves.
  drop = (found.logit - found.top) * stats.inverse(temperature)
  own = jnp.exp(drop) / found.tempered
  pending = (found.logit < found.top) & (own <= 1 - top_p)
  pending &= jnp.arange(N) < num_rows
  _, token, logit, _ = jax.lax.while_loop(
    keep_drawing,
    draw_again,
    (jnp.uint32(1), found.token, found.logit, pending),
  )
  return token, logit


def _every_shard(found: stats.Stats, axis_name: str) -> stats.Stats:
  """Gathers all shards' stats along a new axis 0, by one collective."""
  bits = jnp.stack([jax.lax.bitcast_convert_type(x, jnp.int32) for x in found])
  shards = jax.lax.axis_size(axis_name)
  mine = jnp.arange(shards) == jax.lax.axis_index(axis_name)
  # A sum with zeros: unlike a gather, `shard_map` knows its result to be the
  # same on all devices.
  bits = jax.lax.psum(jnp.where(mine[:, None, None], bits, 0), axis_name)
  return stats.Stats(
    *(
      jax.lax.bitcast_convert_type(bits[:, i], x.dtype)
      for i, x in enumerate(found)
    )
  )


def _is_number(x):
  return isinstance(x, numbers.Real)


def _is_concrete(x):
  return not isinstance(x, jax.core.Tracer)


def _checked(
  hidden, unembed, num_rows, key, temperature, banned, bias, top_p, axis_name
):
  """Checks and completes the array arguments, before any work is done."""
  for name, array in (("hidden", hidden), ("unembed", unembed)):
    if array.ndim != 2 or 0 in array.shape:
      raise ValueError(
        f"{name} must have two axes, none empty, got shape {array.shape}:"
        " reshape it."
      )
    if array.dtype not in (jnp.bfloat16, jnp.float32):
      raise ValueError(
        f"{name} must be bfloat16 or float32, got {array.dtype}: cast it."
      )
  N, D = hidden.shape
  V = unembed.shape[1]
  if unembed.shape[0] != D or unembed.dtype != hidden.dtype:
    raise ValueError(
      f"unembed must be {hidden.dtype}[{D}, V] as hidden is"
      f" {hidden.dtype}[{N}, {D}], got {unembed.dtype}{list(unembed.shape)}:"
      " transpose or cast one of them."
    )
  if jnp.ndim(num_rows) or not jnp.issubdtype(
    jnp.result_type(num_rows), jnp.integer
  ):
    raise ValueError(f"num_rows must be one integer, got {num_rows!r}.")
  if _is_concrete(num_rows) and not 0 <= num_rows <= N:
    raise ValueError(
      f"num_rows={num_rows} must be in [0, {N}]: hidden has {N} rows."
    )
  if key.dtype == jnp.uint32 and key.ndim:
    key = jax.random.wrap_key_data(key)
  if not jnp.issubdtype(key.dtype, jax.dtypes.prng_key) or key.shape not in (
    (),
    (N,),
  ):
    raise ValueError(
      f"key must be one PRNG key or {N} of them, got {key.dtype}"
      f"{list(key.shape)}: make it with jax.random.key."
    )
  # Beyond this, noise could reach the logits that stand for -inf.
  if not _is_number(temperature) or not 0 <= temperature <= 1e20:
    raise ValueError(
      f"temperature must be a Python number in [0, 1e20], got {temperature!r}."
    )
  if not _is_number(top_p) or not 0 < top_p <= 1:
    raise ValueError(f"top_p must be a Python number in (0, 1], got {top_p!r}.")
  if bias is None:
    bias = jnp.zeros(V, jnp.float32)
  if bias.shape != (V,) or bias.dtype != jnp.float32:
    raise ValueError(
      f"bias must be float32[{V}], a number for each column of unembed, got"
      f" {bias.dtype}{list(bias.shape)}."
    )
  banned = jnp.zeros(0, jnp.int32) if banned is None else banned
  if banned.ndim != 1 or banned.dtype != jnp.int32:
    raise ValueError(
      f"banned must be int32[K], got {banned.dtype}{list(banned.shape)}."
    )
  if _is_concrete(banned):
    size = V if axis_name is None else V * jax.lax.axis_size(axis_name)
    ids = np.unique(banned)
    if ids.size and not 0 <= ids[0] <= ids[-1] < size:
      raise ValueError(
        f"banned must hold ids in [0, {size}), got {ids[0]} to {ids[-1]}."
      )
    if ids.size == size:
      raise ValueError(
        f"banned holds all {size} ids: leave one that can be drawn."
      )
  num_rows = jnp.asarray(num_rows, jnp.int32)
  return hidden, unembed, num_rows, key, banned, bias


# The best first; the reference is run only if it is asked for.
IMPLEMENTATIONS = {
  "mosaic_gpu": common.Implementation(
    functools.partial(
      _from_scans, common.later(f"{__package__}.pallas_mosaic_gpu:scan_vocab")
    ),
    available=lambda target: target.is_hopper,
    config=GpuConfig,
  ),
  "mosaic_tpu": common.Implementation(
    functools.partial(
      _from_scans, common.later(f"{__package__}.pallas_mosaic_tpu:scan_vocab")
    ),
    available=lambda target: target.is_tpu,
    config=TpuConfig,
  ),
  "xla": common.Implementation(
    functools.partial(_from_scans, xla.scan_vocab), config=XlaConfig
  ),
  "reference": common.Implementation(ref.token_sample),
}
