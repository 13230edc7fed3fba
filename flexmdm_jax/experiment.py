"""An experiment: a config, and the task, model and schedules it stands for."""

import dataclasses
import functools
import json
import pathlib
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Key

from flexmdm_jax import schedules
from flexmdm_jax.data.pipeline import make_loader
from flexmdm_jax.data.tasks import Task, make_task
from flexmdm_jax.errors import InputError
from flexmdm_jax.interpolant import MDM, JointInterpolant
from flexmdm_jax.models.denoiser import ModelDenoiser, denoiser
from flexmdm_jax.models.dit import DiT
from flexmdm_jax.sampling.autoregressive import sample_autoregressive
from flexmdm_jax.sampling.sampler import (
  SamplerConfig,
  Samples,
  in_batches,
  sample,
)
from flexmdm_jax.sampling.start import Start
from flexmdm_jax.training import loop
from flexmdm_jax.training.checkpoint import restore_ema
from flexmdm_jax.training.objectives import (
  Autoregressive,
  Diffusion,
  Objective,
)
from flexmdm_jax.training.optimizer import OptimizerConfig, make_optimizer
from flexmdm_jax.training.sharding import (
  Rules,
  local_rows,
  make_mesh,
  replicated,
)
from flexmdm_jax.training.step import TrainStep, make_train_step

# Settings of the training step that are in the config's `train`.
_STEP_KEYS = ("batch_size", "accumulation", "ema_decay")
_OBJECTIVE_KEYS = ("targets", "time_exponent")


@dataclasses.dataclass(frozen=True, eq=False)
class Experiment:
  """What a config stands for; made by `from_config`, which checks it whole.

  Attributes:
    config: the settings, JSON-ready.
    task: the data in the layout of the method.
    interpolant: the schedules; a baseline's inserts everything at time 0, and
      an autoregressive one does not look at it.
    model: the network.
    objective: what its training minimises.
    optimizer: how.
    loop: how long, and how often.
    sampler: how evaluations sample.
  """

  config: dict[str, Any]
  task: Task
  interpolant: JointInterpolant
  model: DiT
  objective: Objective
  optimizer: OptimizerConfig
  loop: loop.LoopConfig
  sampler: SamplerConfig

  @classmethod
  def from_config(cls, config: Mapping[str, Any]) -> "Experiment":
    """Builds an experiment; touches no device.

    Of a text task it reads the tokenizer's files, whose vocabulary is the
    model's, or prepares the data, if these are what decides it.

    Args:
      config: nested settings, as `experiments/configs/base.py` has them.

    Raises:
      InputError: a setting is missing, unknown or out of range.
    """
    config = json.loads(json.dumps(config))
    try:
      task = make_task(config["method"], config["data"])
      interpolant = (
        JointInterpolant(
          _schedule(config["insertion"]), _schedule(config["unmasking"])
        )
        if task.grows
        else MDM(_schedule(config["mdm_unmasking"]))
      )
      model = dict(config["model"], causal=task.causal)
      if not task.grows:
        model["gap_head"] = None
      train = dict(config["train"])
      step = {key: train.pop(key) for key in _STEP_KEYS}
      objective = {key: train.pop(key) for key in _OBJECTIVE_KEYS}
      if not task.grows:
        objective["targets"] = "sampled"  # a state has one embedding only
      if not 0 <= step["ema_decay"] < 1:
        raise InputError(
          f"train.ema_decay={step['ema_decay']} must be in [0, 1)."
        )
      return cls(
        config=config,
        task=task,
        interpolant=interpolant,
        model=_build(
          DiT,
          model | {"dtype": _dtype(model["dtype"])},
          vocab=task.vocab,
          max_length=task.max_length,
        ),
        objective=(
          Autoregressive(task.vocab)
          if task.causal
          else Diffusion(interpolant, task.vocab, **objective)
        ),
        optimizer=_build(
          OptimizerConfig, config["optimizer"], num_steps=train["num_steps"]
        ),
        loop=_build(loop.LoopConfig, train),
        sampler=_build(SamplerConfig, config["sampler"]),
      )
    except KeyError as error:
      raise InputError(
        f"the config has no key {error}: see experiments/configs/base.py."
      ) from error

  @classmethod
  def from_workdir(cls, workdir: str | pathlib.Path) -> "Experiment":
    """The experiment that was trained in `workdir`.

    Raises:
      InputError: there is none.
    """
    path = pathlib.Path(workdir) / "config.json"
    try:
      return cls.from_config(json.loads(path.read_text()))
    except (OSError, json.JSONDecodeError) as error:
      raise InputError(
        f"--workdir={workdir} holds no run ({path.name}: {error}): train"
        " first, with python -m experiments.train."
      ) from error

  def train_step(self) -> TrainStep:
    """The training step on the mesh that the config asks for."""
    train = self.config["train"]
    return make_train_step(
      self.model,
      Rules(),
      make_mesh(**self.config["mesh"]),
      optimizer=make_optimizer(self.optimizer),
      objective=self.objective,
      report_every=self.loop.report_every,
      **{key: train[key] for key in _STEP_KEYS},
    )

  def train(
    self,
    workdir: str | pathlib.Path,
    *,
    overwrite: bool = False,
    progress: bool = True,
  ) -> dict[str, float]:
    """Trains in `workdir`, resuming if it can; see `training.loop.train`."""
    train_step = self.train_step()
    batch_size = self.config["train"]["batch_size"]
    return loop.train(
      train_step,
      lambda: make_loader(
        self.task.records("train"),
        self.task.encode,
        batch_size=batch_size,
        seed=self.loop.seed,
        rows=local_rows(train_step.batch_sharding, batch_size),
        buckets=self.task.buckets,
      ),
      workdir,
      self.loop,
      self.config,
      interpolant=self.interpolant.to_config(),
      overwrite=overwrite,
      progress=progress,
    )

  def restore(self, workdir: str | pathlib.Path) -> tuple[int, ModelDenoiser]:
    """The denoiser with the newest EMA parameters, and their step.

    Every device that is here holds the parameters whole, whatever mesh they
    were trained on.

    Raises:
      InputError: `workdir` holds no readable checkpoint, or one that was
        trained with other schedules.
    """
    whole = replicated(make_mesh())
    abstract = jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=whole),
      abstract_params(self.model),
    )
    step, params, meta = restore_ema(pathlib.Path(workdir), abstract)
    if meta["interpolant"] != self.interpolant.to_config():
      raise InputError(
        f"checkpoint {step} in {workdir} was trained with the schedules"
        f" {meta['interpolant']}, but its config.json says"
        f" {self.interpolant.to_config()}: a model samples with its own only."
        " Put the file right."
      )
    return step, denoiser(self.model, params)

  def sample(
    self,
    key: Key[Array, ""],
    denoiser: ModelDenoiser,
    start: Start,
    batch_size: int,
  ) -> Samples:
    """Samples as `sampler` says, from left to right if the model is causal.

    Args:
      key: one key.
      denoiser: the trained model.
      start: N rows of the task.
      batch_size: rows at once; changes nothing but the memory.

    Returns:
      N `Samples`, as NumPy arrays on the host.

    Raises:
      InputError: batch_size < 1.
    """
    if self.task.causal:
      draw = functools.partial(
        sample_autoregressive,
        denoiser=denoiser,
        vocab=self.task.vocab,
        temperature=self.sampler.temperature,
        top_p=self.sampler.top_p,
      )
    else:
      draw = functools.partial(
        sample,
        denoiser=denoiser,
        interpolant=self.interpolant,
        vocab=self.task.vocab,
        config=self.sampler,
      )
    return in_batches(draw, key, start, batch_size)


