import pytest
from jax.sharding import PartitionSpec

from flexmdm_jax.errors import InputError
from flexmdm_jax.training.sharding import Rules, make_mesh


def test_spec_maps_logical_to_mesh_axes():
  assert Rules().spec("w", ("embed", None, "heads")) == PartitionSpec(
    "fsdp", None, "tensor"
  )


def test_collision_names_the_array():
  with pytest.raises(InputError, match=r"qkv.*one of them twice"):
    Rules(embed="tensor").spec("qkv", ("embed", "heads"))


def test_mesh_takes_the_devices_that_are_left():
  assert make_mesh(fsdp=2, tensor=2).shape == {
    "data": 2,
    "fsdp": 2,
    "tensor": 2,
  }


@pytest.mark.parametrize("axes", [dict(data=3), dict(fsdp=0), dict(tensor=16)])
def test_mesh_that_does_not_fit_the_devices_is_refused(axes):
  with pytest.raises(InputError, match="does not fit 8 devices"):
    make_mesh(**axes)
