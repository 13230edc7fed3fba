"""Time and utilisation of a training step, from operations, bytes and links.

Operations of the model, of N tokens (rows times positions):

- a matrix of n parameters that each token is multiplied with: 2 n N forward,
  2 n N for the gradient of its input, 2 n N for its own, unless it is frozen;
- attention, bidirectional: 4 D L N a layer forward (scores and values; D is the
  width of all heads, L the length), twice that backward;
- the vocabulary head at masked positions only.

The loss repeats the forward pass of the vocabulary head, and recomputing
activations that of attention (`remat="dots"`) and of the blocks ("full"): the
hardware does that, the model's operations (hence MFU) do not count it.

The step takes at least the longest of three times: operations at the share
`MATMUL_SHARE` of the peak, bytes to and from memory, bytes over links; and at
most their sum, if nothing overlaps. Latencies, stragglers and input are left
out.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

from flax import traverse_util

from flexmdm_jax.dryrun.devices import Device
from flexmdm_jax.dryrun.hlo import Collective
from flexmdm_jax.training import partition

# Share of the peak that large bfloat16 matrix products reach: our assumption.
# Public reports of whole training steps are at 50 to 60 %.
MATMUL_SHARE = 0.7
# Times that a block reads or writes its activations in a pass, in 16 bits.
_PASSES = 3
# Parameters that are multiplied once a row, or looked up and not multiplied.
_PER_ROW = ("embed", "time", "modulation")
_HEADS = ("head", "vocab_head")


@dataclasses.dataclass(frozen=True)
class Work:
  """Work of one training step, over all devices.

  Attributes:
    parameters: number of parameters of the model.
    trainable: number of parameters that training changes.
    tokens: number of positions of the batch.
    forward_flops: operations of the forward pass.
    model_flops: operations of the step, without those that are repeated.
    hardware_flops: operations of the step, with those that are repeated.
    memory_bytes: bytes to and from memory that do not depend on the mesh:
      activations.
    weight_bytes: size of the weights, in the 16 bits in which they are used or
      the 8 of those that are quantised.
    state_bytes: bytes that the optimiser reads and writes.
    gradient_bytes: size of the float32 gradients.
  """

  parameters: int
  trainable: int
  tokens: int
  forward_flops: float
  model_flops: float
  hardware_flops: float
  memory_bytes: float
  weight_bytes: float
  state_bytes: float
  gradient_bytes: float


def work_of(
  model: Any,
  abstract: partition.Params,
  batch_size: int,
  masked: float,
) -> Work:
  """Counts the work of a training step of a model.

  Args:
    model: a `DiT` or a `Transformer`.
    abstract: shapes of the model's parameters.
    batch_size: number of rows of a batch.
    masked: share of positions whose logits are computed.
  """
  flat = traverse_util.flatten_dict(abstract)
  changes = partition.trainable(model)
  N = batch_size * model.max_length
  parameters = sum(math.prod(x.shape) for x in flat.values())
  trainable = sum(
    math.prod(x.shape) for path, x in flat.items() if changes(path)
  )
  blocks = head = backward = widths = 0.0
  for path, x in flat.items():
    matrix = path[-1] in ("kernel", "lora_a", "lora_b")
    if not matrix or any(name in _PER_ROW for name in path):
      continue
    size = math.prod(x.shape)
    forward = 2.0 * size * N
    if path[0] in _HEADS:
      forward *= masked
      head += forward
    else:
      blocks += forward
    backward += forward * (2 if changes(path) else 1)
    # A matrix of D_in x D_out reads D_in and writes D_out a token; the model's
    # width is one of the two.
    if path[0] == "blocks":
      layers, width = x.shape[0], model.hidden_size
      widths += layers * width + size // width
  attention = 4.0 * model.hidden_size * model.max_length * N * model.num_layers
  model_flops = blocks + head + backward + 3 * attention
  # The loss in chunks repeats the head. "dots" keeps the products of matrices,
  # not attention.
  again = head
  if model.remat in ("dots", "full"):
    again += attention + (0.0 if model.remat == "dots" else blocks)
  return Work(
    parameters=parameters,
    trainable=trainable,
    tokens=N,
    forward_flops=blocks + head + attention,
    model_flops=model_flops,
    hardware_flops=model_flops + again,
    memory_bytes=_PASSES * 2.0 * widths * N,
    weight_bytes=float(
      sum(math.prod(x.shape) * min(2, x.dtype.itemsize) for x in flat.values())
    ),
    # Parameters, EMA and two moments are read and written; gradients too.
    state_bytes=4.0 * trainable * (2 * 4 + 2),
    gradient_bytes=4.0 * trainable,
  )


@dataclasses.dataclass(frozen=True)
class Prediction:
  """Seconds of a step by cause, and the rates that follow from them."""

  compute_seconds: float
  memory_seconds: float
  link_seconds: float
  step_seconds: float
  step_seconds_without_overlap: float
  tokens_per_second_per_device: float
  mfu: float
  mfu_without_overlap: float


def predict(
  work: Work,
  device: Device,
  num_devices: int,
  shards: int,
  link_seconds: float,
) -> Prediction:
  """Predicts the time of a step.

  Args:
    work: work of the step.
    device: kind of each device.
    num_devices: number of devices of the mesh.
    shards: number of devices over which parameters are split.
    link_seconds: time of the collectives, if nothing hides it.
  """
  compute = work.hardware_flops / (num_devices * device.flops * MATMUL_SHARE)
  # Each device reads all weights it multiplies with, two or three times.
  passes = 3 if work.hardware_flops > work.model_flops else 2
  memory = (
    work.memory_bytes / num_devices
    + passes * work.weight_bytes
    + work.state_bytes / shards
  ) / device.hbm_rate
  shortest, longest = (f((compute, memory, link_seconds)) for f in (max, sum))
  useful = work.model_flops / (num_devices * device.flops)
  return Prediction(
    compute_seconds=compute,
    memory_seconds=memory,
    link_seconds=link_seconds,
    step_seconds=shortest,
    step_seconds_without_overlap=longest,
    tokens_per_second_per_device=work.tokens / num_devices / shortest,
    mfu=useful / shortest,
    mfu_without_overlap=useful / longest,
  )


def call_seconds(
  work: Work, device: Device, num_devices: int, shards: int
) -> float:
  """Least time of a call of the network, with weights in 16 bits.

  Args:
    work: work of a training step with as many rows.
    device: kind of each device.
    num_devices: number of devices over which rows or network are split.
    shards: number of devices over which the network is split.
  """
  compute = work.forward_flops / (num_devices * device.flops * MATMUL_SHARE)
  num_bytes = (
    work.memory_bytes / _PASSES / num_devices + work.weight_bytes / shards
  )
  return max(compute, num_bytes / device.hbm_rate)


def link_seconds(
  collectives: Sequence[Collective], device: Device, num_devices: int
) -> float:
  """Time of a program's collectives, one after another.

  Collectives within one group of devices use its links. On larger meshes, a
  collective with as many members as there are device groups is taken to be
  across them (the data axis comes first), and so is one with more members than
  a group has.
  """
  groups = max(num_devices // device.group, 1)
  total = 0.0
  for one in collectives:
    across = groups > 1 and (one.group == groups or one.group > device.group)
    total += one.bytes / (device.far_rate if across else device.link_rate)
  return total


def weak_scaling(
  work: Work,
  device: Device,
  mesh: dict[str, int],
  seconds: float,
  largest: int = 4096,
) -> list[dict[str, float]]:
  """Predicts steps on more copies of a mesh, with as many rows a device.

  A copy's work stays; gradients are then summed over the copies by rings, at
  the links' rate within a group of devices and at the far rate between. Nothing
  of that is hidden, and no device is slower than another.

  Args:
    work: work of the mesh that was compiled.
    device: kind of each device.
    mesh: sizes of the mesh's axes.
    seconds: time of the mesh's step.
    largest: number of devices of the last row.

  Returns:
    A row for each doubling.
  """
  num_devices = math.prod(mesh.values())
  shards = num_devices // mesh["data"]
  rows, copies = [], 1
  while copies * num_devices <= largest:
    total = copies * num_devices
    gradient = work.gradient_bytes / shards
    near = min(copies, max(device.group // num_devices, 1))
    far = copies // near
    extra = sum(
      2 * gradient * (n - 1) / n / rate
      for n, rate in ((near, device.link_rate), (far, device.far_rate))
    )
    rows.append(
      dict(
        devices=total,
        tokens=work.tokens * copies,
        step_seconds=seconds + extra,
        tokens_per_second=work.tokens * copies / (seconds + extra),
        efficiency=seconds / (seconds + extra),
      )
    )
    copies *= 2
  return rows
