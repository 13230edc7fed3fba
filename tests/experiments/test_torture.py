"""Torture counts what happens, sees what is wrong, and finds nothing."""

import json
import random
import time

import pytest

from experiments.benchmarks import flips, torture
from experiments.benchmarks.torture import Outcome
from flexmdm_jax import checksums
from flexmdm_jax.errors import InputError
from flexmdm_jax.training.checkpoint import Checkpointer
from tests.experiments.tools import run
from tests.training.test_checkpoint import (
  META,
  abstract_state,
  flip,
  largest_file,
  position,
  state_at,
)


def test_loops_share_the_time_and_are_counted():
  def fast(rng):
    time.sleep(0.01)
    yield Outcome("x", "well", f"{rng.random()}")

  def slow(rng):
    time.sleep(0.1)
    yield Outcome("x", "silent" if rng.random() < 0.5 else "older")
    yield Outcome("y", "refused")

  told = []
  loops = {"fast": fast, "slow": slow}
  figures = torture.torture(loops, 1.0, seed=1, tell=told.append)
  a, b = figures["loops"]["fast"], figures["loops"]["slow"]
  assert 0.3 < a["seconds"] < 0.8 and 0.3 < b["seconds"] < 0.8
  assert a["results"] == {"x": {"well": a["trials"]}}
  assert b["results"]["y"] == {"refused": b["trials"]}
  assert sum(b["results"]["x"].values()) == b["trials"] < a["trials"]
  assert len(told) == len(figures["defects"]) == b["results"]["x"]["silent"]
  assert f"fast, x: {a['trials']} well" in "\n".join(torture.lines(figures))


def test_a_trial_depends_on_its_number_and_the_seed_alone():
  def loop(rng):
    drawn.append(rng.random())
    return ()

  runs = []
  for seed in (0, 0, 1):
    drawn = []
    torture.torture({"a": loop, "b": lambda rng: ()}, 0.01, seed)
    runs.append(drawn[0])
  assert runs[0] == runs[1] != runs[2]


def test_without_time_each_loop_is_tried_once():
  loops = {name: lambda rng: [Outcome("x", "well")] for name in "ab"}
  figures = torture.torture(loops, 0.0, seed=0)
  assert [x["trials"] for x in figures["loops"].values()] == [1, 1]


@pytest.fixture
def tortured(tmp_path):
  """Flips of two checkpoints, which nothing has trained."""
  checkpointer = Checkpointer(tmp_path / "work")
  for step in (1, 2):
    checkpointer.save(state_at(step), position(step), META)
  checkpointer.close()
  return flips.Flips(tmp_path / "work", abstract_state(), tmp_path / "copy")


def test_flips_are_classed(tortured, monkeypatch):
  def kinds():
    copy = tortured._copy(2)
    flip(largest_file(copy, 2))
    return tortured._class("ema", copy)[0], tortured._class("state", copy)[0]

  assert kinds() == ("older", "older")
  copy = tortured._copy(2)
  assert tortured._class("state", copy) == ("harmless", "")
  # Other values, and an older checkpoint without a word.
  tortured._expected = {"state": set(), "ema": set()}
  assert kinds() == ("silent", "silent")
  tortured._restores["ema"] = lambda workdir: (1, "")
  tortured._expected["ema"] = {(1, "")}
  assert kinds()[0] == "silent"

  def fails(error):
    def restore(workdir):
      raise error

    return restore

  tortured._restores["ema"] = fails(InputError("no"))
  tortured._restores["state"] = fails(KeyError("no"))
  assert kinds() == ("refused", "traceback")
  monkeypatch.setattr(flips, "_HANG_SECONDS", 0.1)
  tortured._restores["ema"] = lambda workdir: time.sleep(1)
  assert kinds()[0] == "hang"


def test_checks_that_are_off_are_off_in_flips(tmp_path):
  (tmp_path / checksums.NAME).write_text("{")
  with checksums.unverified():
    assert torture.in_time(lambda: checksums.verify(tmp_path), 9)
  with pytest.raises(checksums.DamageError):
    torture.in_time(lambda: checksums.verify(tmp_path), 9)


def test_damage_is_one_byte_or_an_end(tmp_path):
  path = tmp_path / "x"
  content = bytes(range(100))
  cut = 0
  for seed in range(50):
    path.write_bytes(content)
    flips.damage_file(path, random.Random(seed))
    found = path.read_bytes()
    cut += len(found) < 100
    assert found == content[: len(found)] or (
      sum(x != y for x, y in zip(found, content, strict=True)) == 1
    )
  assert 3 < cut < 20


@pytest.mark.slow
def test_nothing_is_found(tmp_path):
  out = tmp_path / "out.json"
  status, printed, err = run("torture", "--minutes=0.01", f"--out={out}")
  assert status == 0, printed + err
  figures = json.loads(out.read_text())
  assert figures["defects"] == []
  assert figures["loops"]["kills"]["results"]["result"] == {"same": 1}
  assert sum(figures["loops"]["flips"]["results"]["state"].values()) >= 1
  assert "flips, state: 1 " in printed
