"""Evaluates a trained model on held-out data; prints and writes JSON.

python -m experiments.evaluate --workdir=DIR --task=maze --out=FILE.json
"""

import dataclasses
import json
import time

from absl import flags

from experiments import cli
from flexmdm_jax.evaluation import output
from flexmdm_jax.evaluation.tasks import TASKS, evaluate
from flexmdm_jax.experiment import Experiment

_WORKDIR = flags.DEFINE_string("workdir", None, "Directory of the run.")
_TASK = flags.DEFINE_string("task", None, f"One of {', '.join(TASKS)}.")
_OUT = flags.DEFINE_string("out", None, "JSON file to write.")
_NUM = flags.DEFINE_integer("num", 1000, "Held-out records, or samples.")
_STEPS = flags.DEFINE_integer("steps", None, "Sampling steps; else as trained.")
_NUM_TIMES = flags.DEFINE_integer("num_times", 128, "Calls for a likelihood.")
_BATCH = flags.DEFINE_integer("batch_size", 256, "Rows at once.")
_SEED = flags.DEFINE_integer("seed", 0, "Of the sampling.")
flags.mark_flags_as_required(["workdir", "task", "out"])


def main(_):
  output.require_writable(_OUT.value)
  experiment = Experiment.from_workdir(_WORKDIR.value)
  if _STEPS.value is not None:
    sampler = dataclasses.replace(experiment.sampler, steps=_STEPS.value)
    experiment = dataclasses.replace(experiment, sampler=sampler)
  step, denoiser = experiment.restore(_WORKDIR.value)
  begin = time.perf_counter()
  result = evaluate(
    _TASK.value,
    experiment,
    denoiser,
    num=_NUM.value,
    seed=_SEED.value,
    batch_size=_BATCH.value,
    num_times=_NUM_TIMES.value,
  )
  result = {
    "task": _TASK.value,
    **result,
    "seconds": time.perf_counter() - begin,
    "train_steps": step,
    "sampler": dataclasses.asdict(experiment.sampler),
    "config": experiment.config,
    "versions": output.versions(),
  }
  output.write_json(_OUT.value, result)
  print(json.dumps({k: v for k, v in result.items() if k != "config"}))


if __name__ == "__main__":
  cli.run(main)
