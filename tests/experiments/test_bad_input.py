"""Wrong flags and values end with status 2 and one line that names them."""

import subprocess
import sys

import pytest

from tests.experiments.tools import ROOT, TINY_BRACKETS, TINY_MAZE, run

# name -> (module, flags, what the one line must hold)
CASES = {
  "kernel": ("tune_kernels", ["--kernel=nope", "--out=x.json"], "=nope"),
  "nothing to tune": (
    "tune_kernels",
    ["--kernel=insert_unmask", "--out=x.json"],
    "nothing to tune on a cpu",
  ),
  "samplers": (
    "benchmark",
    ["--suite=law", "--methods=events+grow=1", "--out=build/x.json"],
    "'grow=1'",
  ),
  "minutes": (
    "torture",
    ["--minutes=0", "--out=build/x.json"],
    "--minutes=0.0 must be positive",
  ),
  "law": ("benchmark", ["--suite=law", "--law=x", "--out=build/x.json"], "=x"),
  "suite": ("benchmark", ["--suite=speed", "--out=build/x.json"], "=speed"),
  "public code": (
    "benchmark",
    ["--suite=train", "--public=nope", "--out=build/x.json"],
    "--public=nope",
  ),
  "config file": (
    "train",
    ["--config=experiments/configs/nope.py"],
    "nope.py",
  ),
  "config key": ("train", [*TINY_MAZE, "--config.train.step=1"], "step"),
  "config type": (
    "train",
    [*TINY_MAZE, "--config.train.num_steps=many"],
    "many",
  ),
  "flag": ("train", [*TINY_MAZE, "--wrkdir=x"], "wrkdir"),
  "stray argument": ("train", [*TINY_MAZE, "stray"], "'stray'"),
  "maze size": ("train", [*TINY_MAZE, "--config.data.size=8"], "size=8"),
  "subgoals": (
    "train",
    [*TINY_MAZE, "--config.data.subgoals=18"],
    "subgoals=18",
  ),
  "steps": ("train", [*TINY_MAZE, "--config.train.num_steps=0"], "num_steps"),
  "method": ("train", [*TINY_BRACKETS, "--config.method=gpt"], "'gpt'"),
  "head": (
    "train",
    [*TINY_BRACKETS, "--config.model.gap_head=linear"],
    "'linear'",
  ),
  "schedule": (
    "train",
    [*TINY_BRACKETS, "--config.insertion.name=cubic"],
    "'cubic'",
  ),
  "dtype": ("train", [*TINY_BRACKETS, "--config.model.dtype=int8"], "'int8'"),
  "workdir": (
    "train",
    [*TINY_BRACKETS, "--workdir=README.md/run"],
    "README.md/run",
  ),
  "text that is not set": (
    "train",
    ["--config=experiments/configs/shakespeare.py"],
    "data.tokenizer_folder is not set",
  ),
  "text that is not there": (
    "train",
    [
      "--config=experiments/configs/shakespeare.py",
      "--config.data.tokenizer=char",
      "--config.data.train=nope.jsonl",
    ],
    "'nope.jsonl'",
  ),
  "buckets": (
    "train",
    [
      "--config=experiments/configs/shakespeare.py",
      "--config.data.buckets=(8,16)",
    ],
    "max_length=64",
  ),
  "no run": (
    "evaluate",
    ["--workdir=missing", "--task=maze", "--out=build/x.json"],
    "missing",
  ),
  "out": (
    "evaluate",
    ["--workdir=missing", "--task=maze", "--out=README.md/x.json"],
    "README.md",
  ),
  "plots": (
    "evaluate",
    [
      "--workdir=missing",
      "--task=lengths",
      "--out=build/x.json",
      "--plots=README.md/x",
    ],
    "cannot write README.md/x",
  ),
  "out is a folder": (
    "sample",
    ["--workdir=missing", "--steps=2", "--out=tests"],
    "cannot write tests",
  ),
}


def check(name, status, err):
  lines = [line for line in err.splitlines() if line.strip()]
  assert status == 2, err
  assert len(lines) == 1, err
  assert lines[0].startswith("error: ")
  assert CASES[name][2] in lines[0]


@pytest.mark.parametrize("name", CASES)
def test_one_line_that_names_the_value(name, tmp_path):
  module, flags, _ = CASES[name]
  workdir = tmp_path / "work"
  if module == "train" and not any("--workdir" in flag for flag in flags):
    flags = [f"--workdir={workdir}", *flags]
  status, _, err = run(module, *flags)
  check(name, status, err)
  assert not workdir.exists()


def test_a_fresh_interpreter_says_the_same():
  module, flags, _ = CASES["no run"]
  done = subprocess.run(
    [sys.executable, "-m", f"experiments.{module}", *flags],
    cwd=ROOT,
    capture_output=True,
    text=True,
    check=False,
  )
  check("no run", done.returncode, done.stderr)
