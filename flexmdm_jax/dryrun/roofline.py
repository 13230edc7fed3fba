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

# Of the peak, large bfloat16 matrix products: our assumption. Public reports of
# whole training steps are at 50 to 60 %.
MATMUL_SHARE = 0.7
# Blocks read and write their activations about so often a pass, in 16 bits.
_PASSES = 3
# Inputs that are not tokens, or looked up and not multiplied.
_PER_ROW = ("embed", "time", "modulation")
_HEADS = ("head", "vocab_head")


@dataclasses.dataclass(frozen=True)
class Work:
  """What one training step does, over all devices.

  Attributes:
    parameters: of the model.
    trainable: of them.
    tokens: positions of the batch.
    forward_flops: of the forward pass.
    model_flops: of the step, as the file says.
    hardware_flops: with what is computed again.
    memory_bytes: to and from memory that do not depend on the mesh:
      activations.
    weight_bytes: of the weights as they are used, 16 bits.
    state_bytes: of what the optimiser reads and writes.
    gradient_bytes: float32 gradients.
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
  """Counts the work of a step of a model.

  Args:
    model: a `DiT` or a `Transformer`.
    abstract: shapes of its parameters.
    batch_size: rows of a batch.
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
  # not attention; the models have it as a word or as a truth value.
  again = head
  if model.remat not in (False, "none"):
    again += attention + (0.0 if model.remat == "dots" else blocks)
  return Work(
    parameters=parameters,
    trainable=trainable,
    tokens=N,
    forward_flops=blocks + head + attention,
    model_flops=model_flops,
    hardware_flops=model_flops + again,
    memory_bytes=_PASSES * 2.0 * widths * N,
    weight_bytes=2.0 * parameters,
    # Parameters, EMA and two moments are read and written; gradients too.
    state_bytes=4.0 * trainable * (2 * 4 + 2),
    gradient_bytes=4.0 * trainable,
  )


@dataclasses.dataclass(frozen=True)
class Prediction:
  """Seconds of a step, by what takes them, and what follows."""

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
  """The time of a step.

  Args:
    work: of the step.
    device: each.
    num_devices: of the mesh.
    shards: devices over which parameters are split.
    link_seconds: what collectives take, if nothing hides it.
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
  """The least time of a call of the network, its weights in 16 bits.

  Args:
    work: of a training step with as many rows.
    device: each.
    num_devices: over which the rows or the network are split.
    shards: devices over which the network is split.
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

  Those of groups that fit in one group of devices use its links. Of larger
  meshes, a group that has as many members as there are device groups is taken
  to be across them (the data axis comes first), as one larger than a group is.
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
  """Steps on more and more copies of a mesh, with as many rows a device each.

  What a copy does stays; gradients are then summed over the copies by rings, at
  the links' rate within a group of devices and at the far rate between. Nothing
  of that is hidden, and no device is slower than another.

  Args:
    work: of the mesh that was compiled.
    device: each.
    mesh: sizes of its axes.
    seconds: of its step.
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
