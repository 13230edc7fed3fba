"""Exports a trained model as a folder that needs nothing beside it.

  python -m experiments.export --workdir=DIR --output=FOLDER \
    [--evaluations=likelihood.json,lengths.json] [--dtype=bfloat16] \
    [--quantize=int8]

The folder holds safetensors, the tokenizer and a card, and no code: it loads
with `fm.load(FOLDER)`, or with --workdir=FOLDER in `experiments.sample`.
Without --dtype and --quantize its samples are the same to the bit. The model
may be a run's work directory, a converted or public FlexMDM's folder, or an
exported one.
"""

from absl import flags

from experiments.common import cli
from flexmdm_jax.loading import load
from flexmdm_jax.reading import read_json

_WORKDIR = flags.DEFINE_string(
  "workdir", None, "Directory of the run, or folder of the model."
)
_OUTPUT = flags.DEFINE_string("output", None, "Folder to make.")
_DTYPE = flags.DEFINE_enum(
  "dtype",
  None,
  ["float32", "bfloat16"],
  "Type of the parameters; by default, that which they have.",
)
_QUANTIZE = flags.DEFINE_enum(
  "quantize",
  None,
  ["int8"],
  "Scheme for the kernels of a Transformer's blocks.",
)
_EVALUATIONS = flags.DEFINE_list(
  "evaluations",
  [],
  "JSON files that experiments.evaluate wrote of the model, for its card.",
)
_FILE_GB = cli.count("file_gb", 5, "Largest file of weights, in 10^9 bytes.")
flags.mark_flags_as_required(["workdir", "output"])


def main(_):
  evaluations = [read_json(path) for path in _EVALUATIONS.value]
  model = load(_WORKDIR.value, quantize=_QUANTIZE.value)
  model.export(
    _OUTPUT.value,
    dtype=_DTYPE.value,
    evaluations=evaluations,
    max_bytes=_FILE_GB.value * 10**9,
  )
  print(
    f'wrote {_OUTPUT.value}: python -c "import flexmdm_jax as fm;'
    f" print(fm.load('{_OUTPUT.value}').generate())\""
  )


if __name__ == "__main__":
  cli.run(main)
