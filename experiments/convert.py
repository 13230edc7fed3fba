"""Converts pretrained weights from Hugging Face to Orbax, and back.

  python -m experiments.convert --input=HF_FOLDER --output=DIR \
    [--retrofit=FILE.safetensors] [--check=FILE.safetensors]
  python -m experiments.convert --reverse --input=DIR --output=HF_FOLDER

The folder says what it is: LLaDA, Dream, or by its extras the public FlexMDM.
Tensors pass one at a time, so it needs little memory. Nothing in a folder is
executed: pickled extras are read without running what they say, and come back
as safetensors. `--check` then runs the network, in float32 on all devices that
are here, on a file's `input_ids` (and times `t`) and compares its `logits`, as
the public code computed them.
"""

from absl import flags

from experiments.common import cli
from flexmdm_jax.errors import InputError
from flexmdm_jax.pretrained import checkpoint, comparison

_INPUT = flags.DEFINE_string("input", None, "Folder to read.")
_OUTPUT = flags.DEFINE_string("output", None, "Folder to make.")
_REVERSE = flags.DEFINE_bool(
  "reverse", False, "Convert from Orbax to Hugging Face."
)
_RETROFIT = flags.DEFINE_string(
  "retrofit",
  None,
  "Safetensors file of the tensors that a public retrofit adds.",
)
_CHECK = flags.DEFINE_string(
  "check", None, "Safetensors file of input_ids and the logits to expect."
)
_TOLERANCE = flags.DEFINE_float(
  "tolerance",
  1e-3,
  "Largest difference that --check allows, over the largest logit.",
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
  # Read before the conversion, which takes minutes.
  expected = comparison.read_expected(_CHECK.value) if _CHECK.value else None
  model = checkpoint.from_hf(_INPUT.value, _OUTPUT.value, _RETROFIT.value)
  print(
    f"wrote {_OUTPUT.value}: {model.num_layers} layers of"
    f" {model.hidden_size}, {model.vocab.size} ids"
  )
  if expected is None:
    return
  found = comparison.compare_logits(_OUTPUT.value, expected)
  print(
    f"largest difference of {expected.logits.size} logits: {found.largest:.3g}"
  )
  print(f"largest logit: {found.largest_logit:.3g}")
  if not found.largest <= _TOLERANCE.value * found.largest_logit:
    raise InputError(
      f"the logits differ by {found.largest:.3g}, more than --tolerance="
      f"{_TOLERANCE.value} of the largest, {found.largest_logit:.3g}: the"
      f" weights are not those of {_CHECK.value}."
    )


if __name__ == "__main__":
  cli.run(main)
