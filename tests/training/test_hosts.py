"""Two processes on loopback that train as one, and what may go wrong."""

import signal
import socket
import subprocess
import time
from types import SimpleNamespace
from typing import NamedTuple

import jax
import numpy as np
import pytest
from absl import flags
from absl.testing import flagsaver

from experiments.common import hosts as flags_of_hosts
from flexmdm_jax.errors import InputError
from flexmdm_jax.runs import Run
from flexmdm_jax.training import hosts, sharding
from flexmdm_jax.training.loop import require_shared
from flexmdm_jax.training.metrics import read_metrics
from tests.experiments import tools

STEPS = 40


def start(*settings, devices=1):
  """Starts `experiments.train` with this many fake devices."""
  xla = f"--xla_force_host_platform_device_count={devices}"
  return tools.start(
    "train",
    *tools.TINY_BRACKETS,
    *settings,
    xla_flags=f"{xla} --xla_backend_optimization_level=0",
  )


def end(*processes):
  """Exit statuses and messages, once all have ended."""
  try:
    texts = [process.communicate(timeout=300)[1] for process in processes]
  finally:
    for process in processes:
      process.kill()
  return [process.returncode for process in processes], texts


def address():
  with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    return f"127.0.0.1:{free.getsockname()[1]}"


def start_two(*settings, own=((), ())):
  """Starts two processes of one device each, as one run."""
  coordinator = address()
  return [
    start(
      f"--coordinator={coordinator}",
      "--num_processes=2",
      f"--process_id={i}",
      *settings,
      *own[i],
    )
    for i in range(2)
  ]


def settings_of(folder, workdir, fsdp=2):
  return [
    f"--config.data.folder={folder}",
    f"--config.mesh.fsdp={fsdp}",
    f"--workdir={workdir}",
  ]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory, folder):
  """A run of two processes that share the parameters."""
  workdir = tmp_path_factory.mktemp("run") / "work"
  statuses, texts = end(*start_two(*settings_of(folder, workdir)))
  assert statuses == [0, 0], texts
  return workdir


def curve(workdir):
  timings = ("step_seconds", "tokens_per_second")
  return [
    {k: v for k, v in line.items() if k not in timings}
    for line in read_metrics(workdir)
  ]


def params(workdir):
  step, denoiser = Run.from_workdir(workdir).restore(workdir)
  assert step == STEPS
  return jax.device_get(denoiser.params)


def assert_same_run(workdir, other):
  assert curve(workdir) == curve(other)
  jax.tree.map(np.testing.assert_array_equal, params(workdir), params(other))


def wait_for_lines(workdir, count, processes):
  path = workdir / "metrics.jsonl"
  for _ in range(18000):
    if path.exists() and len(path.read_text().splitlines()) >= count:
      return
    assert all(p.poll() is None for p in processes), end(*processes)
    time.sleep(0.01)
  raise AssertionError("no progress")


@pytest.mark.slow
def test_two_processes_train_as_one(unbroken, folder, tmp_path):
  workdir = tmp_path / "work"
  statuses, texts = end(start(*settings_of(folder, workdir), devices=2))
  assert statuses == [0], texts
  assert_same_run(workdir, unbroken)


@pytest.mark.slow
def test_killed_process_ends_the_others_and_a_restart_resumes(
  unbroken, folder, tmp_path
):
  workdir = tmp_path / "work"
  settings = settings_of(folder, workdir)
  processes = start_two(*settings)
  wait_for_lines(workdir, 3, processes)
  processes[1].kill()
  statuses, texts = end(*processes)
  assert statuses[1] == -9 and statuses[0] != 0, texts
  assert curve(workdir)[-1]["step"] < STEPS
  statuses, texts = end(*start_two(*settings))
  assert statuses == [0, 0], texts
  assert "resuming from step" in texts[0]
  assert_same_run(workdir, unbroken)


@pytest.mark.slow
def test_sigterm_to_one_stops_both_and_one_process_goes_on(
  unbroken, folder, tmp_path
):
  workdir = tmp_path / "work"
  processes = start_two(*settings_of(folder, workdir))
  wait_for_lines(workdir, 2, processes)
  processes[1].send_signal(signal.SIGTERM)
  statuses, texts = end(*processes)
  assert statuses == [0, 0], texts
  steps = [int(p.name) for p in (workdir / "checkpoints").iterdir()]
  assert 10 <= max(steps) < STEPS
  # On another number of processes and devices, the parameters whole.
  statuses, texts = end(start(*settings_of(folder, workdir, fsdp=1)))
  assert statuses == [0], texts
  assert f"resuming from step {max(steps)}" in texts[0]
  for line, whole in zip(curve(workdir), curve(unbroken), strict=True):
    for name, value in whole.items():
      np.testing.assert_allclose(line[name], value, rtol=1e-3, err_msg=name)


@pytest.mark.slow
def test_input_error_of_one_ends_both(folder, tmp_path):
  (tmp_path / "config.json").write_text("{}")
  statuses, texts = end(*start_two(*settings_of(folder, tmp_path)))
  assert statuses == [2, 2], texts
  for text in texts:
    assert "was made with another config" in text.splitlines()[-1]
  assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


