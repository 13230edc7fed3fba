"""Compiles a step for devices that are not here, and reports what it costs."""

import dataclasses
import time
from collections import defaultdict
from typing import Any

import jax
import jax.numpy as jnp

from flexmdm_jax.dryrun import hlo, roofline
from flexmdm_jax.dryrun.devices import Topology
from flexmdm_jax.experiment import Experiment
from flexmdm_jax.interpolant import JointInterpolant, draw_times
from flexmdm_jax.times import stratified_times
from flexmdm_jax.training.step import TrainStep
from flexmdm_jax.vocab import Vocab


@dataclasses.dataclass(frozen=True)
class ShapesOnly:
  """A task without data: what a model and a step are made of."""

  vocab: Vocab
  max_length: int
  grows: bool = True
  causal: bool = False


def experiment_without_data(config: dict[str, Any]) -> Experiment:
  """The experiment of a config whose data need not be here.

  That is so where the config states the model's `vocab`.
  """
  vocab = config["model"].get("vocab")
  if vocab is None:
    return Experiment.from_config(config)
  task = ShapesOnly(Vocab(**vocab), config["data"]["max_length"])
  return Experiment.from_config(config, task)


def train_report(
  experiment: Experiment, topology: Topology, weak_scaling: bool = False
) -> dict[str, Any]:
  """Compiles the training step for a topology.

  Args:
    experiment: see `experiment_without_data`.
    topology: the devices.
    weak_scaling: add the table.

  Returns:
    A JSON-ready report; bytes are of one device.

  Raises:
    InputError: the layout does not fit the devices.
    jax.errors.JaxRuntimeError: the program does not fit their memory.
  """
  step = experiment.train_step(topology.devices)
  B = experiment.config["train"]["batch_size"]
  begin = time.perf_counter()
  compiled = step.update_with.lower(
    step.abstract_state,
    abstract_batch(step, B, experiment.task.max_length),
    step.abstract_base,
  ).compile()
  seconds = time.perf_counter() - begin

  num_devices = len(topology.devices)
  mesh = dict(step.batch_sharding.mesh.shape)
  masked = masked_share(experiment.interpolant, experiment.task.max_length)
  work = roofline.work_of(experiment.model, step.abstract_params, B, masked)
  sent = hlo.collectives(compiled.as_text(), num_devices)
  predicted = roofline.predict(
    work,
    topology.device,
    num_devices,
    num_devices // mesh["data"],
    roofline.link_seconds(sent, topology.device, num_devices),
  )
  report = dict(
    step="train",
    devices=dict(
      kind=topology.kind,
      number=num_devices,
      compiled_for=topology.compiled_for,
      **dataclasses.asdict(topology.device),
    ),
    mesh=mesh,
    batch_size=B,
    max_length=experiment.task.max_length,
    parameters=dict(total=work.parameters, trainable=work.trainable),
    bytes_per_device=memory(compiled),
    flops=dict(
      model=work.model_flops,
      hardware=work.hardware_flops,
      masked_share=masked,
    ),
    collectives=[dataclasses.asdict(one) for one in sent],
    collective_bytes=by_kind(sent),
    prediction=dict(
      matmul_share=roofline.MATMUL_SHARE, **dataclasses.asdict(predicted)
    ),
    compile_seconds=seconds,
    jax=jax.__version__,
  )
  report["fits"] = (
    report["bytes_per_device"]["peak"] <= topology.device.hbm_bytes
  )
  if weak_scaling:
    report["weak_scaling"] = roofline.weak_scaling(
      work, topology.device, mesh, predicted.step_seconds
    )
  return report


def abstract_batch(
  step: TrainStep, B: int, L: int
) -> dict[str, jax.ShapeDtypeStruct]:
  """Shapes, types and shardings of a batch of full length."""

  def array(shape, dtype):
    return jax.ShapeDtypeStruct(shape, dtype, sharding=step.batch_sharding)

  return dict(
    tokens=array((B, L), jnp.int32),
    length=array((B,), jnp.int32),
    frozen=array((B, L), bool),
    open_gaps=array((B, L + 1), bool),
  )


def memory(compiled: jax.stages.Compiled) -> dict[str, int]:
  """Bytes of one device; arguments that are donated are outputs too."""
  found = compiled.memory_analysis()
  parts = dict(
    arguments=found.argument_size_in_bytes,
    outputs=found.output_size_in_bytes,
    aliased=found.alias_size_in_bytes,
    temporaries=found.temp_size_in_bytes,
    code=found.generated_code_size_in_bytes,
  )
  parts["peak"] = (
    parts["arguments"]
    + parts["outputs"]
    - parts["aliased"]
    + parts["temporaries"]
    + parts["code"]
  )
  return parts


def by_kind(sent: list[hlo.Collective]) -> dict[str, float]:
  """Bytes that a device sends, by kind of collective."""
  total = defaultdict(float)
  for one in sent:
    total[one.kind] += one.bytes
  return dict(total)


def masked_share(
  interpolant: JointInterpolant, L: int, rows: int = 256
) -> float:
  """Mean share of masks among a row's tokens, at the times of training."""

  def row(key, t):
    inserted, unmasked = draw_times(key, interpolant, L)
    return jnp.mean((inserted <= t) & (t < unmasked))

  keys = jax.random.split(jax.random.key(0), rows)
  times = stratified_times(jax.random.key(1), rows)
  return float(jnp.mean(jax.vmap(row)(keys, times.t)))
