"""Rotary attention over rows of unequal length, by the library's kernels.

A position sees the positions of its row that are below the row's length. The
output beyond the length is undefined, and finite.
"""

import functools

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float, Int

from flexmdm_jax import mesh as meshes
from flexmdm_jax.errors import InputError

ATTENTIONS = ("xla", "cudnn", "splash")
_LANES = 128


def attend(
  q: Float[Array, "B T H D"],
  k: Float[Array, "B T K D"],
  v: Float[Array, "B T K D"],
  length: Int[Array, " B"] | None,
  *,
  causal: bool = False,
  implementation: str | None = None,
) -> Float[Array, "B T H D"]:
  """Softmax attention among the positions of each row below its length.

  Args:
    q: queries.
    k: keys; their number of heads divides the queries', and each serves as
      many of them.
    v: values.
    length: number of positions of each row; None if all take part.
    causal: positions see themselves and those before them only.
    implementation: "xla" runs everywhere; "cudnn" is for GPUs in 16 bits;
      "splash" is for TPUs, and needs the mesh in scope (`jax.set_mesh`) where
      there are several devices; None takes the best that runs here.
  """
  implementation = implementation or _best(q)
  if implementation == "splash":
    return _splash(q, k, v, length, causal=causal)
  T = q.shape[1]
  # cuDNN's backward pass takes even numbers of positions only.
  if implementation == "cudnn" and T % 2:
    length = jnp.full(q.shape[0], T, jnp.int32) if length is None else length
    q, k, v = (jnp.pad(x, ((0, 0), (0, 1), (0, 0), (0, 0))) for x in (q, k, v))
  with jax.numpy_dtype_promotion("standard"):  # it mixes bf16 and f32
    out = jax.nn.dot_product_attention(
      q,
      k,
      v,
      query_seq_lengths=length,
      key_value_seq_lengths=length,
      is_causal=causal,
      implementation=implementation,
    )
  return out[:, :T]


def require_even_heads(hidden_size: int, num_heads: int) -> None:
  """Raises an InputError unless each head has an even, whole width."""
  if hidden_size % (2 * num_heads):
    raise InputError(
      f"hidden_size={hidden_size} must be a multiple of 2 *"
      f" num_heads={2 * num_heads}: rotary attention pairs the"
      " coordinates of each head."
    )


def _best(q) -> str:
  """Picks the fastest implementation for `q` on the devices in scope."""
  platform = meshes.platform()
  half = q.dtype in (jnp.bfloat16, jnp.float16)
  # What cuDNN's fused attention can do.
  if platform in ("gpu", "cuda") and half and q.shape[-1] in range(8, 129, 8):
    return "cudnn"
  # Without the mesh in scope, the kernel could not be split over it.
  alone = jax.sharding.get_abstract_mesh().empty and jax.device_count() > 1
  return "splash" if platform == "tpu" and not alone else "xla"


def _splash(q, k, v, length, *, causal, interpret=False):
  """Splash attention on TPUs; each device has rows and heads of its own."""
  if length is None:
    length = jnp.full(q.shape[0], q.shape[1], jnp.int32)
  local = functools.partial(_splash_local, causal=causal, interpret=interpret)
  if (mesh := meshes.current()) is None:
    return local(q, k, v, length)
  # The compiler cannot partition the kernel.
  rows = meshes.row_axes(mesh, q.shape[0])
  spec = PartitionSpec(rows, None, meshes.head_axis(mesh, k.shape[2]))
  return jax.shard_map(
    local,
    mesh=mesh,
    in_specs=(spec, spec, spec, PartitionSpec(rows)),
    out_specs=spec,
    axis_names=meshes.automatic_axes(mesh),
    check_vma=False,
  )(q, k, v, length)


def _splash_local(q, k, v, length, *, causal, interpret):
  """Splash attention on one device."""
  # Here, since it is of no use elsewhere and takes a second to import.
  from jax.experimental.pallas.ops.tpu.splash_attention import (
    splash_attention_kernel as kernel,
  )
  from jax.experimental.pallas.ops.tpu.splash_attention import (
    splash_attention_mask as masks,
  )

  T, H, D = q.shape[1:]
  padded = -(-T // _LANES) * _LANES
  q = q * D**-0.5  # the kernel does not scale
  q, k, v = (
    jnp.pad(
      jnp.swapaxes(x, 1, 2),
      ((0, 0), (0, 0), (0, padded - T), (0, -D % _LANES)),
    )
    for x in (q, k, v)
  )
  inside = (jnp.arange(padded) < length[:, None]).astype(jnp.int32)
  mask = masks.CausalMask if causal else masks.FullMask
  block = next(b for b in (512, 384, 256, 128) if padded % b == 0)
  attention = kernel.make_splash_mha(
    masks.MultiHeadMask([mask((padded, padded))] * H),
    block_sizes=kernel.BlockSizes(
      block_q=block,
      block_kv=block,
      block_q_dkv=block,
      block_kv_dkv=block,
      block_q_dq=block,
      block_kv_dq=block,
    ),
    head_shards=1,
    q_seq_shards=1,
    interpret=interpret,
  )
  with jax.numpy_dtype_promotion("standard"):
    out = jax.vmap(attention)(q, k, v, kernel.SegmentIds(inside, inside))
  return jnp.swapaxes(out, 1, 2)[:, :T, :, :D].astype(v.dtype)


def rotary_phases(
  positions: int, head_dim: int, base: float = 10_000.0
) -> Float[Array, "2 T half"]:
  """Cosines and sines of the half-split rotary embedding's angles.

  A network computes them once, outside of the loop over its blocks.

  Args:
    positions: number of positions, from 0 on.
    head_dim: width of a head.
    base: the slowest pair turns by `base ** (2 / head_dim - 1)` a position.

  Source: Su et al., "RoFormer" (arXiv 2104.09864).
  """
  half = head_dim // 2
  frequency = base ** (-jnp.arange(half, dtype=jnp.float32) / half)
  angles = jnp.arange(positions, dtype=jnp.float32)[:, None] * frequency
  return jnp.stack([jnp.cos(angles), jnp.sin(angles)])


def rotate(
  x: Float[Array, "B T H D"], phases: Float[Array, "2 T half"]
) -> Float[Array, "B T H D"]:
  """Turns each pair (x[i], x[i + D/2]) by its position's angle."""
  cos, sin = phases[:, :, None]
  first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
  turned = [first * cos - second * sin, second * cos + first * sin]
  return jnp.concatenate(turned, axis=-1).astype(x.dtype)
