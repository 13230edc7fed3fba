"""A run: a config, and the task, model and schedules it stands for."""

import dataclasses
import functools
import json
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import traverse_util
from jaxtyping import Array, Key

from flexmdm_jax import memory, paths, schema, settings
from flexmdm_jax.data.loader import make_loader
from flexmdm_jax.errors import InputError
from flexmdm_jax.inference import Model, PromptForm
from flexmdm_jax.inference import folder as exported
from flexmdm_jax.interpolant import MDM, JointInterpolant
from flexmdm_jax.models import quantization
from flexmdm_jax.models.denoiser import ModelDenoiser, denoiser
from flexmdm_jax.models.dit import DiT
from flexmdm_jax.models.parameters import abstract_params
from flexmdm_jax.models.transformer import Transformer
from flexmdm_jax.prediction import Denoiser
from flexmdm_jax.pretrained import checkpoint as pretrained_lib
from flexmdm_jax.reading import read_json
from flexmdm_jax.rows import Start
from flexmdm_jax.sampling import SamplerConfig, Samples, Trace
from flexmdm_jax.tasks import Task, make_task
from flexmdm_jax.training import hosts, loop, partition
from flexmdm_jax.training.checkpoint import restore_ema
from flexmdm_jax.training.objectives import (
  Objective,
)
from flexmdm_jax.training.optimizer import (
  OptimizerConfig,
  ParameterGroup,
  make_optimizer,
)
from flexmdm_jax.training.sharding import (
  Layout,
  local_rows,
  make_layout,
  make_mesh,
  replicated,
)
from flexmdm_jax.training.step import StepConfig, TrainStep, make_train_step

# Settings of the training step that are in the config's `train`.
_STEP_KEYS = ("batch_size", "accumulation", "ema_decay", "bound_every")
_MESH_KEYS = ("layout", "data", "fsdp", "tensor")
_SECTIONS = {
  "method": str,
  "data": Mapping,
  "insertion": Mapping,
  "unmasking": Mapping,
  "path": str | None,
  "mdm_unmasking": Mapping,
  "pretrained": str | None,
  "model": Mapping,
  "optimizer": Mapping,
  "train": Mapping,
  "mesh": Mapping,
  "sampler": Mapping,
}


