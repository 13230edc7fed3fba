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
from flexmdm_jax.models.denoiser import denoiser
from flexmdm_jax.training import sharding
from flexmdm_jax.training.objectives import Batch, Objective
from flexmdm_jax.training.sharding import Rules


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
  objective: Objective,
  batch_size: int,
  accumulation: int = 1,
  ema_decay: float = 0.9999,
  report_every: int = 1,
) -> TrainStep:
  """Builds the training step.

  Args:
    model: a Flax module with `max_length`, such as `DiT`.
    rules: the layout of the parameters and the batch.
    mesh: the devices.
    optimizer: a gradient transformation.
    objective: what is minimised.
    batch_size: rows of a batch, over all processes.
    accumulation: parts that a batch is cut into, one after another; changes
      the memory, not the update.
    ema_decay: of the moving average, once it is warm.
    report_every: steps after which the metrics' sums start again.

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
  metric_names = (
    "loss",
    *objective.names,
    "grad_norm",
    "tokens",
    "finite",
    "count",
  )

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
      sums={name: jnp.float32(0) for name in metric_names},
    )

  def loss_fn(params, batch: Batch, drawn):
    terms = objective.terms(denoiser(model, params), batch, drawn)
    terms = {name: jnp.sum(x) / batch_size for name, x in terms.items()}
    # A nat a token slot, so that clipping means the same at any length.
    return sum(terms.values()) / L, terms

  def update(state: TrainState, batch: Batch):
    step_key = jax.random.fold_in(state.key, state.step)
    parts = (batch, objective.draw(step_key, batch_size))
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
      new = ({"loss": loss, **terms}, gradient)
      return jax.tree.map(jnp.add, total, new), None

    zeros = (
      {name: jnp.float32(0) for name in ("loss", *objective.names)},
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
    finite = jnp.isfinite(losses["loss"]) & jnp.isfinite(grad_norm)
    # A step that is not finite changes nothing but the count of steps: the
    # parameters that the loop saves when it stops are the last good ones.
    params, ema, opt_state = jax.tree.map(
      lambda new, old: jnp.where(finite, new, old),
      (params, ema, opt_state),
      (state.params, state.ema, state.opt_state),
    )

    values = {
      **losses,
      "grad_norm": grad_norm,
      "tokens": jnp.sum(batch["length"]).astype(jnp.float32),
      "finite": finite.astype(jnp.float32),
      "count": 1.0,
    }
    fresh = state.step % report_every == 0
    sums = {
      name: jnp.where(fresh, 0.0, total) + values[name]
      for name, total in state.sums.items()
    }
    metrics = {
      name: total / sums["count"]
      for name, total in sums.items()
      if name != "count"
    }
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
