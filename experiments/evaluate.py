"""Evaluates a trained model on held-out data; prints and writes JSON.

  python -m experiments.evaluate --workdir=DIR --task=maze --out=FILE.json
  python -m experiments.evaluate --workdir=DIR --task=generative_perplexity \
    --scorer=gpt2-large --mauve --plots=DIR --out=FILE.json
  python -m experiments.evaluate --workdir=DIR --task=infill \
    --rows=HumanEval-SingleLineInfilling.jsonl.gz --out=FILE.json

The tasks gsm8k, infill and humaneval take every folder that `fm.load` takes;
the others a work directory of a run. Tasks, and the flags of their options,
stand in `experiments/common`.
"""

import json

from absl import flags

from experiments.common import cli, evaluations, problems
from flexmdm_jax import files

_TASKS = (*evaluations.TASKS, *problems.TASKS)
_WORKDIR = flags.DEFINE_string(
  "workdir", None, "Directory of the run, or folder of the model."
)
_TASK = flags.DEFINE_string(
  "task", None, f"What to measure: {', '.join(_TASKS)}."
)
_OUT = flags.DEFINE_string("out", None, "JSON file to write.")
_NUM = cli.count(
  "num", None, "Held-out records, or samples; by default 1000, of --rows all."
)
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
flags.mark_flags_as_required(["task", "out"])
flags.adopt_module_key_flags(evaluations)
flags.adopt_module_key_flags(problems)


def main(_):
  task = _TASK.value
  cli.require_known("task", [task], _TASKS)
  files.require_writable(_OUT.value)
  options = evaluations.Options(
    workdir=_WORKDIR.value,
    out=_OUT.value,
    num=_NUM.value,
    split=_SPLIT.value,
    steps=_STEPS.value,
    path=_PATH.value,
    seed=_SEED.value,
    batch_size=_BATCH.value,
    unless_forced=_unless_forced,
  )
  if task in problems.TASKS:
    result = problems.evaluate(task, options, flags.FLAGS.samples)
  else:
    problems.refuse_flags(task)
    result = evaluations.evaluate_run(task, options)
  files.write_json(_OUT.value, result)
  shown = {k: v for k, v in result.items() if k not in ("config", "settings")}
  print(json.dumps(shown))


if __name__ == "__main__":
  cli.run(main)
