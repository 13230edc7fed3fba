"""Runs the command line tools as a person does."""

import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[2]

# Small enough to compile and train in seconds.
TINY = [
  "--config.model.hidden_size=16",
  "--config.model.num_layers=1",
  "--config.model.num_heads=2",
  "--config.model.cond_size=8",
  "--config.train.batch_size=8",
  "--config.train.num_steps=40",
  "--config.train.report_every=5",
  "--config.train.checkpoint_every=5",
  "--config.optimizer.warmup_steps=2",
]
TINY_BRACKETS = [
  "--config=experiments/configs/brackets_quickstart.py",
  "--config.data.num_train=200",
  "--config.data.num_eval=20",
  *TINY,
]
TINY_MAZE = [
  "--config=experiments/configs/maze_quickstart.py",
  "--config.data.num_train=200",
  "--config.data.num_eval=20",
  *TINY,
]


def start(module, *flags):
  """Starts `python -m experiments.MODULE`."""
  environment = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""}
  return subprocess.Popen(
    [sys.executable, "-m", f"experiments.{module}", *map(str, flags)],
    cwd=ROOT,
    env=environment,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )


def run(module, *flags):
  """Runs it to the end; returns (exit status, stdout, stderr)."""
  process = start(module, *flags)
  out, err = process.communicate(timeout=600)
  return process.returncode, out, err
