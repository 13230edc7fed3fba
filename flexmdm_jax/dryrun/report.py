"""Compiles a step for devices that are not here, and reports what it costs."""

import dataclasses
import time
from collections import defaultdict
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding

from flexmdm_jax.dryrun import hlo, roofline
from flexmdm_jax.dryrun.devices import Topology
from flexmdm_jax.errors import InputError
from flexmdm_jax.models.denoiser import denoiser
from flexmdm_jax.models.parameters import boxed_params
from flexmdm_jax.rows import Rows, empty_start
from flexmdm_jax.runs import Run
from flexmdm_jax.sampling.loop import sample
from flexmdm_jax.sampling.placement import Placement
from flexmdm_jax.training import partition
from flexmdm_jax.training.objectives import Autoregressive
from flexmdm_jax.training.sharding import make_mesh, tree_shardings
from flexmdm_jax.training.step import TrainStep
from flexmdm_jax.vocab import Vocab


@dataclasses.dataclass(frozen=True)
class ShapesOnly:
  """Task without data: the shapes that a model and a step are made of."""

  vocab: Vocab
  max_length: int
  inserts: bool = True
  causal: bool = False


def run_without_data(config: dict[str, Any]) -> Run:
  """Makes the run of a config, without data where it has a `model.vocab`.

  Without that setting, the data are needed to know the vocabulary.
  """
  vocab = config["model"].get("vocab")
  if vocab is None:
    return Run.from_config(config)
  task = ShapesOnly(Vocab(**vocab), config["data"]["max_length"])
  return Run.from_config(config, task)


def train_report(
  run: Run, topology: Topology, weak_scaling: bool = False
) -> dict[str, Any]:
  """Compiles the training step for a topology.

  The forward pass that measures the bound, at one step in `train.bound_every`,
  is left out: it needs less memory than the step itself.

  Args:
    run: the run, see `run_without_data`.
    topology: the devices.
    weak_scaling: add a table for more and more copies of the devices.

  Returns:
    A JSON-ready report; bytes are those of one device.

  Raises:
    InputError: the layout does not fit the devices, or the program their
      memory.
  """
  step = run.train_step(topology.devices, bound=False)
  B = run.step.batch_size
  begin = time.perf_counter()
  lowered = step.update_with.lower(
    step.abstract_state,
    abstract_batch(step, B, run.task.max_length),
    step.abstract_base,
  )
  compiled = compiled_for(topology, lowered)
  seconds = time.perf_counter() - begin

  num_devices = len(topology.devices)
  mesh = dict(step.batch_sharding.mesh.shape)
  masked = masked_share(run)
  work = roofline.work_of(run.model, step.abstract_params, B, masked)
  text = compiled.as_text()
  sent = hlo.collectives(text, num_devices)
  predicted = roofline.predict(
    work,
    topology.device,
    num_devices,
    num_devices // mesh["data"],
    roofline.link_seconds(sent, topology.device, num_devices),
  )
  report = dict(
    step="train",
    devices=about(topology),
    mesh=mesh,
    batch_size=B,
    max_length=run.task.max_length,
    parameters=dict(total=work.parameters, trainable=work.trainable),
    bytes_per_device=memory(compiled),
    flops=dict(
      model=work.model_flops,
      hardware=work.hardware_flops,
      masked_share=masked,
    ),
    operations=[dataclasses.asdict(one) for one in hlo.operations(text)],
    cost_analysis=cost_analysis(compiled),
    collectives=[dataclasses.asdict(one) for one in sent],
    collective_bytes=by_kind(sent),
    prediction=dict(
      matmul_share=roofline.MATMUL_SHARE, **dataclasses.asdict(predicted)
    ),
    compile_seconds=seconds,
    jax=jax.__version__,
  )
  report["fits"] = fits(report, topology)
  if weak_scaling:
    report["weak_scaling"] = roofline.weak_scaling(
      work, topology.device, mesh, predicted.step_seconds
    )
  return report


def sample_report(
  run: Run, topology: Topology, batch_size: int
) -> dict[str, Any]:
  """Compiles sampling from nothing for a topology.

  Rows are split over the axes `data` and `fsdp`, along which the parameters lie
  whole; the network over `tensor`.

  Args:
    run: the run, see `run_without_data`.
    topology: the devices.
    batch_size: number of rows.

  Returns:
    A JSON-ready report; bytes are those of one device. Its prediction takes
    all calls at the full length, which is an upper bound: rows start empty.
    Collectives in loops whose length depends on the rows count once.

  Raises:
    InputError: the layout does not fit the devices or the rows, or the program
      the devices' memory.
  """
  layout, task = run.layout, run.task
  mesh = make_mesh(layout.data, layout.fsdp, layout.tensor, topology.devices)
  placement = Placement(mesh)
  params = sampling_params(run, mesh)
  start = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(
      x.shape, x.dtype, sharding=NamedSharding(mesh, placement.rows())
    ),
    empty_start(batch_size, task.max_length, task.vocab),
  )
  key = jax.eval_shape(lambda: jax.random.key(0))

  # Outside the mesh: a path is checked with numbers, which these devices,
  # there to compile for alone, cannot hold.
  on_path = run.on_path(denoiser(run.model, params))

  def draw(key, on_path, start):
    return sample(
      key,
      on_path,
      start,
      run.path,
      task.vocab,
      run.sampler,
      placement=placement,
    )

  begin = time.perf_counter()
  with jax.set_mesh(mesh):
    lowered = jax.jit(draw).lower(key, on_path, start)
    compiled = compiled_for(topology, lowered)
  seconds = time.perf_counter() - begin
  text = compiled.as_text()
  sent = hlo.collectives(text, len(topology.devices))
  work = roofline.work_of(run.model, params, batch_size, masked=1.0)
  call = roofline.call_seconds(
    work, topology.device, len(topology.devices), layout.tensor
  )
  report = dict(
    step="sample",
    devices=about(topology),
    mesh=dict(mesh.shape),
    batch_size=batch_size,
    max_length=task.max_length,
    sampling_steps=run.sampler.steps,
    parameters=dict(total=work.parameters, trainable=work.trainable),
    bytes_per_device=memory(compiled),
    flops=dict(call=work.forward_flops),
    operations=[dataclasses.asdict(one) for one in hlo.operations(text)],
    cost_analysis=cost_analysis(compiled),
    collectives=[dataclasses.asdict(one) for one in sent],
    collective_bytes=by_kind(sent),
    prediction=dict(
      matmul_share=roofline.MATMUL_SHARE,
      call_seconds=call,
      sample_seconds=call * run.sampler.steps,
    ),
    compile_seconds=seconds,
    jax=jax.__version__,
  )
  report["fits"] = fits(report, topology)
  return report


