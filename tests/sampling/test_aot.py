"""The sampler compiles for TPUs that are not here, its kernels included."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

import flexmdm_jax as fm
from flexmdm_jax.sampling.placement import Placement
from flexmdm_jax.schedules import Linear
from flexmdm_jax.training.sharding import Rules, make_mesh, tree_shardings

VOCAB = fm.Vocab(size=1024, mask=1022, pad=1023)
L = 255


@pytest.mark.slow
@pytest.mark.parametrize("tensor", [1, 2])
def test_sharded_sampler_compiles_for_tpus(tpu_devices, tensor):
  devices = tpu_devices("v5e:2x2", (4,)).tolist()
  mesh = make_mesh(-1, 1, tensor, devices)
  model = fm.DiT(
    VOCAB, L, hidden_size=256, num_layers=1, num_heads=2, dtype=jnp.bfloat16
  )
  placement = Placement(mesh)

  def shaped(x, spec):
    return jax.ShapeDtypeStruct(
      x.shape, x.dtype, sharding=NamedSharding(mesh, spec)
    )

  start = fm.empty_start(8, L, VOCAB)
  boxed = jax.eval_shape(
    model.init, jax.random.key(0), start.tokens, start.length, jnp.zeros(8)
  )["params"]
  params = jax.tree.map(
    lambda x, sharding: jax.ShapeDtypeStruct(
      x.shape, x.dtype, sharding=sharding
    ),
    fm.models.denoiser.nn.unbox(boxed),
    tree_shardings(boxed, Rules(embed=None), mesh),
  )

  def draw(key, params, start):
    return fm.sample(
      key,
      fm.denoiser(model, params),
      start,
      fm.JointInterpolant(Linear(), Linear()),
      VOCAB,
      fm.SamplerConfig(8, buckets=(127,)),
      placement=placement,
    )

  arguments = (
    shaped(jax.random.key(0), PartitionSpec()),
    params,
    jax.tree.map(lambda x: shaped(x, placement.rows()), start),
  )
  with jax.set_mesh(mesh):
    text = jax.jit(draw).lower(*arguments).compile().as_text()
  # In each of two canvases: attention, tokens, insertions.
  assert text.count('custom_call_target="tpu_custom_call"') == 6
  # Rows never meet; the vocabulary's shards do.
  assert ("all-reduce" in text) == (tensor > 1)
