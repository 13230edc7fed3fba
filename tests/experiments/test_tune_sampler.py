"""The tuner of samplers, on a model that is hardly trained."""

import json

import pytest

from tests.experiments.tools import TINY, run

pytestmark = pytest.mark.slow

TINY_MARKOV = [
  "--config=experiments/configs/markov.py",
  "--config.data.num_train=200",
  "--config.data.num_eval=20",
  "--config.data.mean_length=6.0",
  "--config.data.max_length=12",
  *TINY,
]


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
  folder = tmp_path_factory.mktemp("tune")
  status, _, err = run(
    "train",
    *TINY_MARKOV,
    f"--config.data.folder={folder / 'data'}",
    f"--workdir={folder / 'work'}",
  )
  assert status == 0, err
  return folder / "work"


def test_prints_and_writes_the_winners(workdir, tmp_path):
  out = tmp_path / "new" / "choice.json"
  status, printed, err = run(
    "tune_sampler",
    f"--workdir={workdir}",
    f"--out={out}",
    "--paths=lengths_first",
    "--paths=power:4,power:1",
    "--methods=events,tau_leaping+grid=events+finish=1",
    "--steps=4",
    "--num=16",
    "--num_times=32",
  )
  assert status == 0, err
  found = json.loads(out.read_text())
  paths = ["lengths_first", "power:4,power:1"]
  assert list(found["bounds"]) == paths
  assert all(bound["nats_above"] > 0 for bound in found["bounds"].values())
  trials = found["trials"]
  assert [(x["path"], x["sampler"]) for x in trials] == [
    (path, name)
    for path in paths
    for name in ("events", "tau_leaping+grid=events+finish=1")
  ]
  best = min(trials, key=lambda x: x["error"])
  line = found["best"]["4"]
  assert line.startswith(
    f"--config.path={best['path']} --config.sampler.steps=4"
    f" --config.sampler.method={best['sampler'].partition('+')[0]}"
  )
  assert f"best at 4 calls: {line}" in printed


@pytest.mark.parametrize(
  ("flag", "says"),
  [
    ("--paths=nowhere", "path='nowhere'"),
    ("--methods=events+group=x", "group='x' must be an integer"),
    ("--methods=euler+finish=8", "sampler.finish=8"),
    ("--steps=0", "--steps=0"),
    ("--split=dev", "split='dev'"),
    ("--workdir=missing", "missing"),
  ],
)
def test_one_line_that_names_the_value(workdir, tmp_path, flag, says):
  out = tmp_path / "choice.json"
  status, _, err = run(
    "tune_sampler", f"--workdir={workdir}", f"--out={out}", "--steps=4", flag
  )
  lines = [line for line in err.splitlines() if line.strip()]
  assert status == 2 and len(lines) == 1, err
  assert lines[0].startswith("error: ") and says in lines[0]
  assert not out.exists()


def test_samples_take_the_settings(workdir, tmp_path):
  out = tmp_path / "samples.jsonl"
  flags = [f"--workdir={workdir}", f"--out={out}", "--num=3", "--steps=4"]
  status, _, err = run(
    "sample", *flags, "--method=events", "--sampler=insert_budget=2,group=2"
  )
  assert status == 0, err
  assert len(out.read_text().splitlines()) == 3
  for sampler, says in (
    ("--sampler=top_p=0.5", "give the same"),
    ("--sampler=grow=2", "'grow=2'"),
  ):
    status, _, err = run("sample", *flags, "--top_p=0.9", sampler)
    assert status == 2 and says in err and len(err.splitlines()) == 1
