import json
import shutil
import signal
import time

import pytest

from flexmdm_jax.training.metrics import read_metrics
from tests.experiments.tools import TINY_BRACKETS, TINY_MAZE, run, start

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  return tmp_path_factory.mktemp("data")


def train_flags(settings, folder, workdir):
  return [*settings, f"--config.data.folder={folder}", f"--workdir={workdir}"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory, folder):
  """Uninterrupted runs on both data sets."""
  top = tmp_path_factory.mktemp("runs")
  for name, settings in (("brackets", TINY_BRACKETS), ("mazes", TINY_MAZE)):
    flags = train_flags(settings, folder, top / name)
    status, out, err = run("train", *flags)
    assert status == 0, err
    assert json.loads(out.splitlines()[-1])["step"] == 40
  return top


def curve(workdir):
  timings = ("step_seconds", "tokens_per_second")
  return [
    {k: v for k, v in line.items() if k not in timings}
    for line in read_metrics(workdir)
  ]


def wait_for_lines(process, workdir, count):
  path = workdir / "metrics.jsonl"
  for _ in range(3000):
    if path.exists() and len(path.read_text().splitlines()) >= count:
      return
    assert process.poll() is None, process.communicate()
    time.sleep(0.02)
  raise AssertionError("no progress")


@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGTERM])
def test_killed_run_resumes_to_the_same_metrics(
  trained, folder, tmp_path, sign
):
  workdir = tmp_path / "work"
  flags = train_flags(TINY_BRACKETS, folder, workdir)
  process = start("train", *flags)
  wait_for_lines(process, workdir, 3)
  process.send_signal(sign)
  _, err = process.communicate(timeout=120)
  assert process.returncode == (-9 if sign == signal.SIGKILL else 0), err
  status, _, err = run("train", *flags)
  assert status == 0, err
  assert curve(workdir) == curve(trained / "brackets")


def test_second_training_in_a_directory_is_refused(trained, folder, tmp_path):
  workdir = tmp_path / "work"
  flags = train_flags(TINY_BRACKETS, folder, workdir)
  flags.append("--config.train.num_steps=4000")
  first = start("train", *flags)
  wait_for_lines(first, workdir, 1)
  for more in ([], ["--overwrite", "--config.train.seed=1"]):
    status, _, err = run("train", *flags, *more)
    assert first.poll() is None
    assert status == 2 and f"is in use by process {first.pid} on" in err, err
    assert len([x for x in err.splitlines() if "error" in x]) == 1
  first.send_signal(signal.SIGTERM)
  _, err = first.communicate(timeout=120)
  assert first.returncode == 0, err
  assert not (workdir / "lock.json").exists()


def test_evaluate_and_sample(trained, tmp_path):
  for workdir, task, key in (
    ("brackets", "lengths", "length_tv"),
    ("brackets", "likelihood", "nats"),
    ("mazes", "maze", "success"),
  ):
    out = tmp_path / f"{task}.json"
    status, _, err = run(
      "evaluate",
      f"--workdir={trained / workdir}",
      f"--task={task}",
      f"--out={out}",
      "--steps=4",
      "--num=16",
      "--num_times=32",
    )
    assert status == 0, err
    result = json.loads(out.read_text())
    assert result[key] >= 0
    assert result["versions"]["jax"]
    assert result["sampler"]["steps"] == 4
  out = tmp_path / "samples.jsonl"
  status, _, err = run(
    "sample",
    f"--workdir={trained / 'brackets'}",
    "--num=3",
    "--steps=4",
    "--prefix=0 2",
    "--suffix=3 1",
    f"--out={out}",
  )
  assert status == 0, err
  rows = [json.loads(line)["tokens"] for line in out.read_text().splitlines()]
  assert len(rows) == 3
  assert all(row[:2] == [0, 2] and row[-2:] == [3, 1] for row in rows)


def test_checksums_are_compared_unless_a_flag_says_not(trained, tmp_path):
  workdir = shutil.copytree(trained / "brackets", tmp_path / "work")
  (workdir / "checkpoints" / "40" / "flexmdm_checksums.json").write_text("{")
  out = tmp_path / "samples.jsonl"
  flags = [f"--workdir={workdir}", "--num=1", "--steps=2", f"--out={out}"]
  for more, warned in (([], True), (["--verify_checkpoints=false"], False)):
    status, _, err = run("sample", *flags, *more)
    assert status == 0, err
    assert ("checkpoint 40 cannot be read" in err) == warned, err


def test_quickstart_writes_its_report(tmp_path):
  out = tmp_path / "quickstart"
  flags = [f"--out={out}", "--train_steps=8", "--num=20"]
  status, printed, err = run("quickstart", *flags)
  assert status == 0, err
  report = json.loads((out / "report.json").read_text())
  for method in ("flexmdm", "mdm"):
    assert 0 <= report[method]["success"] <= 1
    assert report[method].keys() >= {"length_tv", "steps", "seconds"}
  assert report["config"]["data"]["size"] == 7
  assert report["versions"]["jax"]
  trunk = report["mdm"]["parameters"]
  assert trunk < report["flexmdm"]["parameters"] < 1.06 * trunk
  for name in ("loss", "lengths", "success", "mazes"):
    assert (out / f"{name}.png").read_bytes()[:4] == b"\x89PNG"
  assert "<html" in (out / "trace.html").read_text()
  assert "FlexMDM" in printed
