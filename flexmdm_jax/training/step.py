"""The training step: one for a laptop, a node and a pod.

The state and the batch are laid out on a mesh by `Rules`; `jax.jit` does the
rest. A single device is a 1x1x1 mesh.

One step, `_update`, in the order of its functions:

  state, batch -> _split    the batch and what is drawn for it, in parts
               -> _accumulate(_part_loss)          losses and gradient
               -> _move, if they are finite        new parameters
               -> _measure_bound, _add_to_sums     metrics -> state, metrics

A model may freeze some of its parameters (`partition`). These, the base, lie
beside the state: they are no part of checkpoints.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from flax import traverse_util
from jax.sharding import Mesh, NamedSharding
from jaxtyping import Array, Bool, Float, Key

from flexmdm_jax.errors import InputError
from flexmdm_jax.models.denoiser import denoiser
from flexmdm_jax.models.parameters import init_params
from flexmdm_jax.rows import Rows
from flexmdm_jax.schema import count, require, setting
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
    opt_state: the optimiser's state.
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
class StepConfig:
  """How a batch becomes an update.

  Attributes:
    batch_size: rows of a batch, over all processes.
    accumulation: parts that a batch is cut into, one after another; changes
      the memory, not the update.
    ema_decay: decay of the moving average of the parameters, once it is warm.
    bound_every: steps between measurements of the objective's bound, where it
      has one beside the loss: one more forward pass each. The first step of a
      report always has one. None: never.

  Raises:
    InputError: a field has another type, or is out of its range.
  """

  batch_size: int = count()
  accumulation: int = count(1)
  ema_decay: float = setting(0.9999, least=0, below=1)
  bound_every: int | None = count(10)

  def __post_init__(self):
    require(self, "train")


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
    abstract_base: shapes, types and shardings of the frozen parameters, in the
      model's types.
    abstract_params: shapes, types and shardings of all parameters, in the
      model's types.
    batch_sharding: where the arrays of a batch lie.
    base: the frozen parameters; empty for a model that is trained whole.
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
    """Updates the state on a batch, with the frozen parameters `base`."""
    return self.update_with(state, batch, self.base)


def make_train_step(
  model: nn.Module,
  rules: Rules,
  mesh: Mesh,
  *,
  optimizer: optax.GradientTransformation,
  objective: Objective,
  config: StepConfig,
  report_every: int = 1,
) -> TrainStep:
  """Builds the training step.

  Args:
    model: a Flax module with `max_length`, such as `DiT`; with
      `trainable(path) -> bool` if it is not trained whole. It is applied with
      `rngs={"dropout": key}`.
    rules: the layout of the parameters and the batch.
    mesh: the devices.
    optimizer: a gradient transformation.
    objective: the loss that is minimised.
    config: how a batch becomes an update.
    report_every: steps after which the metrics' sums start again.

  Returns:
    The `TrainStep`.

  Raises:
    InputError: the batch does not divide, or a parameter does not fit the
      mesh, or one that is to be trained is quantised.
  """
  settings = _Settings(model, optimizer, objective, config, report_every)
  _require_divides(config, rules, mesh)

  def init(key, given):
    params, key = _init_params(model, key)
    params = partition.replace(nn.unbox(params), given)
    return _init_state(settings, params, key)

  def init_base(key):
    params, _ = _init_params(model, key)
    return partition.split(model, nn.unbox(params))[1]

  def update(state, batch, base):
    # The model is to know the mesh that it is compiled for.
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
      return _update(settings, state, batch, base)

  key = jax.eval_shape(jax.random.key, 0)
  boxed, rest = jax.eval_shape(functools.partial(_init_params, model), key)
  _require_gradients(model, boxed)
  boxed_state = jax.eval_shape(
    functools.partial(_init_state, settings), boxed, rest
  )
  params, _ = _lay_out(boxed, rules, mesh)
  base, base_shardings = _lay_out(partition.split(model, boxed)[1], rules, mesh)
  abstract, shardings = _lay_out(boxed_state, rules, mesh)
  batch_sharding = sharding.batch_sharding(rules, mesh)
  jitted_init = jax.jit(init, out_shardings=shardings)
  return TrainStep(
    update_with=jax.jit(
      update,
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


def _require_gradients(model: nn.Module, boxed: Any) -> None:
  """Raises an InputError if integers are to be trained."""
  trained, _ = partition.split(model, nn.unbox(boxed))
  for path, x in traverse_util.flatten_dict(trained, sep="/").items():
    if not jnp.issubdtype(x.dtype, jnp.floating):
      raise InputError(
        f"{path} is {x.dtype}, which has no gradient: train low-rank updates"
        " (model.lora.rank above 0), or the model as it was (model.quantize"
        "=None)."
      )


@dataclasses.dataclass(frozen=True)
class _Settings:
  """The arguments of `make_train_step` that decide the update's program."""

  model: nn.Module
  optimizer: optax.GradientTransformation
  objective: Objective
  config: StepConfig
  report_every: int

  @property
  def bound_names(self) -> tuple[str, ...]:
    """Names of the bound's terms that are measured."""
    if self.config.bound_every is None:
      return ()
    return self.objective.bound_names

  @property
  def sum_names(self) -> tuple[str, ...]:
    """Names of the sums that the state holds."""
    names = ("loss", *self.objective.names)
    names += ("grad_norm", "tokens", "finite", "count", *self.bound_names)
    return (*names, "bound_count") if self.bound_names else names


