"""Trains a small model for the demo, in three minutes of two CPU cores.

  python -m experiments.demo_model --out=build/demo
  python -m experiments.demo --model=build/demo/model

Its texts are small stories by rules, which are written to DIR too. Stopped, the
same command goes on where it was.
"""

import pathlib

from absl import flags

from experiments.common import cli
from experiments.configs import demo
from flexmdm_jax import files
from flexmdm_jax.demo import stories
from flexmdm_jax.errors import InputError
from flexmdm_jax.loading import load
from flexmdm_jax.runs import Run

_OUT = flags.DEFINE_string("out", "build/demo", "Directory to write.")
_TRAIN_STEPS = cli.count(
  "train_steps", None, "Training steps; by default, the config's."
)
_STORIES = 20_000


def main(_):
  out = pathlib.Path(_OUT.value)
  model = out / "model"
  files.require_writable_folder(out)
  if model.exists():
    raise InputError(
      f"{model} is there already: show it by experiments.demo, or give another"
      " --out."
    )
  text, tokenizer = out / "stories.jsonl", out / "tokenizer"
  stories.write_stories(text, _STORIES, seed=0)
  stories.write_tokenizer(tokenizer)
  config = demo.get_config()
  config.data.update(
    train=str(text), tokenizer_folder=str(tokenizer), folder=str(out / "data")
  )
  if _TRAIN_STEPS.value is not None:
    config.train.num_steps = _TRAIN_STEPS.value
    config.optimizer.warmup_steps = min(100, _TRAIN_STEPS.value // 4)
  Run.from_config(config.to_dict()).train(out / "run")
  load(out / "run").export(model)
  print(f"wrote {model}: python -m experiments.demo --model={model}")


if __name__ == "__main__":
  cli.run(main, trains=True)
