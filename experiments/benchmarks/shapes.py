"""Models to time, by name."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from flexmdm_jax import schedules
from flexmdm_jax.errors import InputError
from flexmdm_jax.interpolant import JointInterpolant
from flexmdm_jax.models.denoiser import ModelDenoiser, denoiser
from flexmdm_jax.models.dit import DiT
from flexmdm_jax.models.transformer import Transformer
from flexmdm_jax.vocab import Vocab

INTERPOLANT = JointInterpolant(schedules.Power(1.7), schedules.Power(2.89))
SHAPES = ("golden", "small", "medium", "175m", "llada_8b")


def make_model(
  shape: str, max_length: int | None, batch_size: int | None
) -> tuple[DiT | Transformer, int]:
  """Makes (model, batch size) of a shape, with other sizes where given.

  Args:
    shape: "golden", the tiny model of the parity tests; "small", the
      quickstart's; "medium", six layers of 256; "175m", the paper's
      OpenWebText model; "llada_8b", the retrofitted LLaDA with its updates
      merged, 16 GB in bfloat16.
    max_length: L; None for the shape's.
    batch_size: B; None for the shape's.

  Raises:
    InputError: an unknown shape.
  """
  half = jax.default_backend() != "cpu"
  if shape == "golden":
    sizes = dict(hidden_size=64, num_layers=3, num_heads=4, cond_size=32)
    vocab, L, B = Vocab(40, 38, 39), 24, 6
  elif shape == "small":
    sizes = dict(hidden_size=96, num_layers=3, num_heads=4, cond_size=48)
    vocab, L, B = Vocab(51, 49, 50), 25, 64
  elif shape == "medium":
    sizes = dict(hidden_size=256, num_layers=6, num_heads=4)
    vocab, L, B = Vocab(1024, 1022, 1023), 256, 8
  elif shape == "175m":
    sizes = dict(dtype=jnp.bfloat16 if half else jnp.float32)
    vocab, L, B = Vocab(50_259, 50_257, 50_258), 1024, 64
  elif shape == "llada_8b":
    model = Transformer(
      vocab=Vocab(126_464, 126_336, 126_081),
      max_length=max_length or 1024,
      hidden_size=4096,
      num_layers=32,
      num_heads=32,
      num_kv_heads=32,
      mlp_size=12_288,
      gap_head="log_rate",
      time_group=8,
      dtype=jnp.bfloat16,
      param_dtype=jnp.bfloat16,
    )
    return model, batch_size or 8
  else:
    raise InputError(f"--shape={shape} must be one of {', '.join(SHAPES)}.")
  return DiT(vocab, max_length or L, **sizes), batch_size or B


def random_denoiser(model: DiT | Transformer) -> ModelDenoiser:
  """Makes a denoiser of random weights, heads and gates included."""
  tokens = jnp.zeros((1, model.max_length), jnp.int32)

  def init(key):
    variables = model.init(key, tokens, tokens[:, 0], jnp.zeros(1))
    params = nn.unbox(variables["params"])
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(key, len(leaves))
    return tree.unflatten(
      x + 0.02 * jax.random.normal(k, x.shape, x.dtype)
      for x, k in zip(leaves, keys, strict=True)
    )

  return denoiser(model, jax.jit(init)(jax.random.key(0)))