def num_parameters(model: DiT) -> int:
  """Number of parameters of a model; none is allocated."""
  return sum(x.size for x in jax.tree.leaves(abstract_params(model)))


def abstract_params(model: DiT) -> Any:
  """Shapes and types of a model's parameters."""
  tokens = jax.ShapeDtypeStruct((1, model.max_length), jnp.int32)
  length = jax.ShapeDtypeStruct((1,), jnp.int32)
  t = jax.ShapeDtypeStruct((1,), jnp.float32)
  variables = jax.eval_shape(model.init, jax.random.key(0), tokens, length, t)
  return nn.unbox(variables["params"])


def _schedule(config: Mapping[str, Any]) -> schedules.Schedule:
  """The schedule of a config that has a place for every parameter."""
  return schedules.from_config(
    {key: value for key, value in config.items() if value is not None}
  )


def _dtype(name: str) -> Any:
  dtypes = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}
  if name not in dtypes:
    raise InputError(
      f"model.dtype={name!r} is unknown: choose one of {', '.join(dtypes)}."
    )
  return dtypes[name]


def _build(cls: type, settings: Mapping[str, Any], **more: Any) -> Any:
  """`cls(**settings, **more)`; a key that it does not take is an InputError."""
  fields = {f.name for f in dataclasses.fields(cls)} - {"parent", "name"}
  for key in settings:
    if key not in fields:
      raise InputError(
        f"unknown setting {key!r} of {cls.__name__}: it takes"
        f" {', '.join(sorted(fields - more.keys()))}."
      )
  return cls(**settings, **more)
