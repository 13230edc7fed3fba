"""Picks the best path and sampler of a trained model, by network calls.

  python -m experiments.tune_sampler --workdir=DIR --out=FILE.json \
    [--paths=trained --paths=power:4,power:1] [--steps=8,16,32] \
    [--methods=events,tau_leaping+grid=events+finish=4] [--scorer=gpt2-large]

Bounds held-out data on each path and samples with every method, by the measure
of `flexmdm_jax.evaluation.sampler_choice`. Prints a table, and the winner at
each number of calls as flags of a config.
"""

import jax
from absl import flags

from experiments.common import cli, scorers
from experiments.common.samplers import config_flags, parse_samplers
from flexmdm_jax import files
from flexmdm_jax.evaluation.sampler_choice import SamplerChoice, best
from flexmdm_jax.evaluation.samples import held_out
from flexmdm_jax.runs import Run

_WORKDIR = flags.DEFINE_string("workdir", None, "Directory of the run.")
_OUT = flags.DEFINE_string("out", None, "JSON file to write.")
_PATHS = flags.DEFINE_multi_string(
  "paths",
  ["trained", "lengths_first", "power:4,power:1"],
  "Path to try, as experiments.sample takes it; may be given again.",
)
_METHODS = flags.DEFINE_list(
  "methods",
  ["events", "events+confidence=margin", "midpoint", "tau_leaping", "adaptive"],
  "Samplers to try: methods, and fields of SamplerConfig joined by +.",
)
_STEPS = flags.DEFINE_list("steps", ["8", "16", "32"], "Network calls.")
_NUM = cli.count("num", 500, "Held-out records, and samples.", least=2)
_NUM_TIMES = cli.count("num_times", 64, "Network calls a bound.", least=32)
_SPLIT = flags.DEFINE_string(
  "split", "validation", "Split of the data, as experiments.evaluate takes it."
)
_BATCH = cli.count("batch_size", 64, "Rows at once.")
_SEED = cli.seed("Seed of all that is random.")
flags.mark_flags_as_required(["workdir", "out"])
flags.adopt_module_key_flags(scorers)


def main(_):
  files.require_writable(_OUT.value)
  samplers = parse_samplers("methods", _METHODS.value)
  steps = cli.parse_ints("steps", _STEPS.value)
  choice = SamplerChoice(
    tuple(_PATHS.value),
    samplers,
    tuple(steps),
    scorer=scorers.load(),
    num_times=_NUM_TIMES.value,
    batch_size=_BATCH.value,
  )
  run = Run.from_workdir(_WORKDIR.value)
  records = held_out(run, _NUM.value, _SPLIT.value)
  step, denoiser = run.restore(_WORKDIR.value)
  given = run, denoiser, records, jax.random.key(_SEED.value)
  bounds = choice.bounds(*given)
  for path, bound in bounds.items():
    print(f"{path}: {bound['nats']:.2f} ± {bound['stderr']:.2f} nats")
  print("calls     error  path, sampler")
  trials = []
  for x in choice.trials(*given):
    trials.append(x)
    print(f"{x.calls:5}  {x.error:8.4f}  {x.path}, {x.sampler}", flush=True)
  winners = {n: config_flags(x, samplers) for n, x in best(trials).items()}
  for calls, line in winners.items():
    print(f"best at {calls} calls: {line}")
  result = {
    "num": len(records),
    "split": _SPLIT.value,
    "bounds": bounds,
    "trials": [x.summary() for x in trials],
    "best": winners,
    "train_steps": step,
    "config": run.config,
    "versions": files.versions(),
  }
  files.write_json(_OUT.value, result)


if __name__ == "__main__":
  cli.run(main)
