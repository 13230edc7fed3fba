"""The pretrained bidirectional Transformer, alone or as a FlexMDM.

Alone it is a fixed-length MDM's denoiser. The retrofit adds what a FlexMDM
needs: a modulation of each block by the time, and a head for the gaps. The
pretrained weights are trained on, or stay and are updated at low rank (`lora`).

Outputs for L + 1 gaps need L + 1 positions. One pad position follows the
tokens; or, in a family whose outputs predict the *next* token, one position
precedes them; or sequences themselves begin with a token before which nothing
is ever missing (`shifted`). The package `pretrained` has each family's
settings.

Logical axes of the parameters, which `training.sharding.Rules` maps to a mesh:
`vocab`, `embed`, `heads`, `kv_heads`, `head_dim`, `mlp`, `layers`, `groups`
(of blocks that share a modulation), `lora_rank`.

Source: Nie et al., LLaDA (arXiv 2502.09992) for the network; arXiv 2509.01025,
appendix on LLaDA, for the retrofit.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from flexmdm_jax import mesh
from flexmdm_jax.errors import InputError
from flexmdm_jax.models import gaps
from flexmdm_jax.models import lora as lora_lib
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
  RMSNorm,
  layer_norm,
  lecun,
  predict_gaps,
  remat,
  time_features,
  zeros,
)
from flexmdm_jax.models.lora import SCHEMES, Linear, LoRA
from flexmdm_jax.prediction import Features, Prediction
from flexmdm_jax.schema import count, require, setting
from flexmdm_jax.vocab import Vocab

# What a retrofit adds to a pretrained network, by the first name of its paths.
ADDED = ("time", "modulation", "gap_head")
# Heads that can be without an output for a gap in which nothing is missing.
_SHIFTED_HEADS = (None, "log_rate", "softplus")


class Transformer(nn.Module):
  """Transformer denoiser `(tokens, length, t) -> Prediction`.

  Attributes:
    vocab: the id space.
    max_length: the longest sequence, L.
    hidden_size: width of the residual stream.
    num_layers: number of blocks.
    num_heads: attention heads; divides hidden_size, with an even quotient.
    num_kv_heads: number of heads of keys and values; divides num_heads.
    mlp_size: width of the gated feed-forward layer.
    rotary_base: base of the rotary embedding's frequencies.
    norm_epsilon: number that the RMS norms add to the mean square.
    qkv_bias: queries, keys and values have biases.
    tied: the vocabulary head is the embedding's transpose.
    begin: id that precedes every sequence, in a family whose outputs predict
      the next token; sequences do not hold it. None: outputs predict the token
      at their own position.
    shifted: outputs predict the next token and the gap before it, of sequences
      that begin with a token of their own, such as a prompt's. No position is
      added; the first token's logits are its own position's, and nothing is
      ever missing before it: its `log_gaps` are -inf.
    mask_padding: positions beyond a sequence and the one pad position that is
      added take no part in attention. False is the public code's: a row then
      depends on how much padding follows it.
    gap_head: kind of the gap head, see `DiT`; "binned" and
      "negative_binomial" are the laws for long sequences. None for a
      fixed-length MDM.
    gap_scale: factor of a softplus; None for max_length.
    time_group: number of blocks that share a modulation by the time; None for
      a network that is not told the time.
    time_scale: factor of t before the sinusoidal features. 1 is the public
      code's.
    lora: low-rank updates; None for no update.
    dtype: type of the computation; outputs are float32.
    param_dtype: type of the pretrained weights; the retrofit's are float32.
    remat: part of a block that the backward pass recomputes, see
      `models.layers.remat`.
    attention: implementation of attention, see `models.attention.attend`.
    quantize: "int8" for blocks whose kernels are integers, with a scale for
      each output, see `models.quantization`; training leaves them as they are.
      None for kernels of `param_dtype`.
  """

  vocab: Vocab
  max_length: int = count()
  hidden_size: int = count()
  num_layers: int = setting(least=1, most=MAX_LAYERS)
  num_heads: int = count()
  num_kv_heads: int = count()
  mlp_size: int = count()
  rotary_base: float = setting(500_000.0, above=1)
  norm_epsilon: float = setting(1e-5, above=0, below=1)
  qkv_bias: bool = setting(False)
  tied: bool = setting(False)
  begin: int | None = count(None, least=0)
  shifted: bool = setting(False)
  mask_padding: bool = setting(True)
  gap_head: str | None = setting(None, among=gaps.GAP_HEADS)
  gap_scale: float | None = setting(None, above=0)
  time_group: int | None = count(None)
  time_scale: float = setting(1000.0, above=0, most=1e6)
  lora: LoRA | None = None
  dtype: Any = jnp.float32
  param_dtype: Any = jnp.float32
  remat: str = setting("none", among=REMAT)
  attention: str | None = setting(None, among=ATTENTIONS)
  quantize: str | None = setting(None, among=SCHEMES)

  def __post_init__(self):
    super().__post_init__()
    require(self, "model")
    require_even_heads(self.hidden_size, self.num_heads)
    if self.num_heads % self.num_kv_heads:
      raise InputError(
        f"num_kv_heads={self.num_kv_heads} must divide"
        f" num_heads={self.num_heads}."
      )
    if self.begin is not None and self.begin >= self.vocab.size:
      raise InputError(
        f"begin={self.begin} must be an id below {self.vocab.size}."
      )
    if self.shifted and self.begin is not None:
      raise InputError(
        f"begin={self.begin} precedes sequences, which shifted=True says begin"
        " with a token of their own: choose one of the two."
      )
    if self.shifted and self.gap_head not in _SHIFTED_HEADS:
      raise InputError(
        f"gap_head={self.gap_head!r} has no law of a gap that is never open,"
        " as shifted=True needs: choose one of log_rate, softplus."
      )

  def trainable(self, path: tuple[str, ...]) -> bool:
    """Returns whether training changes the parameter at `path`.

    With `lora` it changes A and B, and what the retrofit adds unless
    `lora.added` is False; else everything.
    """
    if self.lora is None:
      return True
    added = self.lora.added and path[0] in ADDED
    return added or path[-1] in ("lora_a", "lora_b")

  @nn.compact
  def __call__(
    self,
    tokens: Int[Array, "B L"],
    length: Int[Array, " B"],
    t: Float[Array, " B"],
    features: bool = False,
  ) -> Prediction | Features:
    """Predicts tokens and gaps.

    With `rngs={"dropout": key}` the low-rank updates' inputs are dropped out;
    without, nothing is.

    Args:
      tokens: states; positions beyond the length are not read.
      length: number of tokens of each state.
      t: time of each state; not read where `time_group` is None.
      features: return `Features`, before the vocabulary head's product.

    Returns:
      A float32 `Prediction`; undefined at positions beyond the length.
    """
    L = tokens.shape[-1]
    tokens = jnp.where(jnp.arange(L) < length[:, None], tokens, self.vocab.pad)
    if self.begin is not None:
      tokens = jnp.pad(tokens, ((0, 0), (1, 0)), constant_values=self.begin)
    elif self.gap_head is not None and not self.shifted:
      tokens = jnp.pad(tokens, ((0, 0), (0, 1)), constant_values=self.vocab.pad)
    positions = tokens.shape[-1]
    seq_length = length + (positions - L) if self.mask_padding else None

    # From random values, tokens are as large as what blocks add to them: with
    # small ones a narrow network does not find out for long how to copy.
    scale = self.hidden_size**-0.5 if self.tied else 1.0
    embedding = self.param(
      "embed",
      nn.with_logical_partitioning(
        nn.initializers.normal(scale), ("vocab", "embed")
      ),
      (self.vocab.size, self.hidden_size),
      self.param_dtype,
    ).astype(self.dtype)
    x = mesh.split_rows(embedding[tokens])
    x = self._blocks(x, seq_length, self._modulations(t))
    x = RMSNorm(self.norm_epsilon, self.param_dtype, name="norm")(x)

    hidden = x[:, :L]
    if self.shifted:
      hidden = jnp.concatenate([x[:, :1], x[:, :-1]], axis=1)
    matrix, adapter = self._unembed(hidden, embedding)
    log_gaps, gap_logits, gap_law = gaps.none(x.shape[0], L + 1)
    if self.gap_head is not None:
      log_gaps, gap_logits, gap_law = GapHead(
        self.gap_head,
        self.max_length,
        self.gap_scale,
        self.dtype,
        name="gap_head",
      )(x)
      if self.shifted:
        before = ((0, 0), (1, 0))
        log_gaps = jnp.pad(log_gaps, before, constant_values=-jnp.inf)
    predicted = Features(
      hidden, matrix, None, log_gaps, gap_logits, adapter, gap_law
    )
    return predicted if features else predicted.prediction()

  def _modulations(self, t):
    """Returns the groups' (scale, shift), [G, B, 2, D], or None."""
    if self.time_group is None:
      return None
    cond = TimeEmbedding(self.hidden_size, self.time_scale, name="time")(t)
    num_groups = -(-self.num_layers // self.time_group)
    return Modulation(num_groups, name="modulation")(cond)

  def _blocks(self, x, seq_length, modulations):
    head_dim = self.hidden_size // self.num_heads
    phases = rotary_phases(x.shape[1], head_dim, self.rotary_base)
    blocks = nn.scan(
      remat(Block, self.remat),
      variable_axes={"params": 0},
      split_rngs={"params": True, "dropout": True},
      in_axes=(0, nn.broadcast, nn.broadcast, nn.broadcast),
      length=self.num_layers,
      metadata_params={nn.PARTITION_NAME: "layers"},
    )(
      num_heads=self.num_heads,
      num_kv_heads=self.num_kv_heads,
      mlp_size=self.mlp_size,
      norm_epsilon=self.norm_epsilon,
      qkv_bias=self.qkv_bias,
      lora=self.lora,
      dtype=self.dtype,
      param_dtype=self.param_dtype,
      attention=self.attention,
      quantize=self.quantize,
      name="blocks",
    )
    group = jnp.arange(self.num_layers) // (self.time_group or 1)
    x, _ = blocks(x, group, seq_length, phases, modulations)
    return x

  def _unembed(self, x, embedding):
    """Returns the vocabulary head's matrix, and its update or None."""
    if self.tied:
      matrix = embedding.T
      if not _targets(self.lora, "head"):
        return matrix, None
    head = Unembed(
      (self.vocab.size,),
      ("embed", "vocab"),
      lora=_targets(self.lora, "head"),
      dtype=self.dtype,
      param_dtype=self.param_dtype,
      tied=self.tied,
      name="head",
    )
    own, adapter = head(x)
    return (matrix if self.tied else own), adapter


class Block(nn.Module):
  """Block: `x + attention(norm(x))`, then `x + feed_forward(norm(x))`."""

  num_heads: int
  num_kv_heads: int
  mlp_size: int
  norm_epsilon: float
  qkv_bias: bool
  lora: LoRA | None
  dtype: Any
  param_dtype: Any
  attention: str | None
  quantize: str | None

  @nn.compact
  def __call__(self, x, group, seq_length, phases, modulations):
    size = x.shape[-1]
    head_dim = size // self.num_heads

    def linear(name, features, axes, bias=False):
      return Linear(
        features,
        axes,
        bias=bias,
        lora=_targets(self.lora, name),
        dtype=self.dtype,
        param_dtype=self.param_dtype,
        quantize=self.quantize,
        name=name,
      )

    def norm(name, x):
      x = RMSNorm(self.norm_epsilon, self.param_dtype, name=name)(x)
      if modulations is None:
        return x
      scale, shift = jnp.split(modulations[group].astype(x.dtype), 2, axis=1)
      return x * (1 + scale) + shift

    def heads(name, number, axis, y):
      axes = ("embed", axis, "head_dim")
      return linear(name, (number, head_dim), axes, self.qkv_bias)(y)

    y = norm("attention_norm", x)
    y = attend(
      rotate(heads("q", self.num_heads, "heads", y), phases),
      rotate(heads("k", self.num_kv_heads, "kv_heads", y), phases),
      heads("v", self.num_kv_heads, "kv_heads", y),
      seq_length,
      implementation=self.attention,
    )
    x = x + linear("attention_out", (size,), ("heads", "head_dim", "embed"))(y)

    y = norm("mlp_norm", x)
    gate = linear("gate", (self.mlp_size,), ("embed", "mlp"))(y)
    value = linear("up", (self.mlp_size,), ("embed", "mlp"))(y)
    y = linear("down", (size,), ("mlp", "embed"))(nn.silu(gate) * value)
    return mesh.split_rows(x + y), None


class Unembed(nn.Module):
  """Matrix of a vocabulary head, and its update; fields as in `Linear`."""

  features: tuple[int, ...]
  axes: tuple[str, ...]
  lora: LoRA | None
  dtype: Any
  param_dtype: Any
  tied: bool

  @nn.compact
  def __call__(self, x):
    kernel = None
    if not self.tied:
      kernel = self.param(
        "kernel",
        nn.with_logical_partitioning(lecun, self.axes),
        (x.shape[-1], *self.features),
        self.param_dtype,
      ).astype(self.dtype)
    return kernel, lora_lib.update(self, x, 1) if self.lora else None


class TimeEmbedding(nn.Module):
  """Sinusoidal features of `scale * t` through a two-layer network."""

  size: int
  scale: float

  @nn.compact
  def __call__(self, t: Float[Array, " B"]) -> Float[Array, "B D"]:
    x = time_features(t, self.scale, self.size)
    x = Linear((4 * self.size,), ("embed", "mlp"), bias=True, name="in")(x)
    x = nn.silu(x)
    return Linear((self.size,), ("mlp", "embed"), bias=True, name="out")(x)


class Modulation(nn.Module):
  """Modulation (scale, shift) of each group of blocks; zero at first."""

  num_groups: int

  @nn.compact
  def __call__(self, cond: Float[Array, "B D"]) -> Float[Array, "G B 2 D"]:
    size = cond.shape[-1]
    kernel = self.param(
      "kernel",
      nn.with_logical_partitioning(zeros, ("groups", "embed", None, None)),
      (self.num_groups, size, 2, size),
    )
    bias = self.param(
      "bias",
      nn.with_logical_partitioning(zeros, ("groups", None, "embed")),
      (self.num_groups, 2, size),
    )
    return jnp.einsum("bd,gdpe->gbpe", cond, kernel) + bias[:, None]


class GapHead(nn.Module):
  """Gap head of the kind `gap_head`; see `layers.predict_gaps`."""

  gap_head: str
  max_length: int
  scale: float | None
  dtype: Any

  @nn.compact
  def __call__(self, x):
    x = layer_norm("norm", x, use_bias=True)
    x = Linear(
      x.shape[-1:], ("embed", "mlp"), bias=True, dtype=self.dtype, name="in"
    )(x)
    return predict_gaps(x, self.gap_head, self.max_length, self.scale)


def merge_lora(model: Transformer, params: dict) -> tuple[Transformer, dict]:
  """Adds a network's low-rank updates to its weights.

  The outputs stay, up to the rounding of the weights to their own type.

  Args:
    model: a `Transformer`; one without `lora` comes back unchanged.
    params: the model's parameters.

  Returns:
    (model without `lora`, its parameters).

  Raises:
    InputError: an updated kernel is quantised.
  """
  if model.lora is None:
    return model, params
  params, tied = dict(params), model.tied
  if tied and "head" in params:
    # The updated head is no transpose of the embedding any more.
    params["head"] = {**params["head"], "kernel": params["embed"].T}
    tied = False
  merged = lora_lib.merge(params, model.lora)
  return model.clone(lora=None, tied=tied), merged


def _targets(lora: LoRA | None, name: str) -> LoRA | None:
  """Returns the update of the layer `name`, or None."""
  return lora if lora is not None and name in lora.targets else None
