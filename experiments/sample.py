"""Samples from a trained model; one JSON object a line.

  python -m experiments.sample --workdir=DIR --num=8 --steps=64 \
    --out=samples.jsonl [--prompt='0 2 3'] [--prefix='0 2' --suffix='1'] \
    [--sampler=entropy_budget=0.2,group=2]

Prompts, prefixes and suffixes are text if the run's data are, and the lines
then have the samples' "text" too; otherwise token ids separated by spaces.
"""

import json

import jax
from absl import flags

from experiments.common import cli
from experiments.common.samplers import parse_fields, sampler_help
from experiments.common.starts import parse_start
from flexmdm_jax import files
from flexmdm_jax.errors import InputError
from flexmdm_jax.runs import Run

_WORKDIR = flags.DEFINE_string("workdir", None, "Directory of the run.")
_OUT = flags.DEFINE_string("out", None, "JSONL file to write.")
_NUM = cli.count("num", 1, "Number of samples.")
_STEPS = cli.count("steps", None, "Network calls a sample.")
_PROMPT = flags.DEFINE_string("prompt", None, "Prompt to continue.")
_PREFIX = flags.DEFINE_string("prefix", None, "Prefix before the hole.")
_SUFFIX = flags.DEFINE_string("suffix", None, "Suffix after the hole.")
_METHOD = flags.DEFINE_string("method", None, "Sampling method.")
_SAMPLER = flags.DEFINE_string(
  "sampler",
  "",
  "Further settings, as in entropy_budget=0.2,group=2:\n" + sampler_help(),
)
_PATH = flags.DEFINE_string(
  "path",
  None,
  "Path to sample on: trained, lengths_first, or power:4,power:1.",
)
_TEMPERATURE = flags.DEFINE_float(
  "temperature", None, "Temperature of the tokens."
)
_TOP_P = flags.DEFINE_float("top_p", None, "Top-p, or nucleus, of the tokens.")
_BATCH = cli.count("batch_size", 64, "Rows at once.")
_SEED = cli.seed("Seed of the samples.")
_unless_forced = cli.force()
flags.mark_flags_as_required(["workdir", "steps", "out"])


def main(_):
  files.require_writable(_OUT.value)
  run = Run.from_workdir(_WORKDIR.value)
  flag_values = dict(
    steps=_STEPS.value,
    method=_METHOD.value,
    temperature=_TEMPERATURE.value,
    top_p=_TOP_P.value,
  )
  given = {name: x for name, x in flag_values.items() if x is not None}
  fields = parse_fields("sampler", _SAMPLER.value)
  if twice := sorted(given.keys() & fields.keys()):
    raise InputError(
      f"--sampler={_SAMPLER.value} and --{twice[0]} give the same: leave one"
      " out."
    )
  run = run.with_sampler(**given, **fields).with_path(_PATH.value)
  _unless_forced(lambda: run.require_memory_to_sample(_NUM.value, _BATCH.value))
  task = run.task
  start = parse_start(
    _NUM.value,
    task.max_length,
    task.vocab,
    inserts=task.inserts,
    causal=task.causal,
    prompt=_PROMPT.value,
    prefix=_PREFIX.value,
    suffix=_SUFFIX.value,
    encode=task.encode_text,
  )
  _, denoiser = run.restore(_WORKDIR.value)
  samples = run.sample(
    jax.random.key(_SEED.value), denoiser, start, _BATCH.value
  )
  lines = []
  for tokens, truncated in zip(
    task.decode(samples.tokens, samples.length), samples.truncated, strict=True
  ):
    line = {"tokens": tokens, "truncated": bool(truncated)}
    if (text := task.to_text(tokens)) is not None:
      line["text"] = text
    lines.append(json.dumps(line))
  files.write_text(_OUT.value, "\n".join(lines) + "\n")
  print(f"wrote {len(lines)} samples to {_OUT.value}")


if __name__ == "__main__":
  cli.run(main)
