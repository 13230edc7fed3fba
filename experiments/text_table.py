"""Trains and scores all methods on one text: README's tables.

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
from ml_collections import config_flags

from experiments.common import cli
from flexmdm_jax.errors import InputError
from flexmdm_jax.evaluation import text_comparison
from flexmdm_jax.evaluation.maze_comparison import trained
from flexmdm_jax.evaluation.run_scorer import RunScorer, load_scorer
from flexmdm_jax.evaluation.samples import held_out
from flexmdm_jax.runs import Run

_CONFIG = config_flags.DEFINE_config_file(
  "config", None, "The experiment's file.", lock_config=True
)
_OUT = flags.DEFINE_string("out", None, "Directory to write.")
_SCORER = flags.DEFINE_string("scorer", None, "Of samples; see evaluate.")
_BEGIN = flags.DEFINE_string("scorer_begin", None, "What it reads first.")
_NUM = flags.DEFINE_integer("num", 500, "Held-out texts, and samples.")
_NUM_TIMES = flags.DEFINE_integer("num_times", 128, "Calls for a bound.")
_CURVE_NUM = flags.DEFINE_integer(
  "curve_num", 100, "Held-out texts at each checkpoint of the curves."
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
_BATCH = flags.DEFINE_integer("batch_size", 250, "Rows at once.")
flags.mark_flags_as_required(["config", "out"])

# The autoregressive model first: it may be what the others are scored with.
METHODS = ("autoregressive", "mdm", "flexmdm")


def main(_):
  name = pathlib.Path(flags.FLAGS["config"].config_filename).stem
  out = pathlib.Path(_OUT.value)
  files.require_writable(out / f"{name}.json")
  steps = cli.parse_ints("sampling_steps", _STEPS.value)
  cli.require_least(
    num=(_NUM.value, 2),
    num_times=(_NUM_TIMES.value, 32),
    curve_num=(_CURVE_NUM.value, 2),
    batch_size=(_BATCH.value, 1),
    sampling_steps=(min(steps), 1),
  )
  if _BEGIN.value is not None and _SCORER.value is None:
    raise InputError(f"--scorer_begin={_BEGIN.value!r} needs a --scorer.")
  scorer = None
  if _SCORER.value is not None:
    scorer = load_scorer(_SCORER.value, begin=_BEGIN.value)
  rows, curves = [], {}
  for method in METHODS:
    config = _CONFIG.value.copy_and_resolve_references()
    config.method = method
    workdir = out / f"{name}_{method}"
    run = Run.from_config(config.to_dict())
    denoiser, losses = trained(run, workdir, overwrite=_OVERWRITE.value)
    if scorer is None and run.task.to_text([]) is not None:
      scorer = RunScorer(workdir)
    records = held_out(run, _NUM.value)
    bound = dict(max_calls=_NUM_TIMES.value, batch_size=_BATCH.value)
    curves[method] = text_comparison.likelihood_curve(
      run,
      workdir,
      held_out(run, _CURVE_NUM.value, "validation"),
      _PATHS.value[0],
      **bound,
    )
    rows.append(
      {
        **text_comparison.describe(run, losses[1][-1]),
        "curve": curves[method],
        "likelihood": text_comparison.likelihoods(
          run, denoiser, records, _PATHS.value, **bound
        ),
        "samples": text_comparison.samples_by_steps(
          run,
          denoiser,
          records,
          _PATHS.value,
          steps,
          scorer,
          _BATCH.value,
        ),
      }
    )
    print(f"{name}, {method}: done", flush=True)
    # After each run: what is done is never lost.
    files.write_json(
      out / f"{name}.json",
      {
        "rows": rows,
        "num": len(records),
        "scorer": scorer and scorer.describe(),
        "entropy": text_comparison.entropy(run, records),
        "versions": files.versions(),
      },
    )
    files.write_text(out / f"{name}.md", text_comparison.to_markdown(rows))
    text_comparison.draw_curves(out / f"{name}.png", curves)


if __name__ == "__main__":
  cli.run(main)
