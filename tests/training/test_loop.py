import json
import os
import pathlib
import shutil
import signal
import time

import jax
import numpy as np
import pytest

from flexmdm_jax.errors import DivergedError, InputError
from flexmdm_jax.training import lock
from flexmdm_jax.training import loop as loop_lib
from flexmdm_jax.training.checkpoint import Checkpointer, restore_ema
from flexmdm_jax.training.loop import LoopConfig, train
from flexmdm_jax.training.metrics import MetricsWriter, Watchdog, read_metrics
from flexmdm_jax.training.optimizer import OptimizerConfig
from tests import fuzz
from tests.training import tiny

CONFIG = {"model": {"width": 16}, "seed": 0}
LOOP = LoopConfig(num_steps=12, report_every=2, checkpoint_every=4, keep=2)


@pytest.fixture(scope="module")
def train_step():
  return tiny.train_step()


@pytest.fixture(scope="module")
def finished(train_step, tmp_path_factory):
  """An uninterrupted run, and its metrics."""
  workdir = tmp_path_factory.mktemp("run") / "work"
  return workdir, train(train_step, tiny.data, workdir, LOOP, CONFIG)


def copy(finished, tmp_path):
  workdir = tmp_path / "work"
  shutil.copytree(finished[0], workdir)
  return workdir


def losses(workdir):
  return [(line["step"], line["loss"]) for line in read_metrics(workdir)]


class Killed(Exception):
  pass


def killed_after(data, num_batches):
  """The data of a process that dies before its next batch."""

  class Data:
    def __init__(self):
      self.count = 0

    def __next__(self):
      if self.count == num_batches:
        raise Killed
      self.count += 1
      return next(data)

    def __getattr__(self, name):
      return getattr(data, name)

  return Data()


def test_run_leaves_checkpoints_metrics_and_config(finished):
  workdir, result = finished
  assert result["step"] == 12
  assert np.isfinite(result["loss"])
  steps = sorted(int(p.name) for p in (workdir / "checkpoints").iterdir())
  assert steps == [8, 12]
  assert [step for step, _ in losses(workdir)] == [2, 4, 6, 8, 10, 12]
  assert json.loads((workdir / "config.json").read_text()) == CONFIG
  assert list((workdir / "tensorboard").iterdir())
  assert not (workdir / lock.NAME).exists()


@pytest.mark.parametrize("batches", [5, 10, 11])
def test_interrupted_run_ends_as_the_uninterrupted_one(
  finished, train_step, tmp_path, batches
):
  # Parameters, EMA, optimiser, keys, data position and metric sums all have to
  # be restored for the last line to agree to the bit.
  workdir = tmp_path / "work"
  with pytest.raises(Killed):
    data = killed_after(tiny.data(), batches)
    train(train_step, lambda: data, workdir, LOOP, CONFIG)
  train(train_step, tiny.data, workdir, LOOP, CONFIG)
  assert losses(workdir) == losses(finished[0])
  params = train_step.abstract_state.params
  a, b = (restore_ema(w, params) for w in (workdir, finished[0]))
  assert a[0] == b[0] == 12
  jax.tree.map(np.testing.assert_array_equal, a[1], b[1])


def test_finished_run_is_left_alone(finished, train_step, tmp_path):
  workdir = copy(finished, tmp_path)
  before = (workdir / "metrics.jsonl").read_text()
  assert train(train_step, tiny.data, workdir, LOOP, CONFIG)["step"] == 12
  assert (workdir / "metrics.jsonl").read_text() == before


def damage(workdir, step):
  """Truncates every file of a checkpoint's state."""
  for path in (workdir / "checkpoints" / str(step) / "state").rglob("*"):
    if path.is_file():
      path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def test_damaged_checkpoint_falls_back_to_the_newest_good_one(
  finished, train_step, tmp_path, caplog
):
  workdir = copy(finished, tmp_path)
  damage(workdir, 12)
  caplog.set_level("INFO")
  assert train(train_step, tiny.data, workdir, LOOP, CONFIG)["step"] == 12
  assert "checkpoint 12 cannot be read" in caplog.text
  assert "resuming from step 8" in caplog.text
  assert losses(workdir) == losses(finished[0])
  assert (workdir / "damaged_checkpoints" / "12").is_dir()


def test_evaluation_skips_a_damaged_checkpoint(finished, train_step, tmp_path):
  workdir = copy(finished, tmp_path)
  damage(workdir, 12)
  step, *_ = restore_ema(workdir, train_step.abstract_state.params)
  assert step == 8


def test_no_good_checkpoint_is_an_error(finished, train_step, tmp_path):
  workdir = copy(finished, tmp_path)
  for step in (8, 12):
    damage(workdir, step)
  with pytest.raises(InputError, match="no readable checkpoint"):
    restore_ema(workdir, train_step.abstract_state.params)
  # Nor the second time: nothing was moved, no line of metrics is lost.
  for _ in range(2):
    with pytest.raises(InputError, match="none of the 2 checkpoints in"):
      train(train_step, tiny.data, workdir, LOOP, CONFIG)
  assert losses(workdir) == losses(finished[0])


