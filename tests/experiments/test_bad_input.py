import pytest

from tests.experiments.tools import TINY_BRACKETS, TINY_MAZE, start

pytestmark = pytest.mark.slow

# name -> (module, flags, what the one line must hold)
CASES = {
  "kernel": ("tune_kernels", ["--kernel=nope", "--out=x.json"], "=nope"),
  "nothing to tune": (
    "tune_kernels",
    ["--kernel=insert_unmask", "--out=x.json"],
    "nothing to tune on a cpu",
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


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
  """All commands at once: importing JAX is most of their time."""
  workdir = tmp_path_factory.mktemp("bad") / "work"
  names, results = list(CASES), {}
  for first in range(0, len(names), 4):
    processes = {}
    for name in names[first : first + 4]:
      module, flags, _ = CASES[name]
      given = any(flag.startswith("--workdir") for flag in flags)
      if not given and module != "tune_kernels":
        flags = [f"--workdir={workdir}", *flags]
      processes[name] = start(module, *flags)
    for name, process in processes.items():
      _, err = process.communicate(timeout=300)
      results[name] = process.returncode, err
  assert not workdir.exists()
  return results


@pytest.mark.parametrize("name", CASES)
def test_one_line_that_names_the_value(outcomes, name):
  status, err = outcomes[name]
  lines = [line for line in err.splitlines() if line.strip()]
  assert status == 2, err
  assert len(lines) == 1, err
  assert lines[0].startswith("error: ")
  assert CASES[name][2] in lines[0]
