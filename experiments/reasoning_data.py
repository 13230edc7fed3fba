"""Makes small data of code and of reasoning, and a tokenizer for each.

  python -m experiments.reasoning_data --out=build/reasoning

code/ has the functions of the standard library of the Python that runs, without
docstrings, as rows {"code"}; problems/ has arithmetic word problems with their
steps, as rows {"question", "answer", "text"} of which "text" is the problem as
`experiments/configs/small_gsm8k.py` shows it. Each has train.jsonl, test.jsonl
and validation.jsonl, split by a hash of the row, and the folder tokenizer.
"""

import pathlib

from absl import flags

from experiments.common import cli
from flexmdm_jax.tasks.reasoning import make_code, make_problems, require_new

_OUT = flags.DEFINE_string("out", None, "Folder to make.")
_PROBLEMS = cli.count("problems", 100_000, "Word problems in all splits.")
_STEPS = cli.count("most_steps", 2, "Steps of the longest word problem.")
_LARGEST = cli.count("largest", 30, "Largest number of a problem.", least=4)
_SEED = cli.seed("Seed of the word problems.")
flags.mark_flags_as_required(["out"])


def main(_):
  out = pathlib.Path(_OUT.value)
  for name in ("code", "problems"):
    require_new(out / name)
  for name, made in {
    "code": make_code(out / "code"),
    "problems": make_problems(
      out / "problems",
      _PROBLEMS.value,
      _SEED.value,
      most_steps=_STEPS.value,
      largest=_LARGEST.value,
    ),
  }.items():
    print(f"{out / name}: {made}")


if __name__ == "__main__":
  cli.run(main)