def sampling_params(run: Run, mesh: Mesh) -> partition.Params:
  """Makes abstract parameters for sampling: split over `tensor` only.

  Trained parameters are float32, as checkpoints have them.
  """
  rules = run.layout.rules
  whole = {
    field.name: None
    for field in dataclasses.fields(rules)
    if getattr(rules, field.name) != "tensor" and field.name != "batch"
  }
  boxed = boxed_params(run.model)
  abstract = jax.tree.map(
    lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
    nn.unbox(boxed),
    tree_shardings(boxed, dataclasses.replace(rules, **whole), mesh),
  )
  trained, frozen = partition.split(run.model, abstract)
  trained = jax.tree.map(
    lambda x: x if x.dtype == jnp.int8 else x.update(dtype=jnp.float32), trained
  )
  return partition.join(trained, frozen)


def compiled_for(
  topology: Topology, lowered: jax.stages.Lowered
) -> jax.stages.Compiled:
  """Compiles a program; InputError if it does not fit the memory."""
  try:
    return lowered.compile()
  except jax.errors.JaxRuntimeError as error:
    if "RESOURCE_EXHAUSTED" not in str(error):
      raise
    raise InputError(
      f"the program does not fit {topology.kind}"
      f" ({topology.device.hbm_bytes / 1e9:.0f} GB): take fewer rows, more"
      " devices, or set model.remat=full. XLA says:"
      f" {str(error).splitlines()[0][:300]}"
    ) from error


def about(topology: Topology) -> dict[str, Any]:
  """Describes the devices of a topology."""
  return dict(
    kind=topology.kind,
    number=len(topology.devices),
    compiled_for=topology.compiled_for,
    **dataclasses.asdict(topology.device),
  )


def fits(report: dict[str, Any], topology: Topology) -> bool:
  """Returns whether the program fits the devices' memory."""
  return report["bytes_per_device"]["peak"] <= topology.device.hbm_bytes


def abstract_batch(step: TrainStep, B: int, L: int) -> Rows:
  """Shapes, types and shardings of a batch of full length."""

  def array(shape, dtype):
    return jax.ShapeDtypeStruct(shape, dtype, sharding=step.batch_sharding)

  return Rows(
    tokens=array((B, L), jnp.int32),
    length=array((B,), jnp.int32),
    frozen=array((B, L), bool),
    open_gaps=array((B, L + 1), bool),
  )


def memory(compiled: jax.stages.Compiled) -> dict[str, int]:
  """Bytes that a program takes on one device, by use; and their peak.

  Donated arguments are outputs too.
  """
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


def cost_analysis(compiled: jax.stages.Compiled) -> dict[str, float]:
  """Reads the operations and bytes that XLA counts, a turn of each loop.

  It counts neither on GPUs.
  """
  found = compiled.cost_analysis() or {}
  names = dict(flops="flops", bytes_accessed="bytes accessed")
  return {name: found[key] for name, key in names.items() if key in found}


def by_kind(sent: list[hlo.Collective]) -> dict[str, float]:
  """Bytes that a device sends, by kind of collective."""
  total = defaultdict(float)
  for one in sent:
    total[one.kind] += one.bytes
  return dict(total)


def masked_share(run: Run, rows: int = 256) -> float:
  """Mean share of masks among a row's L positions, at the end of training.

  Rows have L tokens, and the states are those that the model is trained on.
  """
  objective = run.objective
  if isinstance(objective, Autoregressive):
    return 1.0  # every position has a loss, as masks have
  L, vocab = run.task.max_length, run.task.vocab
  drawn = objective.draw(jax.random.key(0), rows, run.loop.num_steps)
  tokens = jnp.full(L, vocab.pad)

  def masks(state):
    states, none = objective.states, jnp.zeros(L, bool)
    gaps = jnp.ones(L + 1, bool)
    noised = states.noise(state, tokens, jnp.int32(L), vocab, none, gaps)
    return jnp.mean(noised.masked)

  return float(jnp.mean(jax.vmap(masks)(drawn)))
