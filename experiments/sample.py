"""Samples from a trained model; one JSON object a line.

  python -m experiments.sample --workdir=DIR --num=8 --steps=64 \
    --out=samples.jsonl [--prompt='0 2 3'] [--prefix='0 2' --suffix='1'] \
    [--input=rows.jsonl] [--sampler=entropy_budget=0.2,group=2] \
    [--watch] [--trace=trace.html]

DIR is what `fm.load` takes: a work directory, an exported folder or the public
FlexMDM's. Prompts, prefixes and suffixes are text if the model has a tokenizer,
and the lines then have the samples' "text" too; otherwise token ids separated
by spaces. Stopped, the same command goes on where it was.
"""

from absl import flags

from experiments.common import cli, sample_rows, sampling, watch
from experiments.common.sample_rows import FORMS
from experiments.common.samplers import parse_fields, sampler_help
from flexmdm_jax import files, loading
from flexmdm_jax.errors import InputError

_WORKDIR = flags.DEFINE_string(
  "workdir", None, "Folder of the model: a run's directory, or an exported one."
)
_OUT = flags.DEFINE_string("out", None, "JSONL file to write.")
_NUM = cli.count("num", 1, "Number of samples; with --input, of each row.")
_STEPS = cli.count("steps", None, "Network calls a sample.")
_INPUT = flags.DEFINE_string(
  "input", None, f"JSONL file of rows to sample from, each with one of {FORMS}."
)
_PROMPT = flags.DEFINE_string("prompt", None, "Prompt to continue.")
_PREFIX = flags.DEFINE_string("prefix", None, "Prefix before the hole.")
_SUFFIX = flags.DEFINE_string("suffix", None, "Suffix after the hole.")
_PRESET = flags.DEFINE_string(
  "preset", None, "Named way to sample, where the model's folder has some."
)
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
_BATCH = cli.count("batch_size", 64, "Rows at once; changes no sample.")
_SEED = cli.seed("Seed of the samples.")
_WATCH = flags.DEFINE_bool("watch", False, "Show samples as they grow.")
_TRACE = flags.DEFINE_string("trace", None, "HTML page to write, as --watch.")
_SHOW = cli.count("show", 4, "Samples that --watch and --trace show, at most.")
_unless_forced = cli.force()
flags.mark_flags_as_required(["workdir"])


def main(_):
  for path in filter(None, (_OUT.value, _TRACE.value)):
    files.require_writable(path)
  if not (_OUT.value or _TRACE.value or _WATCH.value):
    raise InputError("there is nothing to do: give --out, --trace or --watch.")
  if _WATCH.value:
    watch.require_watch()
  rows = sample_rows.rows_of_flags(
    _INPUT.value, _PROMPT.value, _PREFIX.value, _SUFFIX.value
  )
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
  model = loading.load(_WORKDIR.value)
  way = model.way(preset=_PRESET.value, path=_PATH.value, **given, **fields)
  job = sampling.Job(model, way, rows, _NUM.value, _SEED.value)
  _unless_forced(lambda: job.require_memory(_BATCH.value))
  if _WATCH.value or _TRACE.value:
    job.show(_SHOW.value, _WATCH.value, _TRACE.value)
  if _OUT.value:
    job.write(_OUT.value, _BATCH.value)


if __name__ == "__main__":
  cli.run(main)
