"""Attention: implementations agree; TPU kernels build for TPUs not here."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from flexmdm_jax.models import attention

LENGTH = (5, 1, 140, 64)


def inputs(heads=4, kv_heads=2, head_dim=16, positions=140):
  rng = np.random.default_rng(0)

  def draw(heads):
    shape = (len(LENGTH), positions, heads, head_dim)
    return jnp.asarray(rng.normal(size=shape), jnp.float32)

  return draw(heads), draw(kv_heads), draw(kv_heads), jnp.array(LENGTH)


def by_hand(q, k, v, length, causal=False):
  """Softmax attention, one row and head at a time."""
  out = np.zeros(q.shape)
  serves = q.shape[2] // k.shape[2]
  for b, n in enumerate(np.asarray(length)):
    for h in range(q.shape[2]):
      scores = q[b, :n, h] @ k[b, :n, h // serves].T / q.shape[-1] ** 0.5
      if causal:
        scores = np.where(np.tri(n, dtype=bool), scores, -np.inf)
      weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
      weights /= weights.sum(axis=-1, keepdims=True)
      out[b, :n, h] = weights @ v[b, :n, h // serves]
  return out


def within(x, length):
  inside = np.arange(x.shape[1]) < np.asarray(length)[:, None]
  return np.where(inside[:, :, None, None], x, 0)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("implementation", ["xla", "splash"])
def test_implementations(implementation, causal):
  q, k, v, length = inputs()
  if implementation == "splash":
    attend = functools.partial(attention._splash, interpret=True)
  else:
    attend = functools.partial(attention.attend, implementation="xla")
  out = jax.jit(functools.partial(attend, causal=causal))(q, k, v, length)
  assert np.isfinite(out).all()
  expected = by_hand(*map(np.asarray, (q, k, v, length)), causal)
  np.testing.assert_allclose(within(out, length), expected, atol=2e-5)


def test_without_lengths_everything_takes_part():
  q, k, v, _ = inputs(positions=6)
  out = attention.attend(q, k, v, None, implementation="xla")
  everything = np.full(len(LENGTH), 6)
  expected = by_hand(*map(np.asarray, (q, k, v)), everything)
  np.testing.assert_allclose(out, expected, atol=2e-5)


def test_splash_on_a_mesh_is_splash_on_one_device():
  q, k, v, length = inputs(positions=20)
  length = jnp.minimum(length, 20)
  splash = functools.partial(attention._splash, causal=False, interpret=True)
  expected = jax.jit(splash)(q, k, v, length)
  auto = (AxisType.Auto,) * 3
  mesh = jax.make_mesh((2, 2, 2), ("data", "fsdp", "tensor"), axis_types=auto)
  with jax.set_mesh(mesh):
    actual = jax.jit(splash)(q, k, v, length)
    # One row, as when a model is made, does not divide over the mesh.
    one = jax.jit(splash)(q[:1], k[:1], v[:1], length[:1])
  np.testing.assert_allclose(actual, expected, atol=1e-6)
  np.testing.assert_allclose(one, expected[:1], atol=1e-6)


@pytest.mark.parametrize("head_dim", [64, 128])
def test_splash_compiles_for_a_tpu(head_dim, tpu_devices):
  mesh = Mesh(
    tpu_devices("v5e:2x2", (2, 1, 2)),
    ("data", "fsdp", "tensor"),
    axis_types=(AxisType.Auto,) * 3,
  )

  def shape(*sizes, spec, dtype=jnp.bfloat16):
    sharding = NamedSharding(mesh, spec)
    return jax.ShapeDtypeStruct(sizes, dtype, sharding=sharding)

  heads = PartitionSpec("data", None, "tensor")
  q = shape(4, 200, 4, head_dim, spec=heads)
  k = shape(4, 200, 2, head_dim, spec=heads)
  length = shape(4, spec=PartitionSpec("data"), dtype=jnp.int32)

  def total(q, k, v, length):
    # None: the mesh in scope tells that it is for a TPU.
    return jnp.sum(attention.attend(q, k, v, length).astype(jnp.float32))

  with jax.set_mesh(mesh):
    step = jax.jit(jax.grad(total, argnums=(0, 1, 2)))
    compiled = step.lower(q, k, k, length).compile()
  # Forward; gradients of the queries; of keys and values.
  assert compiled.as_text().count('custom_call_target="tpu_custom_call"') == 3


def test_rotary_base():
  angles = np.array([[0, 0], [1, 0.1], [2, 0.2]])
  np.testing.assert_allclose(
    attention.rotary_phases(3, 4, base=100.0),
    [np.cos(angles), np.sin(angles)],
    rtol=1e-6,
  )