@pytest.mark.slow
def test_processes_with_different_configs_are_refused(folder, tmp_path):
  workdir = tmp_path / "work"
  processes = start_two(
    *settings_of(folder, workdir),
    own=((), ("--config.optimizer.learning_rate=1",)),
  )
  statuses, texts = end(*processes)
  assert statuses == [2, 2], texts
  for text in texts:
    assert "process 1 has another config" in text.splitlines()[-1]
  assert not workdir.exists()


@pytest.mark.slow
@pytest.mark.parametrize(
  ("process", "problem"),
  [(1, "the coordinator cannot be reached"), (0, "not all processes came")],
)
def test_absent_processes_are_one_line(tmp_path, process, problem):
  coordinator = address()
  statuses, texts = end(
    start(
      f"--workdir={tmp_path / 'work'}",
      f"--coordinator={coordinator}",
      "--num_processes=2",
      f"--process_id={process}",
      "--initialization_timeout=2",
    )
  )
  assert statuses == [2], texts
  line = texts[0].splitlines()[-1]
  assert line.startswith("error: ") and problem in line and coordinator in line
  assert not (tmp_path / "work").exists()


THREE = {"coordinator": "host:1234", "num_processes": 2, "process_id": 1}


def settings(**values):
  flags.FLAGS.mark_as_parsed()
  with flagsaver.flagsaver(**values):
    return flags_of_hosts._settings()


def test_flags_are_told_to_jax():
  assert settings() == (None, {})
  where, told = settings(**THREE)
  assert where == told["coordinator_address"] == "host:1234"
  assert (told["num_processes"], told["process_id"]) == (2, 1)
  assert settings(coordinator="auto") == ("auto", {})


def test_a_cluster_is_found_unless_it_is_one_process(monkeypatch):
  for name, value in {
    "SLURM_JOB_ID": 7,
    "SLURM_STEP_NODELIST": "node[1-2]",
    "SLURM_NTASKS": 2,
    "SLURM_PROCID": 1,
    "SLURM_LOCALID": 0,
  }.items():
    monkeypatch.setenv(name, str(value))
  assert settings() == ("auto", {})
  monkeypatch.setenv("SLURM_NTASKS", "1")
  assert settings() == (None, {})


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"process_id": None}, "--process_id is missing"),
    ({"num_processes": None}, "--num_processes is missing"),
    ({"coordinator": None}, "--coordinator is missing"),
    ({"coordinator": "auto"}, "leave them out"),
    ({"coordinator": "host"}, "must be HOST:PORT"),
    ({"coordinator": "host:70000"}, "must be HOST:PORT"),
    ({"process_id": 2}, "--process_id=2 must be below --num_processes=2"),
  ],
)
def test_contradicting_flags_are_refused(changes, message):
  with pytest.raises(InputError, match=message):
    settings(**{**THREE, **changes})


def test_a_single_process_passes_through():
  def fail():
    raise InputError("mine")

  assert hosts.is_first_process()
  assert hosts.exchange("text") == ["text"]
  hosts.require_same("config", "{}")
  for run in (
    hosts.on_all_processes,
    hosts.on_first_process,
    hosts.on_first_then_rest,
  ):
    assert run(lambda: 3) == 3
    with pytest.raises(InputError, match="mine"):
      run(fail)


class Device(NamedTuple):
  id: int
  process_index: int


def laid_out(spans, processes):
  """A stand-in for a sharding: the rows and the process of each device."""
  where = {
    Device(i, process): (slice(*span),)
    for i, (span, process) in enumerate(zip(spans, processes, strict=True))
  }
  return SimpleNamespace(
    mesh=SimpleNamespace(shape={"data": len(where)}),
    devices_indices_map=lambda _: where,
  )


@pytest.mark.parametrize(
  ("spans", "processes", "rows"),
  [
    ([(0, 2), (2, 4), (4, 6), (6, 8)], [0, 1, 0, 1], [0, 1, 4, 5]),  # a torus
    ([(0, 4), (4, 8), (0, 4), (4, 8)], [0, 0, 1, 1], [*range(8)]),  # replicas
  ],
)
def test_rows_of_a_process_follow_the_mesh(spans, processes, rows):
  assert sharding.local_rows(laid_out(spans, processes), 8) == rows


def test_rows_that_two_processes_share_in_part_are_refused():
  spans = [(0, 2), (0, 2), (2, 4), (2, 4), (4, 6), (4, 6)]
  with pytest.raises(InputError, match="shares some rows"):
    sharding.local_rows(laid_out(spans, [0, 0, 0, 1, 1, 1]), 6)


def test_a_directory_that_is_not_shared_is_refused(tmp_path):
  (tmp_path / "config.json").write_text("{}")
  require_shared(tmp_path, seconds=0)
  with pytest.raises(InputError, match="all hosts share"):
    require_shared(tmp_path / "other", seconds=0)


@pytest.mark.parametrize(
  "script",
  (tools.ROOT / "experiments" / "launch").glob("*.sh"),
  ids=lambda p: p.name,
)
def test_launch_scripts_parse(script):
  subprocess.run(["bash", "-n", script], check=True)
