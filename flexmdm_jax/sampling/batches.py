"""Many rows, a batch at a time, of rows that are about as long.

A batch's canvas follows its longest row, so rows of like lengths share one.
How long a row becomes shows on the way: the batches meet after some steps, and
rows that are alike long by then go on together. Rows are independent, with keys
of their own, so that no row's sample depends on its company.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from flexmdm_jax.errors import InputError
from flexmdm_jax.interpolant import JointInterpolant
from flexmdm_jax.prediction import Denoiser, as_pytree
from flexmdm_jax.rows import Start
from flexmdm_jax.sampling import loop
from flexmdm_jax.sampling.canvas import Canvas
from flexmdm_jax.sampling.config import SamplerConfig
from flexmdm_jax.sampling.loop import Progress, Samples
from flexmdm_jax.sampling.placement import Placement
from flexmdm_jax.vocab import Vocab

# Shares of the steps after which batches are made anew. A path that inserts
# first has made its lengths by the first of them.
_MEETINGS = (1 / 8, 1 / 4, 1 / 2, 1)
_begin = jax.jit(loop.begin, static_argnums=(1, 2))


def sample_in_batches(
  key: Key[Array, "*N"],
  denoiser: Denoiser,
  start: Start,
  interpolant: JointInterpolant,
  vocab: Vocab,
  config: SamplerConfig,
  batch_size: int,
  placement: Placement | None = None,
) -> Samples:
  """Samples N rows as `sample` does, in batches of rows that are alike long.

  Several batches are made anew after an eighth, a quarter and half of the
  steps; on several devices they stay as they began.

  Args:
    key: one key, or one for each row; see `row_keys`.
    denoiser: the model.
    start: N rows.
    interpolant: the path's schedules.
    vocab: the id space.
    config: the sampler's settings.
    batch_size: rows at once. The last batch is filled up by repeating rows, so
      that one compiled program serves them all.
    placement: the devices, if there are several.

  Returns:
    N `Samples`, as NumPy arrays on the host, without a trace.

  Raises:
    InputError: batch_size < 1, or as `sample`.
  """
  _require_rows_at_once(batch_size)
  denoiser = as_pytree(denoiser)
  several = placement is not None and placement.mesh.size > 1
  if several or start.tokens.shape[0] <= batch_size:
    draw = functools.partial(
      loop.sample,
      denoiser=denoiser,
      interpolant=interpolant,
      vocab=vocab,
      config=config,
      placement=placement,
    )
    shares = 1 if placement is None else placement.shares
    return in_batches(draw, key, start, batch_size, shares)
  keys = loop.as_row_keys(loop.require_rows(key, start), start)
  settings = loop.Settings(interpolant, vocab, config, trace=False)
  state = _begin(start, config.num_steps, False)
  meetings = {round(share * config.num_steps) for share in _MEETINGS} - {0}
  for until in sorted(meetings):
    done = state.steps

    def advance(keys, rows, done=done, until=until):
      state = Progress(done, *rows, jnp.array(False), None)
      state = loop.advance(keys, denoiser, state, settings, until)
      return _Rows.of(state)

    rows = _by_length(
      advance, keys, _Rows.of(state), state.canvas.length, batch_size
    )
    state = Progress(jnp.int32(until), *rows, jnp.array(False), None)
  return loop.as_samples(state)


def in_batches(
  draw: Callable[..., Samples],
  key: Key[Array, "*N"],
  start: Start,
  batch_size: int,
  shares: int = 1,
) -> Samples:
  """Samples rows in batches of rows that begin alike long.

  Args:
    draw: `(key, start=...) -> Samples` of a batch.
    key: one key, or one for each row; see `row_keys`.
    start: N rows.
    batch_size: rows at once. The last batch is filled up by repeating rows, so
      that one compiled program serves them all.
    shares: devices over which a batch divides: it is rounded up to that.

  Returns:
    N `Samples`, as NumPy arrays on the host, without a trace.

  Raises:
    InputError: batch_size < 1, or as `draw`.
  """
  _require_rows_at_once(batch_size)
  keys = loop.as_row_keys(key, start)
  return _by_length(
    lambda keys, start: draw(keys, start=start)._replace(trace=None),
    keys,
    start,
    start.length,
    batch_size,
    shares,
  )


def _require_rows_at_once(batch_size: int) -> None:
  if batch_size < 1:
    raise InputError(f"batch_size={batch_size} must be at least 1.")


class _Rows(NamedTuple):
  """What a loop's state holds of each row; see `loop.Progress`."""

  canvas: Canvas
  time: Float[Array, " N"]
  truncated: Bool[Array, " N"]
  calls: Int[Array, " N"]

  @classmethod
  def of(cls, state: Progress) -> "_Rows":
    return cls(state.canvas, state.time, state.truncated, state.calls)


def _by_length(
  run: Callable[[Any, Any], Any],
  keys: Key[Array, " N"],
  rows: Any,
  length: Int[Array, " N"],
  batch_size: int,
  shares: int = 1,
) -> Any:
  """Runs batches of rows that are alike long.

  Args:
    run: `(keys, rows) -> result` of a batch, pytrees of arrays [B, ...].
    keys: a key for each row.
    rows: a pytree of arrays [N, ...].
    length: lengths of the rows.
    batch_size: rows at once.
    shares: what a batch is a multiple of.

  Returns:
    The results, as NumPy arrays [N, ...], in the order of the rows.
  """
  N = len(length)
  batch_size = shares * -(-min(batch_size, N) // shares)

  def take(tree, index):
    return jax.tree.map(lambda x: np.asarray(x)[index], tree)

  order = np.argsort(np.asarray(length), kind="stable")
  done = []
  for first in range(0, N, batch_size):
    chosen = order[np.arange(first, first + batch_size) % N]
    result = run(keys[chosen], take(rows, chosen))
    done.append(take(result, slice(min(batch_size, N - first))))
  as_given = np.argsort(order)
  return jax.tree.map(lambda *x: np.concatenate(x)[as_given], *done)
