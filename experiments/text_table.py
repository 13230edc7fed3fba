"""Trains and scores all methods on one text, as tables and curves.

  python -m experiments.text_table --config=experiments/configs/wordnet.py \
    --out=build/text --config.data.train=... [--scorer=NAME_OR_FOLDER]

The config is that of `experiments.train`, of which the method is set here.
Runs that are done are not trained again, so the command goes on where it was
stopped. Writes NAME.json, NAME.md and NAME.png (the tight bound at each
checkpoint that was kept) to --out, where NAME is the config's. Without
--scorer, samples are scored by the autoregressive run.
"""

import pathlib

from absl import flags

from experiments.common import cli
from flexmdm_jax import files
from flexmdm_jax.errors import InputError
from flexmdm_jax.evaluation import text_table
from flexmdm_jax.evaluation.run_scorer import load_scorer
from flexmdm_jax.evaluation.text_methods import Measurements

_CONFIG = cli.config("File of the experiment's config.")
_OUT = flags.DEFINE_string("out", None, "Directory to write.")
_SCORER = flags.DEFINE_string(
  "scorer", None, "Scorer of samples, as experiments.evaluate takes it."
)
_BEGIN = flags.DEFINE_string(
  "scorer_begin", None, "Text that the scorer reads before each sample."
)
_NUM = cli.count("num", 500, "Held-out texts, and samples.", least=2)
_NUM_TIMES = cli.count("num_times", 128, "Network calls a bound.", least=32)
_CURVE_NUM = cli.count(
  "curve_num", 100, "Held-out texts at each checkpoint of the curves.", least=2
)
_STEPS = flags.DEFINE_list(
  "sampling_steps", ["16", "32", "64", "128", "256"], "Network calls a sample."
)
_PATHS = flags.DEFINE_multi_string(
  "path",
  ["lengths_first", "trained"],
  "Paths on which the FlexMDM is sampled and bounded; curves are of the first.",
)
_OVERWRITE = flags.DEFINE_bool(
  "overwrite", False, "Move runs with another config aside."
)
_BATCH = cli.count("batch_size", 250, "Rows at once.")
flags.mark_flags_as_required(["config", "out"])


def main(_):
  name = pathlib.Path(flags.FLAGS["config"].config_filename).stem
  out = pathlib.Path(_OUT.value)
  files.require_writable(out / f"{name}.json")
  steps = cli.parse_ints("sampling_steps", _STEPS.value)
  if _BEGIN.value is not None and _SCORER.value is None:
    raise InputError(f"--scorer_begin={_BEGIN.value!r} needs a --scorer.")
  scorer = None
  if _SCORER.value is not None:
    scorer = load_scorer(_SCORER.value, begin=_BEGIN.value)
  for results in text_table.make_tables(
    _CONFIG.value.copy_and_resolve_references().to_dict(),
    name,
    out,
    Measurements(
      tuple(_PATHS.value), tuple(steps), _NUM_TIMES.value, _BATCH.value
    ),
    num=_NUM.value,
    curve_num=_CURVE_NUM.value,
    scorer=scorer,
    overwrite=_OVERWRITE.value,
  ):
    print(f"{name}, {results['rows'][-1]['method']}: done", flush=True)
    # After each run: what is done is never lost.
    text_table.write(out, name, results)


if __name__ == "__main__":
  cli.run(main, trains=True)
