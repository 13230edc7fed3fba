"""The training step: one for a laptop, a node and a pod.

The state and the batch are laid out on a mesh by `Rules`; `jax.jit` does the
rest. A single device is a 1x1x1 mesh.

A model may freeze some of its parameters (`partition`). These, the base, lie
beside the state: they are no part of checkpoints.
"""

import dataclasses
import functools
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
from flexmdm_jax.rows import Rows
from flexmdm_jax.training import partition, sharding
from flexmdm_jax.training.objectives import Objective
from flexmdm_jax.training.partition import Params
from flexmdm_jax.training.sharding import Rules

# Folded into a step's key: no number that `split` uses.
_DROPOUT = 0x64726F70
_BOUND = 0x626F756E


@flax.struct.dataclass
class TrainState:
  """Everything that an update changes, and all that a resumption needs.

  The fields are untyped, since the same tree also holds shapes or shardings.

  Attributes:
    step: i32[], updates done.
    params: the parameters that are trained, float32.
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
    update_with: `(state, batch, base) -> (state, metrics)`, jitted; the state
      is donated. Metrics are means since the last report.
    init: `(key, given) -> state`, made in its sharding. Trained parameters that
      are in `given` start from there, in float32.
    init_base: `key -> base`, random; of the same key as `init` both are parts
      of one initialisation.
    abstract_state: shapes, types and shardings of the state.
    abstract_base: those of the frozen parameters, in the model's types.
    abstract_params: those of all parameters, in the model's types.
    batch_sharding: where the arrays of a batch lie.
    base: the frozen parameters; the model's whole training has none.
  """

  update_with: jax.stages.Wrapped
  init: Callable[..., TrainState]
  init_base: Callable[[Key[Array, ""]], Params]
  abstract_state: TrainState
  abstract_base: Params
  abstract_params: Params
  batch_sharding: NamedSharding
  base: Params = dataclasses.field(default_factory=dict)

  def update(
    self, state: TrainState, batch: Rows
  ) -> tuple[TrainState, dict[str, Array]]:
    """The update, with `base`."""
    return self.update_with(state, batch, self.base)


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
  bound_every: int | None = 10,
) -> TrainStep:
  """Builds the training step.

  Args:
    model: a Flax module with `max_length`, such as `DiT`; with
      `trainable(path) -> bool` if it is not trained whole. It is applied with
      `rngs={"dropout": key}`.
    rules: the layout of the parameters and the batch.
    mesh: the devices.
    optimizer: a gradient transformation.
    objective: what is minimised.
    batch_size: rows of a batch, over all processes.
    accumulation: parts that a batch is cut into, one after another; changes
      the memory, not the update.
    ema_decay: of the moving average, once it is warm.
    report_every: steps after which the metrics' sums start again.
    bound_every: steps between measurements of the objective's bound, where it
      has one beside the loss: one more forward pass each. The first step of a
      report always has one. None: never.

  Returns:
    The `TrainStep`.

  Raises:
    InputError: the batch does not divide, or a parameter does not fit the
      mesh; bound_every < 1.
  """
  bound_names = objective.bound_names if bound_every is not None else ()
  if bound_every is not None and bound_every < 1:
    raise InputError(f"train.bound_every={bound_every} must be at least 1.")
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
    *bound_names,
    *(["bound_count"] if bound_names else []),
  )

  def init_params(key):
    """The parameters, and a key for the rest."""
    init_key, key = jax.random.split(key)
    tokens = jnp.zeros((1, L), jnp.int32)
    variables = model.init(init_key, tokens, tokens[:, 0], jnp.zeros(1))
    return variables["params"], key

  def init_state(params, key):
    params, _ = partition.split(model, params)
    params = jax.tree.map(lambda x: x.astype(jnp.float32), params)
    return TrainState(
      step=jnp.int32(0),
      params=params,
      ema=params,
      opt_state=optimizer.init(params),
      key=key,
      sums={name: jnp.float32(0) for name in metric_names},
    )

  def init(key, given):
    params, key = init_params(key)
    return init_state(partition.replace(nn.unbox(params), given), key)

  def init_base(key):
    return partition.split(model, nn.unbox(init_params(key)[0]))[1]

  def loss_fn(params, base, dropout_key, batch: Rows, drawn):
    network = denoiser(
      model, partition.join(params, base), rngs={"dropout": dropout_key}
    )
    terms = objective.terms(network, batch, drawn)
    terms = {name: jnp.sum(x) / batch_size for name, x in terms.items()}
    # A nat a token slot, so that clipping means the same at any length.
    return sum(terms.values()) / L, terms

  def measure_bound(state: TrainState, base: Params, part: Rows, key):
    """The bound's terms of one part of a batch, and 1; or zeros."""

    def measure():
      network = denoiser(model, partition.join(state.params, base))
      key_ = jax.random.fold_in(key, _BOUND)
      terms = objective.bound(network, part, key_)
      return {name: jnp.mean(x) for name, x in terms.items()} | {
        "bound_count": jnp.float32(1)
      }

    def skip():
      names = (*bound_names, "bound_count")
      return dict.fromkeys(names, jnp.float32(0))

    first = state.step % report_every == 0
    due = first | (state.step % bound_every == 0)
    return jax.lax.cond(due, measure, skip)

  def update(state: TrainState, batch: Rows, base: Params):
    step_key = jax.random.fold_in(state.key, state.step)
    parts = (batch, objective.draw(step_key, batch_size, state.step))
    # Part j takes every `accumulation`-th row: each covers all of [0, 1], and
    # no row leaves its device.
    parts = jax.tree.map(
      lambda x: jnp.moveaxis(x.reshape(-1, accumulation, *x.shape[1:]), 1, 0),
      parts,
    )
    dropout_keys = jax.random.split(
      jax.random.fold_in(step_key, _DROPOUT), accumulation
    )

    def add_part(total, part):
      (loss, terms), gradient = jax.value_and_grad(loss_fn, has_aux=True)(
        state.params, base, *part
      )
      new = ({"loss": loss, **terms}, gradient)
      return jax.tree.map(jnp.add, total, new), None

    zeros = (
      {name: jnp.float32(0) for name in ("loss", *objective.names)},
      jax.tree.map(jnp.zeros_like, state.params),
    )
    (losses, gradient), _ = jax.lax.scan(
      add_part, zeros, (dropout_keys, *parts)
    )

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
      "tokens": jnp.sum(batch.length).astype(jnp.float32),
      "finite": finite.astype(jnp.float32),
      "count": 1.0,
    }
    if bound_names:
      part = jax.tree.map(lambda x: x[0], parts[0])
      values |= measure_bound(state, base, part, step_key)
    fresh = state.step % report_every == 0
    sums = {
      name: jnp.where(fresh, 0.0, total) + values[name]
      for name, total in state.sums.items()
    }
    metrics = {
      name: total / sums["bound_count" if name in bound_names else "count"]
      for name, total in sums.items()
      if name not in ("count", "bound_count")
    }
    state = TrainState(state.step + 1, params, ema, opt_state, state.key, sums)
    return state, metrics

  def in_mesh(function):
    """`function`, which then knows the mesh that it is compiled for."""

    @functools.wraps(function)
    def wrapped(*args):
      with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        return function(*args)

    return wrapped

  def lay_out(boxed):
    """(abstract arrays with shardings, shardings) of a boxed tree."""
    shardings = sharding.tree_shardings(boxed, rules, mesh)
    abstract = jax.tree.map(
      lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
      nn.unbox(boxed),
      shardings,
    )
    return abstract, shardings

  key = jax.eval_shape(jax.random.key, 0)
  boxed, rest = jax.eval_shape(init_params, key)
  params, _ = lay_out(boxed)
  base, base_shardings = lay_out(partition.split(model, boxed)[1])
  abstract, shardings = lay_out(jax.eval_shape(init_state, boxed, rest))
  batch_sharding = sharding.batch_sharding(rules, mesh)
  jitted_init = jax.jit(init, out_shardings=shardings)
  return TrainStep(
    update_with=jax.jit(
      in_mesh(update),
      in_shardings=(shardings, batch_sharding, base_shardings),
      out_shardings=(shardings, sharding.replicated(mesh)),
      donate_argnums=0,
    ),
    init=lambda key, given=None: jitted_init(key, given or {}),
    init_base=jax.jit(init_base, out_shardings=base_shardings),
    abstract_state=abstract,
    abstract_base=base,
    abstract_params=params,
    batch_sharding=batch_sharding,
  )
