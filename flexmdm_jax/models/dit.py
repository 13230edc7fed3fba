"""The DiT denoiser: a bidirectional Transformer conditioned on time by adaLN.

One pad position follows the tokens, so that L + 1 outputs serve the L + 1
gaps; attention covers a row's own tokens and that position. Without a gap head
the same trunk is the fixed-length MDM's denoiser; made causal as well, it is an
autoregressive model, whose logits predict the next token.

Logical axes of the parameters, which `training.sharding.Rules` maps to a mesh:
`vocab`, `embed`, `heads`, `head_dim`, `mlp`, `cond`, `layers`.

Source: Peebles and Xie (arXiv 2212.09748) for the blocks; arXiv 2509.01025,
appendix "architecture", for the heads and sizes.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from flexmdm_jax.errors import InputError
from flexmdm_jax.models import gaps
from flexmdm_jax.models.attention import (
  ATTENTIONS,
  attend,
  require_even_heads,
  rotary_phases,
  rotate,
)
from flexmdm_jax.models.layers import (
  MAX_LAYERS,
  REMAT,
  Neighbours,
  dense,
  layer_norm,
  lecun,
  normal,
  predict_gaps,
  remat,
  time_features,
  zeros,
)
from flexmdm_jax.prediction import Features, Prediction
from flexmdm_jax.schema import count, require, setting
from flexmdm_jax.vocab import Vocab

_TIME_FEATURES = 256

NEIGHBOURS = ("input", "blocks")


class DiT(nn.Module):
  """DiT denoiser `(tokens, length, t) -> Prediction`.

  Attributes:
    vocab: the id space.
    max_length: the longest sequence, L.
    hidden_size: width of the residual stream.
    num_layers: number of blocks.
    num_heads: attention heads; divides hidden_size, with an even quotient.
    cond_size: width of the time conditioning.
    mlp_ratio: width of the feed-forward layer over hidden_size.
    gap_head: kind of the head that predicts the gaps. "log_rate": the log of
      the expected number, which starts near one token a gap and trains stably.
      "softplus": the paper's, `max_length * softplus`. "distribution": the law
      of the number, whose mean is the expectation; the sampler then never
      inserts more than the law allows. It gives max_length + 1 numbers a gap,
      for short sequences. "binned" and "negative_binomial": such laws of few
      numbers, at max_length 1024 of 40 and 2 instead of 1025; see `gap_laws`.
      None: a fixed-length MDM.
    causal: positions see themselves and those before them only.
    time_scale: factor of t before the sinusoidal features. 1 is the public
      code's, at which all but the fastest features are constant over [0, 1].
    dtype: type of the computation; parameters and outputs are float32.
    remat: part of a block that the backward pass recomputes, see
      `models.layers.remat`.
    attention: "xla", "cudnn", "splash", or None for the best that runs here;
      see `models.attention`.
    neighbours: where a position reads the ones beside it without attention,
      see `Neighbours`: "input", once, from the embeddings; "blocks", channel
      by channel in every block. None, the paper's, leaves it to attention.
    unroll: number of blocks in one turn of the loop over them; any number, and
      no result depends on it. On a CPU all of them at once save a tenth to a
      fifth of a training step, and take as much longer to compile.
  """

  vocab: Vocab
  max_length: int = count()
  hidden_size: int = count(768)
  num_layers: int = setting(12, least=1, most=MAX_LAYERS)
  num_heads: int = count(12)
  cond_size: int = count(128)
  mlp_ratio: int = count(4)
  gap_head: str | None = setting("log_rate", among=gaps.GAP_HEADS)
  causal: bool = setting(False)
  time_scale: float = setting(1000.0, above=0, most=1e6)
  dtype: Any = jnp.float32
  remat: str = setting("elementwise", among=REMAT)
  attention: str | None = setting(None, among=ATTENTIONS)
  neighbours: str | None = setting(None, among=NEIGHBOURS)
  unroll: int = setting(1, least=1, most=MAX_LAYERS)

  def __post_init__(self):
    super().__post_init__()
    require(self, "model")
    if self.causal and self.gap_head is not None:
      raise InputError(
        f"gap_head={self.gap_head!r} needs causal=False: a causal model sees"
        " one side of a gap only. Pass gap_head=None."
      )
    require_even_heads(self.hidden_size, self.num_heads)

  @nn.compact
  def __call__(
    self,
    tokens: Int[Array, "B L"],
    length: Int[Array, " B"],
    t: Float[Array, " B"],
    features: bool = False,
  ) -> Prediction | Features:
    """Predicts tokens and gaps.

    Args:
      tokens: states; positions beyond the length are not read.
      length: number of tokens of each state.
      t: time of each state.
      features: return `Features`, before the vocabulary head's product.

    Returns:
      A float32 `Prediction`; undefined at positions beyond the length.
    """
    L = tokens.shape[-1]
    tokens = jnp.pad(tokens, ((0, 0), (0, 1)))
    index = jnp.arange(L + 1)
    tokens = jnp.where(index < length[:, None], tokens, self.vocab.pad)

    embedding = nn.Embed(
      self.vocab.size,
      self.hidden_size,
      embedding_init=nn.with_logical_partitioning(normal, ("vocab", "embed")),
      dtype=self.dtype,
      name="embed",
    )
    x = embedding(tokens)
    if self.neighbours == "input":
      mix = Neighbours(self.causal, False, self.dtype, name="neighbours")
      x = mix(x, length + 1)
    cond = TimeEmbedding(self.cond_size, self.time_scale, name="time")(t)
    cond = nn.silu(cond).astype(self.dtype)
    phases = rotary_phases(L + 1, self.hidden_size // self.num_heads)

    blocks = nn.scan(
      remat(Block, self.remat),
      variable_axes={"params": 0},
      split_rngs={"params": True},
      in_axes=nn.broadcast,
      length=self.num_layers,
      unroll=self.unroll,
      metadata_params={nn.PARTITION_NAME: "layers"},
    )(
      num_heads=self.num_heads,
      mlp_size=self.mlp_ratio * self.hidden_size,
      dtype=self.dtype,
      attention=self.attention,
      causal=self.causal,
      neighbours=self.neighbours == "blocks",
      name="blocks",
    )
    x, _ = blocks(x, cond, length + 1, phases)

    head = VocabHead(self.vocab.size, self.dtype, name="vocab_head")
    head = head(x[:, :L], cond)
    log_gaps, gap_logits, gap_law = gaps.none(x.shape[0], L + 1)
    if self.gap_head is not None:
      log_gaps, gap_logits, gap_law = GapHead(
        self.gap_head, self.max_length, self.dtype, name="gap_head"
      )(x, cond)
    predicted = Features(*head, log_gaps, gap_logits, gap_law=gap_law)
    return predicted if features else predicted.prediction()


class TimeEmbedding(nn.Module):
  """Sinusoidal features of `scale * t` through a two-layer network."""

  cond_size: int
  scale: float

  @nn.compact
  def __call__(self, t: Float[Array, " B"]) -> Float[Array, "B cond"]:
    x = time_features(t, self.scale, _TIME_FEATURES)
    x = nn.silu(dense(self.cond_size, (None, "cond"), "in", jnp.float32)(x))
    return dense(self.cond_size, ("cond", None), "out", jnp.float32)(x)


class Block(nn.Module):
  """Block of attention and feed-forward layers, modulated by the time.

  Each computes `x + gate * f(modulate(norm(x)))`. The modulation is zero at
  first, so that a new block is the identity.
  """

  num_heads: int
  mlp_size: int
  dtype: Any
  attention: str | None
  causal: bool
  neighbours: bool

  @nn.compact
  def __call__(self, x, cond, seq_length, phases):
    size = x.shape[-1]
    modulation = _modulation(cond, 6, size, self.dtype)
    shift_1, scale_1, gate_1, shift_2, scale_2, gate_2 = modulation

    y = layer_norm("norm_1", x) * (1 + scale_1) + shift_1
    if self.neighbours:
      mix = Neighbours(self.causal, True, self.dtype, name="neighbours")
      y = mix(y, seq_length)
    qkv = nn.DenseGeneral(
      (3, self.num_heads, size // self.num_heads),
      use_bias=False,
      dtype=self.dtype,
      kernel_init=nn.with_logical_partitioning(
        lecun, ("embed", None, "heads", "head_dim")
      ),
      name="qkv",
    )(y)
    q, k, v = jnp.moveaxis(qkv, -3, 0)
    y = attend(
      rotate(q, phases),
      rotate(k, phases),
      v,
      seq_length,
      causal=self.causal,
      implementation=self.attention,
    )
    y = nn.DenseGeneral(
      size,
      axis=(-2, -1),
      use_bias=False,
      dtype=self.dtype,
      kernel_init=nn.with_logical_partitioning(
        lecun, ("heads", "head_dim", "embed")
      ),
      name="attention_out",
    )(y)
    x = x + gate_1 * y

    y = layer_norm("norm_2", x) * (1 + scale_2) + shift_2
    y = dense(self.mlp_size, ("embed", "mlp"), "mlp_in", self.dtype)(y)
    y = nn.gelu(y, approximate=True)
    y = dense(size, ("mlp", "embed"), "mlp_out", self.dtype)(y)
    return x + gate_2 * y, None


class VocabHead(nn.Module):
  """Vocabulary head, up to its product; zero at first, the uniform law.

  Returns:
    (hidden [B, L, D], matrix [D, V], bias [V]): see `Features`.
  """

  vocab_size: int
  dtype: Any

  @nn.compact
  def __call__(self, x, cond):
    shift, scale = _modulation(cond, 2, x.shape[-1], self.dtype)
    x = layer_norm("norm", x) * (1 + scale) + shift
    return x, *Unembed(self.vocab_size, self.dtype, name="out")(x.shape[-1])


class Unembed(nn.Module):
  """Matrix, of the type `dtype`, and bias of a vocabulary head."""

  vocab_size: int
  dtype: Any

  @nn.compact
  def __call__(self, size):
    kernel = self.param(
      "kernel",
      nn.with_logical_partitioning(zeros, ("embed", "vocab")),
      (size, self.vocab_size),
    )
    bias = self.param(
      "bias",
      nn.with_logical_partitioning(zeros, ("vocab",)),
      (self.vocab_size,),
    )
    return kernel.astype(self.dtype), bias


class GapHead(nn.Module):
  """Gap head of the kind `gap_head`; see `layers.predict_gaps`."""

  gap_head: str
  max_length: int
  dtype: Any

  @nn.compact
  def __call__(self, x, cond):
    size = x.shape[-1]
    shift, scale = _modulation(cond, 2, size, self.dtype)
    x = layer_norm("norm", x) * (1 + scale) + shift
    x = dense(size, ("embed", "mlp"), "in", self.dtype)(x)
    return predict_gaps(x, self.gap_head, self.max_length)


def _modulation(cond, parts, size, dtype):
  """Makes `parts` adaLN vectors [B, 1, size] of `cond`, zero at first."""
  axes = ("cond", "embed")
  linear = dense(parts * size, axes, "modulation", dtype, init=zeros)
  return jnp.split(linear(cond)[:, None], parts, axis=-1)