@dataclasses.dataclass(frozen=True, eq=False)
class Run:
  """A config and the parts it stands for; `from_config` makes and checks it.

  Attributes:
    config: the settings, JSON-ready.
    task: the data in the layout of the method.
    interpolant: the schedules of the training, whose clock the network is
      shown; a baseline's inserts everything at time 0, and an autoregressive
      one does not look at it.
    path: the schedules of sampling and of the likelihood's bound.
    model: the network.
    objective: the loss that its training minimises.
    optimizer: the settings of the optimiser.
    step: how a batch becomes an update.
    loop: numbers of steps, and how often to report and to save.
    sampler: the settings with which evaluations sample.
    layout: the mesh on which it is trained.
    pretrained: folder of weights to start from, or another run's; or None.
  """

  config: dict[str, Any]
  task: Task
  interpolant: JointInterpolant
  path: JointInterpolant
  model: DiT | Transformer
  objective: Objective
  optimizer: OptimizerConfig
  step: StepConfig
  loop: loop.LoopConfig
  sampler: SamplerConfig
  layout: Layout
  pretrained: str | None

  @classmethod
  def from_config(
    cls, config: Mapping[str, Any], task: Task | None = None
  ) -> "Run":
    """Builds a run; touches no device.

    Of a text task it reads the tokenizer's files, whose vocabulary is the
    model's, or prepares the data, if these are what decides it.

    Args:
      config: nested settings, as `experiments/configs/base.py` has them.
      task: instead of that of the config's data.

    Raises:
      InputError: a setting is missing, unknown or out of range.
    """
    config = json.loads(json.dumps(config))
    schema.require_value("the config", config, Mapping)
    schema.require_known("the config", config, _SECTIONS)
    for name, value in config.items():
      schema.require_value(name, value, _SECTIONS[name])
    schema.require_known("mesh", config.get("mesh", {}), _MESH_KEYS)
    try:
      task = task or make_task(config["method"], config["data"])
      # What this method does not use is checked as well.
      joint = JointInterpolant(
        settings.make_schedule(config["insertion"]),
        settings.make_schedule(config["unmasking"]),
      )
      mdm = MDM(settings.make_schedule(config["mdm_unmasking"]))
      interpolant = joint if task.inserts else mdm
      train = dict(config["train"])
      step = {key: train.pop(key) for key in _STEP_KEYS if key in train}
      model = settings.make_model(config["model"], task)
      objective = settings.make_objective(interpolant, task, model, train)
      optimizer = dict(config["optimizer"], num_steps=train["num_steps"])
      groups = optimizer.get("groups", {})
      schema.require_value("optimizer.groups", groups, Mapping)
      optimizer["groups"] = tuple(
        schema.build(ParameterGroup, group, "optimizer.groups")
        for group in groups.values()
      )
      return cls(
        config=config,
        task=task,
        interpolant=interpolant,
        path=settings.make_path(config.get("path"), interpolant, task),
        model=model,
        objective=objective,
        optimizer=schema.build(OptimizerConfig, optimizer, "optimizer"),
        step=schema.build(StepConfig, step, "train"),
        loop=schema.build(loop.LoopConfig, train, "train"),
        sampler=schema.build(SamplerConfig, config["sampler"], "sampler"),
        layout=make_layout(**config["mesh"]),
        pretrained=config.get("pretrained"),
      )
    except KeyError as error:
      raise schema.KeyMismatchError(
        f"the config has no key {error}: see experiments/configs/base.py."
      ) from error

  @classmethod
  def from_workdir(cls, workdir: str | pathlib.Path) -> "Run":
    """Opens the run that was trained in `workdir`.

    Raises:
      InputError: there is none, or another version of this package made it.
    """
    path = pathlib.Path(workdir) / "config.json"
    if not path.exists():
      raise InputError(
        f"workdir={workdir} holds no run, as there is no {path.name}: train"
        " first, with python -m experiments.train."
      )
    config = read_json(path)
    try:
      return cls.from_config(config)
    except schema.KeyMismatchError as error:
      raise InputError(
        f"{workdir} was made by another version of flexmdm_jax"
        f" ({path.name}: {str(error).rstrip('.')}): use that version, or train"
        " again in another directory."
      ) from error

  def train_step(
    self, devices: Sequence[jax.Device] | None = None, bound: bool = True
  ) -> TrainStep:
    """Makes the training step on the config's mesh, without frozen parameters.

    Args:
      devices: others than those that are here.
      bound: measure the bound now and then, where the loss is none.

    Raises:
      InputError: the config's layout does not fit them.
    """
    layout, step = self.layout, self.step
    if not bound:
      step = dataclasses.replace(step, bound_every=None)
    return make_train_step(
      self.model,
      layout.rules,
      make_mesh(layout.data, layout.fsdp, layout.tensor, devices),
      optimizer=make_optimizer(self.optimizer),
      objective=self.objective,
      config=step,
      report_every=self.loop.report_every,
    )

  def with_weights(self, train_step: TrainStep) -> TrainStep:
    """Gives a step the frozen parameters and first values of `pretrained`.

    Raises:
      InputError: the folder cannot be read, or is of another model; parameters
        are frozen and there is no folder. `init` raises the same.
    """
    if self.pretrained is None and not train_step.abstract_base:
      return train_step
    abstract = train_step.abstract_params

    # Read when they are needed: a run that goes on has its own.
    def init(key):
      trained = partition.trainable(self.model)
      return train_step.init(key, self._load_pretrained(abstract, trained))

    return dataclasses.replace(
      train_step, base=self._frozen(abstract), init=init
    )

  def _load_pretrained(
    self,
    abstract: partition.Params,
    wanted: Callable[[tuple[str, ...]], bool],
  ) -> dict:
    """Reads those parameters of `pretrained` that are wanted.

    It is a folder of `experiments.convert`; one that `Model.export` wrote; or
    the work directory of another run, of which the EMA parameters are taken,
    and what that run did not train from its own `pretrained`. So a FlexMDM goes
    on from an MDM, and a fine-tuning from a retrofit.

    Raises:
      InputError: as `pretrained.checkpoint.load` and `inference.folder`.
    """
    folder = pathlib.Path(self.pretrained).expanduser()
    if (folder / "checkpoints").is_dir():
      return self._load_run(folder, abstract, wanted)
    config = folder / "config.json"
    if config.exists() and exported.is_exported(read_json(config)):
      known = traverse_util.flatten_dict(dict(abstract))
      found = exported.read_params(folder, abstract, wanted)
      return traverse_util.unflatten_dict(
        {
          path: x.astype(known[path].dtype)
          for path, x in traverse_util.flatten_dict(found).items()
        }
      )
    return pretrained_lib.load(folder, abstract, wanted)

  def _load_run(
    self,
    folder: pathlib.Path,
    abstract: partition.Params,
    wanted: Callable[[tuple[str, ...]], bool],
  ) -> dict:
    """Reads those parameters of another run that are wanted."""
    flat = functools.partial(traverse_util.flatten_dict, sep="/")
    known = flat(dict(abstract))
    source = Run.from_workdir(folder)
    there = flat(abstract_params(source.model))
    for path, x in there.items():
      if path not in known or known[path].shape != x.shape:
        needed = list(known[path].shape) if path in known else "none"
        raise InputError(
          f"pretrained={folder} has {path} of the shape {list(x.shape)}, but"
          f" the model has {needed}: give both runs one data.tokenizer and"
          " model, but for the method."
        )
    trained = partition.trainable(source.model)
    paths = [path for path in there if wanted(tuple(path.split("/")))]
    target = {
      path: known[path] for path in paths if trained(tuple(path.split("/")))
    }
    whole = quantization.int8_paths(target)
    target |= {path: known[path].update(dtype=jnp.float32) for path in whole}
    found = {}
    if target:
      _, params, _ = restore_ema(
        folder, traverse_util.unflatten_dict(target, sep="/")
      )
      found = flat(params)
    for path in whole:
      found |= quantization.quantized(path, found[path], abstract)
    if frozen := set(paths) - target.keys():
      base = source._load_pretrained(
        abstract, lambda path: "/".join(path) in frozen
      )
      found |= flat(base)
    return traverse_util.unflatten_dict(found, sep="/")

  def _frozen(self, abstract: partition.Params) -> partition.Params:
    """Reads the parameters that the model freezes."""
    trainable = partition.trainable(self.model)
    flat = functools.partial(traverse_util.flatten_dict, sep="/")
    frozen = flat(partition.split(self.model, abstract)[1])
    if not frozen:
      return {}
    if self.pretrained is None:
      raise InputError(
        f"the model freezes {len(frozen)} parameters, as {min(frozen)}: set"
        " the config's pretrained to a folder that has them."
      )
    base = self._load_pretrained(abstract, lambda path: not trainable(path))
    missing = frozen.keys() - flat(base).keys()
    if missing:
      raise InputError(
        f"pretrained={self.pretrained} lacks {len(missing)} of the frozen"
        f" parameters, as {min(missing)}: convert the checkpoint anew."
      )
    return base

  def require_memory_to_train(self) -> None:
    """Refuses a model or batch that surely cannot be trained on what is here.

    Raises:
      InputError: it has an estimate, and the memory that there is.
    """
    needed = memory.of_training(
      self.model, self.step.batch_size, self.step.accumulation
    )
    memory.require("training", needed, "model.hidden_size or train.batch_size")

  def require_memory_to_sample(self, num: int, batch_size: int) -> None:
    """Refuses more rows than surely fit on what is here.

    Args:
      num: rows in all.
      batch_size: rows at once.

    Raises:
      InputError: it has an estimate, and the memory that there is.
    """
    memory.require_to_sample(self.model, num, batch_size)

  def train(
    self,
    workdir: str | pathlib.Path,
    *,
    overwrite: bool = False,
    progress: bool = True,
  ) -> dict[str, float]:
    """Trains in `workdir`, resuming if it can; see `training.loop.train`."""
    train_step = self.train_step()
    batch_size = self.step.batch_size
    return loop.train(
      hosts.on_all_processes(lambda: self.with_weights(train_step)),
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

  def restore(
    self, workdir: str | pathlib.Path, step: int | None = None
  ) -> tuple[int, ModelDenoiser]:
    """Loads the newest EMA parameters: their step, and the denoiser with them.

    With `step`, those of that checkpoint. Every device that is here holds the
    parameters whole, whatever mesh they were trained on; the frozen ones are
    read from `pretrained`.

    Raises:
      InputError: `workdir` holds no readable checkpoint, or one that was
        trained with other schedules.
    """
    whole = replicated(make_mesh())
    abstract = jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=whole),
      abstract_params(self.model),
    )
    trained, _ = partition.split(self.model, abstract)
    step, params, meta = restore_ema(
      pathlib.Path(workdir),
      jax.tree.map(lambda x: x.update(dtype=jnp.float32), trained),
      step,
    )
    if meta["interpolant"] != self.interpolant.to_config():
      raise InputError(
        f"checkpoint {step} in {workdir} was trained with the schedules"
        f" {meta['interpolant']}, but its config.json says"
        f" {self.interpolant.to_config()}: a model samples with its own only."
        " Put the file right."
      )
    params = partition.join(params, self._frozen(abstract))
    return step, denoiser(self.model, params)

  def with_sampler(self, **changes: Any) -> "Run":
    """Copies the run with other settings of its `sampler`.

    Raises:
      InputError: a setting is out of range.
    """
    sampler = dataclasses.replace(self.sampler, **changes)
    return dataclasses.replace(self, sampler=sampler)

  def with_path(self, text: str | None) -> "Run":
    """Copies the run with another path; None leaves it as it is.

    Args:
      text: as `paths.parse` takes it.

    Raises:
      InputError: it is no path, or the model has none to choose.
    """
    if text is None:
      return self
    if not self.task.inserts:
      raise InputError(
        f"path={text!r} needs a model that inserts, but this run's method is"
        f" {self.task.method}."
      )
    path = settings.make_path(text, self.interpolant, self.task)
    return dataclasses.replace(self, path=path)

  def on_path(self, denoiser: ModelDenoiser) -> Denoiser:
    """Shows the denoiser times on `path`; see `paths.on_path`."""
    return paths.on_path(denoiser, self.interpolant, self.path)

  def sample(
    self,
    key: Key[Array, ""],
    denoiser: ModelDenoiser,
    start: Start,
    batch_size: int,
  ) -> Samples:
    """Samples from `start` by the settings of `sampler`.

    A baseline's rows, or a task's own, may begin in any way; see
    `inference.Model.sample`.

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
    return self.model_with(denoiser).sample(key, start, batch_size)

  def trace(
    self, key: Key[Array, ""], denoiser: ModelDenoiser, start: Start
  ) -> Trace:
    """Samples as `sample` does, in one batch, and returns every state.

    Args:
      key: one key.
      denoiser: the trained model.
      start: N rows of the task.

    Returns:
      The `Trace` of N rows, as NumPy arrays on the host; its last state is what
      `sample` returns.

    Raises:
      InputError: the model reads from left to right.
    """
    return self.model_with(denoiser).trace(key, start).trace

  def model_with(self, denoiser: ModelDenoiser) -> Model:
    """Joins the run and its trained network to a model that people use.

    Args:
      denoiser: the trained network, as `restore` gives it.
    """
    method = "autoregressive" if self.task.causal else "mdm"
    return Model(
      denoiser=denoiser,
      vocab=self.task.vocab,
      interpolant=self.interpolant,
      path=self.path,
      sampler=self.sampler,
      max_length=self.task.max_length,
      tokenizer=getattr(self.task, "tokenizer", None),
      form=PromptForm(*map(tuple, self.task.around)),
      method="flexmdm" if self.task.inserts else method,
      about={"training": self._training()},
    )

  def _training(self) -> dict[str, Any]:
    """Tells how the model was trained, without any path of this machine."""
    data = self.config["data"]
    return {
      "data": data["name"],
      "steps": self.loop.num_steps,
      "batch_size": self.step.batch_size,
      "learning_rate": self.optimizer.learning_rate,
      "seed": self.loop.seed,
    }