def test_sigterm_saves_and_returns(train_step, tmp_path):
  class Data:
    def __init__(self):
      self.data, self.count = tiny.data(), 0

    def __next__(self):
      self.count += 1
      if self.count == 3:
        os.kill(os.getpid(), signal.SIGTERM)
      return next(self.data)

    def __getattr__(self, name):
      return getattr(self.data, name)

  handler = signal.getsignal(signal.SIGTERM)
  result = train(train_step, Data, tmp_path / "work", LOOP, CONFIG)
  assert result["step"] == 3
  assert (tmp_path / "work" / "checkpoints" / "3").is_dir()
  assert not (tmp_path / "work" / lock.NAME).exists()
  assert signal.getsignal(signal.SIGTERM) is handler


def test_divergence_stops_and_keeps_the_last_good_checkpoint(tmp_path):
  train_step = tiny.train_step(
    optimizer=OptimizerConfig(
      100, learning_rate=1e38, warmup_steps=0, clip_norm=1e38
    )
  )
  loop = LoopConfig(num_steps=40, report_every=2, checkpoint_every=1)
  with pytest.raises(DivergedError, match="not finite"):
    train(train_step, tiny.data, tmp_path / "work", loop, CONFIG)
  assert not (tmp_path / "work" / lock.NAME).exists()
  abstract = train_step.abstract_state
  state = Checkpointer(tmp_path / "work").restore(abstract, tiny.data())
  assert all(np.isfinite(x).all() for x in jax.tree.leaves(state.params))


def test_directory_of_another_config_is_refused(finished, train_step, tmp_path):
  workdir = copy(finished, tmp_path)
  other = {"model": {"width": 32}, "seed": 0}
  with pytest.raises(InputError, match=r"differs in model\.width"):
    train(train_step, tiny.data, workdir, LOOP, other)
  assert json.loads((workdir / "config.json").read_text()) == CONFIG
  assert losses(workdir) == losses(finished[0])


def test_directory_in_use_is_refused(finished, train_step, tmp_path):
  workdir = copy(finished, tmp_path)
  before = sorted(workdir.rglob("*"))
  with lock.Lock(workdir):
    with pytest.raises(InputError, match="is in use by process"):
      train(train_step, tiny.data, workdir, LOOP, CONFIG)
    # Nor is it moved aside.
    with pytest.raises(InputError, match="is in use by process"):
      train(train_step, tiny.data, workdir, LOOP, {"seed": 1}, overwrite=True)
  assert sorted(workdir.rglob("*")) == before
  train(train_step, tiny.data, workdir, LOOP, CONFIG)


def test_run_that_lost_its_directory_writes_nothing_more(
  train_step, tmp_path, monkeypatch
):
  def lost(self):
    raise InputError("was taken")

  monkeypatch.setattr(lock.Lock, "require_held", lost)
  with pytest.raises(InputError, match="was taken"):
    train(train_step, tiny.data, tmp_path / "work", LOOP, CONFIG)
  assert losses(tmp_path / "work") == []
  assert not any((tmp_path / "work" / "checkpoints").iterdir())


def test_directory_of_another_version_says_so(tmp_path):
  (tmp_path / "config.json").write_text(json.dumps({"noise": 1, "seed": 0}))
  with pytest.raises(
    InputError,
    match=r"differs in model\.width, noise \(its config\.json lacks"
    r" model\.width and has the unknown noise: another version",
  ):
    loop_lib.claim_workdir(tmp_path, CONFIG, False)


def test_overwrite_moves_the_earlier_run_aside(tmp_path):
  workdir = tmp_path / "work"
  for seed in range(3):
    with loop_lib.claim_workdir(workdir, {"seed": seed}, overwrite=True):
      pass
  for name, seed in (("work", 2), ("work.old-1", 0), ("work.old-2", 1)):
    config = json.loads((tmp_path / name / "config.json").read_text())
    assert config == {"seed": seed}


def test_data_that_cannot_be_had_claims_no_directory(train_step, tmp_path):
  def missing():
    raise InputError("no file")

  with pytest.raises(InputError, match="no file"):
    train(train_step, missing, tmp_path / "work", LOOP, CONFIG)
  assert not (tmp_path / "work").exists()


def test_room_is_asked_for_what_is_still_to_be_written(
  finished, train_step, tmp_path, monkeypatch
):
  workdir = copy(finished, tmp_path)
  size = loop_lib.state_bytes(train_step.abstract_state)
  usage = shutil.disk_usage(tmp_path)
  # Two checkpoints are there and two are kept; a third is written meanwhile.
  monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=size))
  assert train(train_step, tiny.data, workdir, LOOP, CONFIG)["step"] == 12
  with pytest.raises(InputError, match="free some space"):
    train(train_step, tiny.data, tmp_path / "new", LOOP, CONFIG)


