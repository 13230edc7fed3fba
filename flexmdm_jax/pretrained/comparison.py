"""Comparison of a converted network's logits with the public code's."""

import pathlib
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from flexmdm_jax.errors import InputError
from flexmdm_jax.pretrained import checkpoint
from flexmdm_jax.pretrained.folder import Tensors


class Expected(NamedTuple):
  """Inputs of a network, and the logits that the public code computed.

  Attributes:
    path: the file that holds them.
    tokens: rows of full length.
    t: time of each row.
    logits: logits of each position.
  """

  path: str | pathlib.Path
  tokens: Int[np.ndarray, "B L"]
  t: Float[np.ndarray, " B"]
  logits: Float[np.ndarray, "B L V"]


class Difference(NamedTuple):
  """Largest absolute difference of logits, and the largest expected logit."""

  largest: float
  largest_logit: float


def read_expected(path: str | pathlib.Path) -> Expected:
  """Reads a safetensors file of `input_ids`, `logits` and, if need be, `t`.

  Raises:
    InputError: the file cannot be read, or lacks one of the first two.
  """
  stored = Tensors([path])
  if not {"input_ids", "logits"} <= set(stored):
    raise InputError(
      f"{path} must hold input_ids and logits; it holds {sorted(stored)}."
    )
  tokens = stored["input_ids"].astype(np.int32)
  t = stored["t"] if "t" in stored else np.zeros(len(tokens))
  return Expected(path, tokens, t.astype(np.float32), stored["logits"])


def compare_logits(
  folder: str | pathlib.Path, expected: Expected
) -> Difference:
  """Runs a converted network in float32, on all devices, and compares.

  Args:
    folder: a folder that `checkpoint.from_hf` made.
    expected: inputs and logits of the public code, which masks no padding.

  Raises:
    InputError: the shapes do not fit the network.
  """
  model = checkpoint.load_model(folder, mask_padding=False, dtype=jnp.float32)
  params = checkpoint.load(folder, checkpoint.spread(model))
  path, tokens, t, logits = expected
  if logits.shape != (*tokens.shape, model.vocab.size):
    raise InputError(
      f"{path} has input_ids of the shape {list(tokens.shape)} and logits of"
      f" {list(logits.shape)}; the network has {model.vocab.size} ids."
    )
  B, L = tokens.shape
  prediction = jax.jit(model.apply)(
    {"params": params}, tokens, np.full(B, L, np.int32), t
  )
  return Difference(
    float(np.abs(prediction.token_logits - logits).max()),
    float(np.abs(logits).max()),
  )
