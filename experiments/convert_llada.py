"""Hugging Face weights of LLaDA or Dream as an Orbax folder, and back.

  python -m experiments.convert_llada --input=HF_FOLDER --output=DIR \
    [--retrofit=FILE.safetensors] [--check=FILE.safetensors]
  python -m experiments.convert_llada --reverse --input=DIR --output=HF_FOLDER

Tensors pass one at a time, so it needs little memory. Nothing in a folder is
executed, and no pickle is read. `--check` then runs the network, in float32 on
all devices that are here, on a file's `input_ids` (and times `t`) and compares
its `logits`, as the public code computed them.
"""

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from experiments import cli
from flexmdm_jax.errors import InputError
from flexmdm_jax.pretrained import checkpoint, folder

_INPUT = flags.DEFINE_string("input", None, "Folder to read.")
_OUTPUT = flags.DEFINE_string("output", None, "Folder to make.")
_REVERSE = flags.DEFINE_bool("reverse", False, "From Orbax to Hugging Face.")
_RETROFIT = flags.DEFINE_string(
  "retrofit", None, "Safetensors file of what a public retrofit adds."
)
_CHECK = flags.DEFINE_string(
  "check", None, "Safetensors file of input_ids and the logits to expect."
)
_TOLERANCE = flags.DEFINE_float(
  "tolerance", 1e-3, "Of --check, over the largest logit."
)
_FILE_GB = flags.DEFINE_float(
  "file_gb", 5.0, "Largest file that --reverse writes, in 10^9 bytes."
)
flags.mark_flags_as_required(["input", "output"])


def main(_):
  if _REVERSE.value:
    if _RETROFIT.value or _CHECK.value:
      raise InputError("--reverse takes neither --retrofit nor --check.")
    if _FILE_GB.value <= 0:
      raise InputError(f"--file_gb={_FILE_GB.value} must be positive.")
    max_bytes = int(_FILE_GB.value * 1e9)
    checkpoint.to_hf(_INPUT.value, _OUTPUT.value, max_bytes)
    print(f"wrote {_OUTPUT.value}")
    return
  expected = folder.Tensors([_CHECK.value]) if _CHECK.value else None
  if expected is not None and not {"input_ids", "logits"} <= set(expected):
    raise InputError(
      f"--check={_CHECK.value} must hold input_ids and logits; it holds"
      f" {sorted(expected)}."
    )
  model = checkpoint.from_hf(_INPUT.value, _OUTPUT.value, _RETROFIT.value)
  print(
    f"wrote {_OUTPUT.value}: {model.num_layers} layers of"
    f" {model.hidden_size}, {model.vocab.size} ids"
  )
  if expected is not None:
    check(expected)


def check(expected):
  """Compares the logits of the folder that was made with those expected."""
  model = checkpoint.load_model(
    _OUTPUT.value, mask_padding=False, dtype=jnp.float32
  )
  params = checkpoint.load(_OUTPUT.value, checkpoint.spread(model))
  tokens, logits = expected["input_ids"].astype(np.int32), expected["logits"]
  if logits.shape != (*tokens.shape, model.vocab.size):
    raise InputError(
      f"--check={_CHECK.value} has input_ids of the shape"
      f" {list(tokens.shape)} and logits of {list(logits.shape)}; the network"
      f" has {model.vocab.size} ids."
    )
  B, L = tokens.shape
  t = expected["t"] if "t" in expected else np.zeros(B)
  prediction = jax.jit(model.apply)(
    {"params": params}, tokens, np.full(B, L, np.int32), t.astype(np.float32)
  )
  error = float(np.abs(prediction.token_logits - logits).max())
  largest = float(np.abs(logits).max())
  print(f"largest difference of {logits.size} logits: {error:.3g}")
  print(f"largest logit: {largest:.3g}")
  if not error <= _TOLERANCE.value * largest:
    raise InputError(
      f"the logits differ by {error:.3g}, more than --tolerance="
      f"{_TOLERANCE.value} of the largest, {largest:.3g}: the weights are not"
      f" those of {_CHECK.value}."
    )


if __name__ == "__main__":
  cli.run(main)
