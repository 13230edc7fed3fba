"""Times training steps, sampling and kernels; measures the samplers' quality.

  python -m experiments.benchmark --suite=sample --shape=175m --out=FILE.json
  python -m experiments.benchmark --suite=law --law=markov --out=FILE.json \
    --plot=FILE.png [--methods=events,tau_leaping+grid=events+finish=4] \
    [--paths=power:1.7,power:2.89 --paths=lengths_first] [--heads=law,mean]

Of what is timed everything is compiled and warm; times are medians of --repeats
runs, and what is compared is measured in turns. Shapes: "golden" is the parity
tests' tiny model, "small" the quickstart's, "175m" the paper's OpenWebText
model (on a CPU with --batch_size=1 --max_length=128), "llada_8b" the
retrofitted LLaDA.

Suite law samples laws whose exact denoiser is known, "short" or "markov", and
writes how far every sampler is from them by its network calls. It compiles each
sampler: all of them take an hour of a CPU, a few with --heads=law minutes.
"""

import json

from absl import flags

from experiments.common import cli, suites
from flexmdm_jax import files

_SUITE = flags.DEFINE_string(
  "suite", None, f"Part to measure, one of {', '.join(suites.SUITES)}."
)
_OUT = flags.DEFINE_string("out", None, "JSON file to write.")
flags.mark_flags_as_required(["suite", "out"])
flags.adopt_module_key_flags(suites)


def main(_):
  for path in filter(None, (_OUT.value, flags.FLAGS.plot)):
    files.require_writable(path)
  measured = suites.run_suite(_SUITE.value)
  result = {"suite": _SUITE.value, **measured, "versions": files.versions()}
  files.write_json(_OUT.value, result)
  print(json.dumps(result))


if __name__ == "__main__":
  cli.run(main)
