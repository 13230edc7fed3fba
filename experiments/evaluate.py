"""Evaluates a trained model on held-out data; prints and writes JSON.

  python -m experiments.evaluate --workdir=DIR --task=maze --out=FILE.json
  python -m experiments.evaluate --workdir=DIR --task=generative_perplexity \
    --scorer=gpt2-large --mauve --plots=DIR --out=FILE.json

A scorer is a causal language model of the Hugging Face hub, its folder, or a
GGUF file (`flexmdm_jax.evaluation.scorers` says where a small one is found), or
the work directory of an autoregressive run.
"""

import dataclasses
import json
import time

from absl import flags

from experiments.common import cli
from flexmdm_jax import files
from flexmdm_jax.evaluation.run_scorer import load_scorer
from flexmdm_jax.evaluation.tasks import TASKS, evaluate
from flexmdm_jax.runs import Run

_WORKDIR = flags.DEFINE_string("workdir", None, "Directory of the run.")
_TASK = flags.DEFINE_string("task", None, f"One of {', '.join(TASKS)}.")
_OUT = flags.DEFINE_string("out", None, "JSON file to write.")
_NUM = flags.DEFINE_integer("num", 1000, "Held-out records, or samples.")
_SPLIT = flags.DEFINE_string(
  "split", "test", "Or validation; test/NAME is one source's of a mixture."
)
_STEPS = flags.DEFINE_integer("steps", None, "Sampling steps; else as trained.")
_PATH = flags.DEFINE_string(
  "path", None, "Of sampling and bound: lengths_first, or power:4,power:1."
)
_KIND = flags.DEFINE_string("kind", "tight", "Of likelihood: tight or paper.")
_NUM_TIMES = flags.DEFINE_integer("num_times", 128, "Calls for it, at most.")
_STDERR = flags.DEFINE_float(
  "stderr", 0.0, "Its error, nats, at which to stop."
)
_BATCH = flags.DEFINE_integer("batch_size", 64, "Rows at once.")
_SEED = flags.DEFINE_integer("seed", 0, "Of the sampling.")
_SAMPLES = flags.DEFINE_string(
  "samples", None, "JSONL file of experiments.sample to judge; samples nothing."
)
_PLOTS = flags.DEFINE_string("plots", None, "Directory to draw pictures in.")
_MAUVE = flags.DEFINE_bool("mauve", False, "MAUVE too, under the scorer.")
_SCORER = flags.DEFINE_string("scorer", None, "Hub name, folder or GGUF file.")
_SCORER_BATCH = flags.DEFINE_integer("scorer_batch_size", 8, "Texts at once.")
_SCORER_LENGTH = flags.DEFINE_integer(
  "scorer_max_length", None, "Tokens of a text; else 1,024 or its context."
)
_SCORER_BEGIN = flags.DEFINE_string(
  "scorer_begin", None, "Put before each text, to score its first token too."
)
_SCORER_DEVICE = flags.DEFINE_string("scorer_device", None, "cpu, cuda, ...")
flags.mark_flags_as_required(["workdir", "task", "out"])


def main(_):
  files.require_writable(_OUT.value)
  if _PLOTS.value is not None:
    files.require_writable_folder(_PLOTS.value, "plots")
  run = Run.from_workdir(_WORKDIR.value)
  run = run.with_path(_PATH.value)
  if _STEPS.value is not None:
    run = run.with_sampler(steps=_STEPS.value)
  scorer = step = denoiser = None
  if _SCORER.value is not None:
    scorer = load_scorer(
      _SCORER.value,
      device=_SCORER_DEVICE.value,
      batch_size=_SCORER_BATCH.value,
      max_length=_SCORER_LENGTH.value,
      begin=_SCORER_BEGIN.value,
    )
  if _SAMPLES.value is None:
    step, denoiser = run.restore(_WORKDIR.value)
  begin = time.perf_counter()
  result = evaluate(
    _TASK.value,
    run,
    denoiser,
    num=_NUM.value,
    split=_SPLIT.value,
    seed=_SEED.value,
    batch_size=_BATCH.value,
    kind=_KIND.value,
    num_times=_NUM_TIMES.value,
    max_stderr=_STDERR.value,
    samples=_SAMPLES.value,
    scorer=scorer,
    mauve=_MAUVE.value,
    plots=_PLOTS.value,
  )
  result = {
    "task": _TASK.value,
    **result,
    "seconds": time.perf_counter() - begin,
    "train_steps": step,
    "samples_file": _SAMPLES.value,
    "sampler": dataclasses.asdict(run.sampler) if denoiser else None,
    "path": run.path.to_config(),
    "config": run.config,
    "versions": files.versions(),
  }
  files.write_json(_OUT.value, result)
  print(json.dumps({k: v for k, v in result.items() if k != "config"}))


if __name__ == "__main__":
  cli.run(main)
