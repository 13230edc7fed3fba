"""Trains a FlexMDM and its MDM baseline on a small maze, and compares them.

  make quickstart        (python -m experiments.quickstart --out=DIR)

Both have the same trunk, data, steps and sampler. Writes report.json, plots and
trace.html to DIR; a run that was stopped goes on where it was.
"""

import pathlib

from absl import flags

from experiments.common import cli
from experiments.configs import maze_quickstart
from flexmdm_jax import files
from flexmdm_jax.evaluation.maze_methods import draw, train_and_score

_OUT = flags.DEFINE_string("out", "build/quickstart", "Directory to write.")
_OVERWRITE = flags.DEFINE_bool(
  "overwrite", False, "Move runs with another config aside."
)
_TRAIN_STEPS = cli.count(
  "train_steps", None, "Training steps; by default, the config's."
)
_NUM = cli.count("num", 400, "Held-out problems.")

METHODS = {"FlexMDM": "flexmdm", "MDM": "mdm_pinned"}
SAMPLING_STEPS = (4, 8, 16, 32, 64)


def main(_):
  out = pathlib.Path(_OUT.value)
  report_file = out / "report.json"
  files.require_writable(report_file)
  config = maze_quickstart.get_config()
  config.data.folder = str(out / "data")
  if _TRAIN_STEPS.value is not None:
    config.train.num_steps = _TRAIN_STEPS.value
    config.optimizer.warmup_steps = min(50, _TRAIN_STEPS.value // 4)
  methods = {}
  for name, method in METHODS.items():
    print(f"{name}: training {config.train.num_steps} steps", flush=True)
    methods[name] = train_and_score(
      config.to_dict(),
      method,
      out / method,
      num=_NUM.value,
      sampling_steps=SAMPLING_STEPS,
      overwrite=_OVERWRITE.value,
    )
  draw(out, methods)
  report = {
    "flexmdm": methods["FlexMDM"].summary(),
    "mdm": methods["MDM"].summary(),
    "config": config.to_dict(),
    "versions": files.versions(),
  }
  files.write_json(report_file, report)

  num = len(methods["MDM"].records)
  print(f"\n{num} held-out problems, {SAMPLING_STEPS[-1]} sampling steps")
  print("          success          length TV  length error  minutes")
  for name, trained in methods.items():
    score = trained.best
    print(
      f"{name:8} {100 * score.success:6.1f} % ±{100 * score.stderr:4.1f}"
      f"  {score.length_tv:11.3f}  {score.length_error:12.2f}"
      f"  {trained.seconds / 60:7.1f}"
    )
  print(f"\nwrote {out}/report.json and plots; open {out}/trace.html")


if __name__ == "__main__":
  cli.run(main, trains=True)
