"""Layers that the networks share.

Functions declare their parameters in the compact module that calls them.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from flexmdm_jax.gap_laws import GapLaw
from flexmdm_jax.models import gaps

_TIME_PERIOD = 10_000.0
# Primitives of attention kernels, whose work is worth more than their results.
_KERNELS = ("pallas_call", "dot_product_attention_fwd_wrapper")

zeros = nn.initializers.zeros_init()
normal = nn.initializers.normal(0.02)
lecun = nn.initializers.lecun_normal()
_ones = nn.initializers.ones_init()


_PRODUCTS = jax.checkpoint_policies.dots_with_no_batch_dims_saveable


def _keep_products_and_kernels(primitive, *args, **params) -> bool:
  """Tells whether an operation's result is kept for the backward pass."""
  return primitive.name in _KERNELS or _PRODUCTS(primitive, *args, **params)


# What the backward pass keeps of a block beside its input.
# More blocks than any network has; a loop over them is compiled.
MAX_LAYERS = 10_000
REMAT = {
  "none": jax.checkpoint_policies.everything_saveable,
  "elementwise": _keep_products_and_kernels,
  "dots": _PRODUCTS,
  "full": jax.checkpoint_policies.nothing_saveable,
}


def remat(block: type[nn.Module], kind: str) -> type[nn.Module]:
  """Makes the backward pass recompute a part of a block that is scanned over.

  Args:
    block: the block.
    kind: "none"; "elementwise", all but matrix products and the results of
      attention kernels; "dots", all but matrix products; "full", all but its
      input.
  """
  if kind == "none":
    return block
  return nn.remat(block, policy=REMAT[kind], prevent_cse=False)


def time_features(
  t: Float[Array, " B"], scale: float | int, size: int
) -> Float[Array, "B F"]:
  """Computes `size` sinusoidal features, an even number, of `scale * t`."""
  # In float32 throughout: 8 bits of mantissa cannot tell times apart.
  half = size // 2
  frequency = _TIME_PERIOD ** (-jnp.arange(half, dtype=jnp.float32) / half)
  angle = scale * t[:, None] * frequency
  return jnp.concatenate([jnp.cos(angle), jnp.sin(angle)], axis=-1)


def dense(
  features: int,
  axes: tuple[str | None, ...],
  name: str,
  dtype: Any,
  *,
  init: Any = lecun,
  bias_init: Any = zeros,
) -> nn.Dense:
  """Dense layer whose parameters have logical axes.

  Args:
    features: numbers that it gives.
    axes: logical axes of the kernel, the inputs' first.
    name: name of the module.
    dtype: type of the computation; None for the input's.
    init: initializer of the kernel.
    bias_init: initializer of the bias.
  """
  return nn.Dense(
    features,
    dtype=dtype,
    kernel_init=nn.with_logical_partitioning(init, axes),
    bias_init=nn.with_logical_partitioning(bias_init, axes[-1:]),
    name=name,
  )


def layer_norm(
  name: str, x: Float[Array, "*b D"], use_bias: bool = False
) -> Float[Array, "*b D"]:
  """Layer norm with a scale, computed in float32, in the type of `x`."""
  norm = nn.LayerNorm(
    epsilon=1e-5,
    use_bias=use_bias,
    scale_init=nn.with_logical_partitioning(_ones, ("embed",)),
    bias_init=nn.with_logical_partitioning(zeros, ("embed",)),
    name=name,
  )
  return norm(x.astype(jnp.float32)).astype(x.dtype)


class RMSNorm(nn.Module):
  """Root-mean-square norm with a scale, in float32 up to the scale."""

  epsilon: float
  param_dtype: Any

  @nn.compact
  def __call__(self, x: Float[Array, "*b D"]) -> Float[Array, "*b D"]:
    scale = self.param(
      "scale",
      nn.with_logical_partitioning(_ones, ("embed",)),
      (x.shape[-1],),
      self.param_dtype,
    )
    y = x.astype(jnp.float32)
    y = y * jax.lax.rsqrt(jnp.mean(y**2, -1, keepdims=True) + self.epsilon)
    return y.astype(x.dtype) * scale.astype(x.dtype)


def predict_gaps(
  x: Float[Array, "B G D"],
  gap_head: str,
  max_length: int,
  scale: float | int | None = None,
) -> tuple[Float[Array, "B G"], Float[Array, "B G C"] | None, GapLaw | None]:
  """Applies the end of a gap head: a GELU, the output layer, its meaning.

  Args:
    x: hidden numbers of each gap.
    gap_head: the head's kind.
    max_length: the longest sequence, and so the largest count.
    scale: factor of a softplus; None for `max_length`.

  Returns:
    A `Prediction`'s `log_gaps`, `gap_logits` and `gap_law`, float32.
  """
  bias = jnp.array(gaps.first_bias(gap_head, max_length))
  out = dense(
    gaps.out_size(gap_head, max_length),
    ("mlp", None),
    "out",
    None,
    init=normal,
    bias_init=nn.initializers.constant(bias),
  )(nn.gelu(x, approximate=False).astype(jnp.float32))
  scale = max_length if scale is None else scale
  return gaps.predict(gap_head, out, scale, max_length)


class Neighbours(nn.Module):
  """Convolution over a position and those beside it, added to its input.

  Attention has to learn first to look one place to the left and to the right;
  this can from the first step on. Beyond either end of a row there is nothing:
  a missing neighbour reads as zero, so rows stay independent of their padding.

  Attributes:
    causal: read the two positions to the left, in place of one on each side.
    channelwise: one weight for each channel and neighbour, zero at first; else
      a matrix for each neighbour.
    dtype: type of the computation.
  """

  causal: bool
  channelwise: bool
  dtype: Any

  @nn.compact
  def __call__(
    self, x: Float[Array, "B T D"], seq_length: Int[Array, " B"]
  ) -> Float[Array, "B T D"]:
    size = x.shape[-1]
    inside = jnp.arange(x.shape[1])[:, None] < seq_length[:, None, None]
    rows = jnp.where(inside, x, 0)
    before = jnp.pad(rows, ((0, 0), (1, 0), (0, 0)))[:, :-1]
    if self.causal:
      other = jnp.pad(rows, ((0, 0), (2, 0), (0, 0)))[:, :-2]
    else:
      other = jnp.pad(rows, ((0, 0), (0, 1), (0, 0)))[:, 1:]
    if not self.channelwise:
      beside = jnp.concatenate([before, other], axis=-1)
      mix = nn.Dense(
        size,
        use_bias=False,
        dtype=self.dtype,
        kernel_init=nn.with_logical_partitioning(lecun, (None, "embed")),
        name="mix",
      )
      return x + mix(beside)
    weight = self.param(
      "weight",
      nn.with_logical_partitioning(zeros, (None, "embed")),
      (2, size),
    ).astype(self.dtype)
    return x + weight[0] * before + weight[1] * other
