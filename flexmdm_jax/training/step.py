"""The training step: one for a laptop, a node and a pod.

The state and the batch are laid out on a mesh by `Rules`; `jax.jit` does the
rest. A single device is a 1x1x1 mesh.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding
from jaxtyping import Array, Key

from flexmdm_jax.errors import InputError
from flexmdm_jax.interpolant import JointInterpolant, draw_times, noise
from flexmdm_jax.losses import elbo_terms, gap_law_term
from flexmdm_jax.rates import forbid_mask
from flexmdm_jax.times import EXPONENT, Times, stratified_times
from flexmdm_jax.training import sharding
from flexmdm_jax.training.sharding import Rules
from flexmdm_jax.vocab import Vocab

# A batch is a dict of arrays, one row an example:
#   tokens i32[B, L], length i32[B], frozen bool[B, L], open_gaps bool[B, L+1].
# L is that of the batch's bucket, at most the model's: one compilation each.
Batch = dict[str, Array]


@flax.struct.dataclass
class TrainState:
  """Everything that an update changes, and all that a resumption needs.

  The fields are untyped, since the same tree also holds shapes or shardings.

  Attributes:
    step: i32[], updates done.
    params: the parameters, float32.
    ema: their exponential moving average, for evaluation.
    opt_state: the optimiser's.
    key: PRNG key, the root of every random draw; never changes.
    sums: f32[] each, sums of the metrics since the last report and their
      number.
  """

  step: Any
  params: Any
  ema: Any
  opt_state: Any
  key: Any
  sums: dict[str, Any]


METRICS = ("loss", "unmask", "insert", "grad_norm", "tokens", "finite", "count")


@dataclasses.dataclass(frozen=True)
class TrainStep:
  """A compiled update and what belongs to it.

  Attributes:
    update: `(state, batch) -> (state, metrics)`; the state is donated. Metrics
      are means since the last report.
    init: `key -> state`, made in its sharding.
    abstract_state: shapes, types and shardings of the state.
    batch_sharding: where the arrays of a batch lie.
  """

  update: Callable[[TrainState, Batch], tuple[TrainState, dict[str, Array]]]
  init: Callable[[Key[Array, ""]], TrainState]
  abstract_state: TrainState
  batch_sharding: NamedSharding


def make_train_step(
  model: nn.Module,
  rules: Rules,
  mesh: Mesh,
  *,
  optimizer: optax.GradientTransformation,
  interpolant: JointInterpolant,
  vocab: Vocab,
  batch_size: int,
  accumulation: int = 1,
  ema_decay: float = 0.9999,
  report_every: int = 1,
  time_exponent: float = EXPONENT,
) -> TrainStep:
  """Builds the training step.

  Args:
    model: a Flax module with `max_length`, such as `DiT`.
    rules: the layout of the parameters and the batch.
    mesh: the devices.
    optimizer: a gradient transformation.
    interpolant: the noise.
    vocab: the id space.
    batch_size: rows of a batch, over all processes.
    accumulation: parts that a batch is cut into, one after another; changes
      the memory, not the update.
    ema_decay: of the moving average, once it is warm.
    report_every: steps after which the metrics' sums start again.
    time_exponent: density of the training times near 1; see `times`.

  Returns:
    The `TrainStep`.

  Raises:
    InputError: the batch does not divide, or a parameter does not fit the mesh.
  """
  shares = accumulation
  for axis in rules.batch:
    shares *= mesh.shape[axis]
  if batch_size < 1 or batch_size % shares:
    raise InputError(
      f"batch_size={batch_size} must be a positive multiple of {shares}:"
      f" {accumulation} accumulation steps times the mesh axes {rules.batch}."
    )
  L = model.max_length

  def init(key):
    init_key, key = jax.random.split(key)
    tokens = jnp.zeros((1, L), jnp.int32)
    variables = model.init(init_key, tokens, tokens[:, 0], jnp.zeros(1))
    params = variables["params"]
    return TrainState(
      step=jnp.int32(0),
      params=params,
      ema=params,
      opt_state=optimizer.init(params),
      key=key,
      sums={name: jnp.float32(0) for name in METRICS},
    )

  def loss_fn(params, batch: Batch, keys, times: Times):
    def noise_row(key, row, t):
      drawn = draw_times(key, interpolant, row["tokens"].size)
      return noise(
        row["tokens"],
        row["length"],
        *drawn,
        t,
        vocab,
        row["frozen"],
        row["open_gaps"],
      )

    noised = jax.vmap(noise_row)(keys, batch, times.t)
    prediction = model.apply(
      {"params": params}, noised.tokens, noised.length, times.t
    )
    prediction = prediction._replace(
      token_logits=forbid_mask(prediction.token_logits, vocab)
    )
    over_rows = (0, 0, 0, None)
    arguments = (prediction, noised, times.t, interpolant)
    terms = jax.vmap(elbo_terms, over_rows)(*arguments)
    unmask, insert = terms.unmask, terms.insert
    if prediction.gap_logits is not None:
      insert = jax.vmap(gap_law_term, over_rows)(*arguments)
    unmask = jnp.sum(times.weight * unmask) / batch_size
    insert = jnp.sum(times.weight * insert) / batch_size
    # A nat a token slot, so that clipping means the same at any length; of
    # the model's L, so that a row weighs the same in every bucket.
    return (unmask + insert) / L, (unmask, insert)

  def update(state: TrainState, batch: Batch):
    step_key = jax.random.fold_in(state.key, state.step)
    time_key, row_key = jax.random.split(step_key)
    times = stratified_times(time_key, batch_size, time_exponent)
    parts = (batch, jax.random.split(row_key, batch_size), times)
    # Part j takes every `accumulation`-th row: each covers all of [0, 1], and
    # no row leaves its device.
    parts = jax.tree.map(
      lambda x: jnp.moveaxis(x.reshape(-1, accumulation, *x.shape[1:]), 1, 0),
      parts,
    )

    def add_part(total, part):
      (loss, terms), gradient = jax.value_and_grad(loss_fn, has_aux=True)(
        state.params, *part
      )
      return jax.tree.map(jnp.add, total, ((loss, *terms), gradient)), None

    zeros = (
      (jnp.float32(0),) * 3,
      jax.tree.map(jnp.zeros_like, state.params),
    )
    (losses, gradient), _ = jax.lax.scan(add_part, zeros, parts)

    with jax.numpy_dtype_promotion("standard"):  # optax relies on it
      updates, opt_state = optimizer.update(
        gradient, state.opt_state, state.params
      )
    params = optax.apply_updates(state.params, updates)
    step = state.step.astype(jnp.float32)
    decay = jnp.minimum(ema_decay, (1.0 + step) / (10.0 + step))
    ema = optax.incremental_update(params, state.ema, 1.0 - decay)

    grad_norm = optax.global_norm(gradient)
    finite = jnp.isfinite(losses[0]) & jnp.isfinite(grad_norm)
    # A step that is not finite changes nothing but the count of steps: the
    # parameters that the loop saves when it stops are the last good ones.
    new, old = (
      (params, ema, opt_state),
      (
        state.params,
        state.ema,
        state.opt_state,
      ),
    )
    params, ema, opt_state = jax.tree.map(
      lambda a, b: jnp.where(finite, a, b), new, old
    )

    values = (
      *losses,
      grad_norm,
      jnp.sum(batch["length"]).astype(jnp.float32),
      finite.astype(jnp.float32),
      1.0,
    )
    fresh = state.step % report_every == 0
    sums = {
      name: jnp.where(fresh, 0.0, state.sums[name]) + value
      for name, value in zip(METRICS, values, strict=True)
    }
    metrics = {name: sums[name] / sums["count"] for name in METRICS[:-1]}
    state = TrainState(state.step + 1, params, ema, opt_state, state.key, sums)
    return state, metrics

  boxed = jax.eval_shape(init, jax.random.key(0))
  shardings = sharding.tree_shardings(boxed, rules, mesh)
  abstract = jax.tree.map(
    lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
    nn.unbox(boxed),
    shardings,
  )
  batch_sharding = sharding.batch_sharding(rules, mesh)
  return TrainStep(
    update=jax.jit(
      update,
      in_shardings=(shardings, batch_sharding),
      out_shardings=(shardings, sharding.replicated(mesh)),
      donate_argnums=0,
    ),
    init=jax.jit(lambda key: nn.unbox(init(key)), out_shardings=shardings),
    abstract_state=abstract,
    batch_sharding=batch_sharding,
  )
