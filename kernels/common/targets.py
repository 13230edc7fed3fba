"""The device that a call will run on."""

import dataclasses
import re

import jax


@dataclasses.dataclass(frozen=True)
class Target:
  """Device that a call runs on.

  Attributes:
    platform: "cpu", "gpu" or "tpu".
    kind: name of the device's model.
  """

  platform: str
  kind: str

  @property
  def is_tpu(self) -> bool:
    return self.platform == "tpu"

  @property
  def is_hopper(self) -> bool:
    """Whether the device is an NVIDIA H20, H100, H200, H800 or GH200."""
    return self.platform == "gpu" and bool(re.search(r"\bG?H\d", self.kind))


def target() -> Target:
  """Finds the device that the code traced now will run on.

  It is the ambient mesh's, whose devices need not be here (compilation ahead
  of time), or else JAX's default device.
  """
  device = jax.sharding.get_abstract_mesh().abstract_device
  device = device or jax.config.jax_default_device or jax.devices()[0]
  if isinstance(device, str):
    device = jax.devices(device)[0]
  return Target(device.platform, device.device_kind)


def is_on_one_device() -> bool:
  """Returns whether the code traced now is surely one device's work.

  It is inside `shard_map`, and where there is one device. The compiler cannot
  partition a Mosaic kernel.
  """
  mesh = jax.sharding.get_abstract_mesh()
  if mesh.empty:
    return jax.device_count() == 1
  manual = jax.sharding.AxisType.Manual
  return mesh.size == 1 or all(kind == manual for kind in mesh.axis_types)