def _require_divides(config: StepConfig, rules: Rules, mesh: Mesh) -> None:
  """Raises an InputError if the batch cannot be cut over parts and devices."""
  batch_size, accumulation = config.batch_size, config.accumulation
  shares = accumulation * math.prod(mesh.shape[axis] for axis in rules.batch)
  if batch_size % shares:
    raise InputError(
      f"train.batch_size={batch_size} must be a multiple of {shares}:"
      f" {accumulation} accumulation steps times the mesh axes {rules.batch}."
    )


def _lay_out(boxed: Any, rules: Rules, mesh: Mesh) -> tuple[Any, Any]:
  """Lays a boxed tree out: abstract arrays with shardings, and those alone."""
  shardings = sharding.tree_shardings(boxed, rules, mesh)
  abstract = jax.tree.map(
    lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
    nn.unbox(boxed),
    shardings,
  )
  return abstract, shardings


def _init_params(
  model: nn.Module, key: Key[Array, ""]
) -> tuple[Params, Key[Array, ""]]:
  """Initialises the parameters, boxed; also returns a key for the rest."""
  init_key, key = jax.random.split(key)
  return init_params(model, init_key), key


def _init_state(
  settings: _Settings, params: Params, key: Key[Array, ""]
) -> TrainState:
  """Makes the state before the first update."""
  params, _ = partition.split(settings.model, params)
  params = jax.tree.map(lambda x: x.astype(jnp.float32), params)
  return TrainState(
    step=jnp.int32(0),
    params=params,
    ema=params,
    opt_state=settings.optimizer.init(params),
    key=key,
    sums={name: jnp.float32(0) for name in settings.sum_names},
  )


def _update(
  settings: _Settings, state: TrainState, batch: Rows, base: Params
) -> tuple[TrainState, dict[str, Array]]:
  """Updates the state on one batch; see the head of this file."""
  key = jax.random.fold_in(state.key, state.step)
  drawn = settings.objective.draw(key, settings.config.batch_size, state.step)
  parts = _split((batch, drawn), settings.config.accumulation)
  dropout_keys = jax.random.split(
    jax.random.fold_in(key, _DROPOUT), settings.config.accumulation
  )
  loss = functools.partial(_part_loss, settings, base=base)
  losses, gradient = _accumulate(loss, state.params, dropout_keys, parts)
  grad_norm = optax.global_norm(gradient)
  finite = jnp.isfinite(losses["loss"]) & jnp.isfinite(grad_norm)
  # No selection of new or old numbers: it would copy all of the old ones first.
  params, ema, opt_state = jax.lax.cond(
    finite,
    functools.partial(_move, settings, state.step, gradient),
    lambda *old: old,
    state.params,
    state.ema,
    state.opt_state,
  )
  values = {
    **losses,
    "grad_norm": grad_norm,
    "tokens": jnp.sum(batch.length).astype(jnp.float32),
    "finite": finite.astype(jnp.float32),
    "count": 1.0,
  }
  if settings.bound_names:
    part = jax.tree.map(lambda x: x[0], parts[0])
    values |= _measure_bound(settings, state, base, part, key)
  sums = _add_to_sums(
    state.sums, values, fresh=state.step % settings.report_every == 0
  )
  state = TrainState(state.step + 1, params, ema, opt_state, state.key, sums)
  return state, _means(sums, settings.bound_names)


def _split(tree: Any, num_parts: int) -> Any:
  """Cuts arrays [B, ...] into parts [num_parts, B / num_parts, ...].

  Part j takes every `num_parts`-th row: each covers all of [0, 1], and no row
  leaves its device.
  """
  return jax.tree.map(
    lambda x: jnp.moveaxis(x.reshape(-1, num_parts, *x.shape[1:]), 1, 0), tree
  )


