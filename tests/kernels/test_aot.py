"""Kernels compile for accelerators that are not here.

For TPUs by Mosaic itself, ahead of time; for GPUs they are lowered as far as
JAX goes without CUDA. What may be sharded is compiled for several devices.
"""

import functools

import jax
import pytest
from jax import export
from jax.sharding import (
  AbstractDevice,
  AbstractMesh,
  AxisType,
  Mesh,
  NamedSharding,
)
from jax.sharding import PartitionSpec as P

from flexmdm_jax.kernels.insert_unmask import arg_specs, insert_unmask
from flexmdm_jax.kernels.insert_unmask.arg_specs import Spec
from flexmdm_jax.kernels.token_sample import arg_specs as token_specs
from flexmdm_jax.kernels.token_sample import token_sample

insert = functools.partial(insert_unmask, **arg_specs.STATIC)

# (name, function, shapes of its arguments, whose first dimension may be
# sharded)
CASES = [
  (f"insert_unmask-{spec.batch_size}x{spec.max_length}", insert, spec.shapes())
  for spec in (Spec(256, 1024), Spec(64, 1000), Spec(16, 8192), Spec(4, 5))
]
CASES += [
  (
    f"token_sample-{name}",
    functools.partial(token_sample, temperature=1.0),
    token_specs.SPECS[name].shapes(),
  )
  for name in ("llada", "openwebtext")
]
each_case = pytest.mark.parametrize(
  ("function", "shapes"),
  [pytest.param(*case, id=name) for name, *case in CASES],
)


@pytest.fixture
def tpu_mesh(tpu_devices):
  def mesh(topology, num_devices):
    devices = tpu_devices(topology, (4,))[:num_devices]
    return Mesh(devices, ("x",), axis_types=(AxisType.Auto,))

  return mesh


def compiled(function, shapes, mesh, spec):
  """The compiled program's text."""
  sharding = NamedSharding(mesh, spec)
  arguments = [
    jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding) for x in shapes
  ]
  with jax.set_mesh(mesh):
    return jax.jit(function).lower(*arguments).compile().as_text()


@pytest.mark.parametrize("topology", ["v5e:2x2", "v5p:2x2x1"])
@each_case
def test_compiles_for_a_tpu(tpu_mesh, topology, function, shapes):
  text = compiled(function, shapes, tpu_mesh(topology, 1), P())
  assert text.count('custom_call_target="tpu_custom_call"') == 1


def test_compiles_for_several_tpus(tpu_mesh):
  mesh = tpu_mesh("v5e:2x2", 4)
  _, function, shapes = CASES[0]
  rows = P("x")
  mapped = jax.shard_map(function, in_specs=rows, out_specs=rows)
  text = compiled(mapped, shapes, mesh, rows)
  assert text.count('custom_call_target="tpu_custom_call"') == 1
  assert "all-gather" not in text
  # Left to the compiler, which cannot split a kernel, it is the reference.
  text = compiled(function, shapes, mesh, rows)
  assert "tpu_custom_call" not in text


@each_case
def test_lowers_for_a_gpu(function, shapes):
  device = AbstractDevice(
    device_kind="NVIDIA H200", num_cores=None, platform="gpu"
  )
  mesh = AbstractMesh(
    (1,), ("x",), axis_types=(AxisType.Auto,), abstract_device=device
  )
  with jax.sharding.use_abstract_mesh(mesh):
    exported = export.export(jax.jit(function), platforms=["cuda"])(*shapes)
  assert "mosaic_gpu" in exported.mlir_module()
