"""Evaluates a trained model on held-out data; prints and writes JSON.

  python -m experiments.evaluate --workdir=DIR --task=maze --out=FILE.json
  python -m experiments.evaluate --workdir=DIR --task=generative_perplexity \
    --scorer=gpt2-large --mauve --plots=DIR --out=FILE.json

Tasks, and the flags of their options, stand in `experiments/common`.
"""

import dataclasses
import json
import time

from absl import flags

from experiments.common import cli, evaluations
from flexmdm_jax import files
from flexmdm_jax.evaluation.evaluation import evaluate
from flexmdm_jax.runs import Run

_WORKDIR = flags.DEFINE_string("workdir", None, "Directory of the run.")
_TASK = flags.DEFINE_string(
  "task", None, f"What to measure: {', '.join(evaluations.TASKS)}."
)
_OUT = flags.DEFINE_string("out", None, "JSON file to write.")
_NUM = cli.count("num", 1000, "Held-out records, or samples.")
_SPLIT = flags.DEFINE_string(
  "split",
  "test",
  "Split of the data: test or validation; test/NAME is a mixture's source.",
)
_STEPS = cli.count(
  "steps", None, "Network calls a sample; by default, the config's."
)
_PATH = flags.DEFINE_string(
  "path",
  None,
  "Path to sample and bound on: trained, lengths_first, or power:4,power:1.",
)
_BATCH = cli.count("batch_size", 64, "Rows at once.")
_SEED = cli.seed("Seed of all that is random.")
_unless_forced = cli.force()
flags.mark_flags_as_required(["workdir", "task", "out"])
flags.adopt_module_key_flags(evaluations)


def main(_):
  files.require_writable(_OUT.value)
  plots, samples = flags.FLAGS.plots, flags.FLAGS.samples
  if plots is not None:
    files.require_writable_folder(plots)
  run = Run.from_workdir(_WORKDIR.value).with_path(_PATH.value)
  if _STEPS.value is not None:
    run = run.with_sampler(steps=_STEPS.value)
  _unless_forced(lambda: run.require_memory_to_sample(_NUM.value, _BATCH.value))
  evaluation = evaluations.make_evaluation(_TASK.value)
  step = denoiser = None
  if samples is None:
    step, denoiser = run.restore(_WORKDIR.value)
  begin = time.perf_counter()
  result = evaluate(
    evaluation,
    run,
    denoiser,
    num=_NUM.value,
    split=_SPLIT.value,
    seed=_SEED.value,
    batch_size=_BATCH.value,
  )
  result = {
    "task": _TASK.value,
    **result,
    "seconds": time.perf_counter() - begin,
    "train_steps": step,
    "samples_file": samples,
    "sampler": dataclasses.asdict(run.sampler) if denoiser else None,
    "path": run.path.to_config(),
    "config": run.config,
    "versions": files.versions(),
  }
  files.write_json(_OUT.value, result)
  print(json.dumps({k: v for k, v in result.items() if k != "config"}))


if __name__ == "__main__":
  cli.run(main)