def test_unwritable_directory_is_an_error(tmp_path):
  (tmp_path / "file").write_text("")
  with pytest.raises(InputError, match="cannot write to workdir"):
    loop_lib.claim_workdir(tmp_path / "file" / "work", CONFIG, False)


def test_damaged_config_is_an_error(tmp_path):
  (tmp_path / "config.json").write_text("{")
  with pytest.raises(InputError, match=r"config\.json .*line 1"):
    loop_lib.claim_workdir(tmp_path, CONFIG, False)


def test_disk_without_room_is_refused(tmp_path, monkeypatch):
  usage = shutil.disk_usage(tmp_path)
  monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
  with pytest.raises(InputError, match="free some space"):
    loop_lib.require_room(tmp_path, 1001)


def test_disk_that_fills_up_while_saving_is_one_line(
  train_step, tmp_path, monkeypatch
):
  (tmp_path / "work").mkdir()
  checkpointer = Checkpointer(tmp_path / "work")

  def full(*_, **__):
    raise OSError(28, "No space left on device")

  monkeypatch.setattr(checkpointer._manager, "save", full)
  state = train_step.init(jax.random.key(0))
  with pytest.raises(InputError, match="no space left"):
    checkpointer.save(state, tiny.data(), {})


def test_metrics_of_a_killed_run_are_cut_to_the_step_resumed(tmp_path):
  writer = MetricsWriter(tmp_path, 0)
  for step in range(1, 5):
    writer.write(step, {"loss": 1.0 * step})
  writer.close()
  with (tmp_path / "metrics.jsonl").open("a") as file:
    file.write('{"step": 5, "lo')
  MetricsWriter(tmp_path, 3).close()
  assert [line["step"] for line in read_metrics(tmp_path)] == [1, 2, 3]


@pytest.mark.parametrize(
  "name", ["num_steps", "report_every", "checkpoint_every", "keep"]
)
def test_loop_settings_out_of_range_are_refused(name):
  with pytest.raises(InputError, match=rf"train\.{name}=0"):
    LoopConfig(**{"num_steps": 1, name: 0})


def test_differing_keys_are_dotted_names():
  a = {"x": {"y": 1, "z": 2}, "only": 1}
  b = {"x": {"y": 1, "z": 3}, "data": {"folder": "elsewhere"}}
  b["mesh"] = {"data": 2}
  assert loop_lib.differing_keys(a, b) == ["only", "x.z"]


def test_paths_may_be_relative(train_step, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  loop = LoopConfig(num_steps=1, report_every=1, checkpoint_every=1)
  train(train_step, tiny.data, pathlib.Path("work"), loop, CONFIG)
  assert (tmp_path / "work" / "checkpoints" / "1").is_dir()


@pytest.mark.parametrize("name", ["tensorboard", "checkpoints"])
def test_a_file_in_the_place_of_a_folder_is_named(tmp_path, train_step, name):
  (tmp_path / name).write_text("")
  with pytest.raises(InputError, match=f"{name} must be a folder"):
    train(train_step, lambda: 1 / 0, tmp_path, LOOP, CONFIG)


def metrics_of(workdir, step=9):
  MetricsWriter(workdir, step).close()
  return [line["step"] for line in read_metrics(workdir)]


def test_damaged_metrics_are_moved_aside(tmp_path, caplog):
  path = tmp_path / "metrics.jsonl"
  path.write_text('{"step": 1}\n{"step": "2"}\n{"step": 3}\n')
  assert metrics_of(tmp_path) == [1, 3]
  assert "line 2 is damaged; moved to metrics.jsonl.damaged-1" in caplog.text
  # What a killed process left is no damage.
  path.write_text('{"step": 1}\n{"st')
  assert metrics_of(tmp_path) == [1]
  path.unlink()
  path.mkdir()
  assert metrics_of(tmp_path) == []
  path.unlink()  # the new file
  os.mkfifo(path)
  assert metrics_of(tmp_path) == []
  assert (tmp_path / "metrics.jsonl.damaged-2").is_dir()
  assert (tmp_path / "metrics.jsonl.damaged-3").is_fifo()


@pytest.mark.parametrize("examples", fuzz.EXAMPLES)
def test_any_metrics_and_config(tmp_path, examples):
  def act(content):
    (tmp_path / "metrics.jsonl").write_bytes(content * 2)
    assert all(type(x["step"]) is int for x in read_metrics(tmp_path))
    (tmp_path / "config.json").write_bytes(content)
    loop_lib.require_own(tmp_path, CONFIG, True)

  fuzz.each(examples, fuzz.contents({**CONFIG, "step": 3}), act)


def test_a_long_step_is_told_of(caplog):
  with Watchdog(4, seconds=0.1) as dog:
    time.sleep(0.5)
    dog.step = 5
    time.sleep(0.02)
  told = [x for x in caplog.messages if x.startswith("step 4 has taken")]
  assert 1 <= len(told) <= 3 and "waiting for data" in told[0]
  assert "step 5" not in caplog.text
