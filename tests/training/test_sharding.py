import numpy as np
import pytest
from jax.sharding import PartitionSpec

from flexmdm_jax.errors import InputError
from flexmdm_jax.training.sharding import (
  LAYOUTS,
  Layout,
  Rules,
  make_layout,
  make_mesh,
  mesh_shape,
)


def test_spec_maps_logical_to_mesh_axes():
  assert Rules().spec("w", ("embed", None, "heads")) == PartitionSpec(
    "fsdp", None, "tensor"
  )


def test_collision_names_the_array():
  with pytest.raises(InputError, match=r"qkv.*one of them twice"):
    Rules(embed="tensor").spec("qkv", ("embed", "heads"))


def test_logical_axis_without_a_rule_names_the_array():
  with pytest.raises(InputError, match=r"q: Rules has no logical axis 'head'"):
    Rules().spec("q", ("embed", "head"))


DEVICES = {"replicated": 4, "fsdp": 4, "8xh100": 8}


@pytest.mark.parametrize("name", LAYOUTS)
def test_layouts_fit_the_devices_they_are_named_after(name):
  num_devices = DEVICES.get(name, 16)
  layout = make_layout(name)
  shape = mesh_shape(num_devices, layout.data, layout.fsdp, layout.tensor)
  assert np.prod(shape) == num_devices
  assert min(shape) >= 1


def test_layout_by_name_with_sizes_that_differ():
  assert make_layout() == Layout(data=-1, fsdp=1, tensor=1)
  assert make_layout("fsdp", tensor=2) == Layout(data=1, fsdp=-1, tensor=2)
  with pytest.raises(InputError, match="'4xa100' must be one of"):
    make_layout("4xa100")


def test_mesh_takes_the_devices_that_are_left():
  assert make_mesh(fsdp=2, tensor=2).shape == {
    "data": 2,
    "fsdp": 2,
    "tensor": 2,
  }


@pytest.mark.parametrize(
  "axes",
  [
    dict(data=3),
    dict(fsdp=0),
    dict(tensor=16),
    dict(data=-1, fsdp=-1),
    dict(data=1, fsdp=-1, tensor=3),
    dict(data=-2),
  ],
)
def test_mesh_that_does_not_fit_the_devices_is_refused(axes):
  with pytest.raises(InputError, match="does not fit 8 devices"):
    make_mesh(**axes)