def _part_loss(
  settings: _Settings,
  params: Params,
  dropout_key: Key[Array, ""],
  part: tuple[Rows, Any],
  *,
  base: Params,
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
  """Computes a part's share of the batch's loss, and of its terms.

  The terms are nats a sequence. The loss is nats a token slot, so that clipping
  means the same at any length.
  """
  model = settings.model
  network = denoiser(
    model, partition.join(params, base), rngs={"dropout": dropout_key}
  )
  terms = settings.objective.terms(network, *part)
  terms = {
    name: jnp.sum(x) / settings.config.batch_size for name, x in terms.items()
  }
  return sum(terms.values()) / model.max_length, terms


def _accumulate(
  loss: Callable[..., tuple[Float[Array, ""], dict[str, Float[Array, ""]]]],
  params: Params,
  keys: Key[Array, " P"],
  parts: Any,
) -> tuple[dict[str, Float[Array, ""]], Params]:
  """Sums losses and gradients over the parts, one after another.

  Args:
    loss: `(params, key, part) -> (loss, terms)`.
    params: the parameters that are trained.
    keys: one for each part.
    parts: arrays [P, ...].

  Returns:
    (the sums of the loss and the terms, the gradient).
  """

  def of_part(part):
    (value, terms), gradient = jax.value_and_grad(loss, has_aux=True)(
      params, *part
    )
    return {"loss": value, **terms}, gradient

  def add_part(total, part):
    return jax.tree.map(jnp.add, total, of_part(part)), None

  first = jax.tree.map(lambda x: x[0], (keys, parts))
  if len(keys) == 1:
    # A loop of one turn would copy its sums, as large as the parameters.
    return of_part(first)
  zeros = jax.tree.map(
    lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(of_part, first)
  )
  return jax.lax.scan(add_part, zeros, (keys, parts))[0]


def _move(
  settings: _Settings,
  step: Array,
  gradient: Params,
  params: Params,
  ema: Params,
  opt_state: Any,
) -> tuple[Params, Params, Any]:
  """Takes the optimiser's step, and moves the average after it.

  It is left out of a step that is not finite, which so changes nothing but the
  count of steps: the parameters that the loop saves when it stops are the last
  good ones.
  """
  with jax.numpy_dtype_promotion("standard"):  # optax relies on it
    updates, opt_state = settings.optimizer.update(gradient, opt_state, params)
  params = optax.apply_updates(params, updates)
  # The average follows faster in the first steps.
  step = step.astype(jnp.float32)
  decay = jnp.minimum(settings.config.ema_decay, (1.0 + step) / (10.0 + step))
  return params, optax.incremental_update(params, ema, 1.0 - decay), opt_state


def _measure_bound(
  settings: _Settings,
  state: TrainState,
  base: Params,
  part: Rows,
  key: Key[Array, ""],
) -> dict[str, Float[Array, ""]]:
  """Measures the bound's terms on one part of a batch, when it is due.

  Returns:
    Means over the rows and a "bound_count" of 1; zeros when it is not due.
  """

  def measure():
    network = denoiser(settings.model, partition.join(state.params, base))
    bound_key = jax.random.fold_in(key, _BOUND)
    terms = settings.objective.bound(network, part, bound_key)
    return {name: jnp.mean(x) for name, x in terms.items()} | {
      "bound_count": jnp.float32(1)
    }

  def skip():
    names = (*settings.bound_names, "bound_count")
    return dict.fromkeys(names, jnp.float32(0))

  first = state.step % settings.report_every == 0
  due = first | (state.step % settings.config.bound_every == 0)
  return jax.lax.cond(due, measure, skip)


def _add_to_sums(
  sums: Mapping[str, Array], values: Mapping[str, Any], fresh: Bool[Array, ""]
) -> dict[str, Float[Array, ""]]:
  """Adds a step's values to the sums, which start again if `fresh`."""
  return {
    name: jnp.where(fresh, 0.0, total) + values[name]
    for name, total in sums.items()
  }


def _means(
  sums: Mapping[str, Array], bound_names: tuple[str, ...]
) -> dict[str, Float[Array, ""]]:
  """Divides each sum by the number of its values, which is left out."""
  return {
    name: total / sums["bound_count" if name in bound_names else "count"]
    for name, total in sums.items()
    if name not in ("count", "bound_count")
  }
