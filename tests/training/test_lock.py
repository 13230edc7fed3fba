"""One training at a time in a work directory, and no lock of the dead."""

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time

import pytest

from flexmdm_jax.errors import InputError
from flexmdm_jax.training import lock as lock_lib
from flexmdm_jax.training.lock import NAME, Lock


def quick(folder):
  """A lock whose holder elsewhere is dead after half a second."""
  return Lock(folder, renew_seconds=0.05, lease_seconds=0.5)


def rewrite(folder, **changes):
  """Makes the lock that of another holder."""
  path = folder / NAME
  path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_held_until_released(tmp_path):
  with Lock(tmp_path):
    with pytest.raises(
      InputError,
      match=f"{re.escape(str(tmp_path))} is in use by process {os.getpid()} on"
      r" host \S+ since \d{4}-\d\d-\d\d \d\d:\d\d:\d\d",
    ):
      Lock(tmp_path)
  assert not (tmp_path / NAME).exists()
  with Lock(tmp_path):
    pass


def test_released_on_error(tmp_path):
  with pytest.raises(KeyError), Lock(tmp_path):
    raise KeyError
  assert list(tmp_path.iterdir()) == []


def test_a_killed_process_keeps_no_lock(tmp_path, caplog):
  text = (
    "import pathlib, sys, time; from flexmdm_jax.training.lock import Lock;"
    "Lock(pathlib.Path(sys.argv[1])); print(flush=True); time.sleep(60)"
  )
  process = subprocess.Popen(
    [sys.executable, "-c", text, str(tmp_path)], stdout=subprocess.PIPE
  )
  process.stdout.readline()
  with pytest.raises(InputError, match=f"process {process.pid} on"):
    Lock(tmp_path)
  process.send_signal(signal.SIGKILL)
  while lock_lib._start_time(process.pid) != -1:  # nobody waited for it yet
    time.sleep(0.01)
  with Lock(tmp_path) as lock:
    assert json.loads((tmp_path / NAME).read_text())["process"] == os.getpid()
    lock.require_held()
  process.wait()
  assert f"process {process.pid} on" in caplog.text
  assert "which is dead" in caplog.text


def test_an_id_that_another_process_has_by_now_keeps_no_lock(tmp_path):
  lock = Lock(tmp_path)
  lock._ended.set()
  rewrite(tmp_path, started=1)
  with Lock(tmp_path):
    pass


@pytest.mark.parametrize("machine", ["another boot", None])
def test_a_holder_elsewhere_lives_as_long_as_it_renews(tmp_path, machine):
  path = tmp_path / NAME
  Lock(tmp_path)._ended.set()
  rewrite(tmp_path, machine=machine, host="far")
  ended = threading.Event()

  def renew():
    while not ended.wait(0.05):
      os.utime(path)

  thread = threading.Thread(target=renew)
  thread.start()
  try:
    with pytest.raises(InputError, match="on host far since"):
      quick(tmp_path)
  finally:
    ended.set()
    thread.join()
  with quick(tmp_path):  # it is silent now
    assert json.loads(path.read_text())["process"] == os.getpid()


def test_a_half_written_lock_is_dead_when_it_stays_so(tmp_path):
  (tmp_path / NAME).write_text('{"host')
  with quick(tmp_path) as lock:
    lock.require_held()


def test_a_holder_that_was_stopped_notices_its_successor(tmp_path):
  lock = quick(tmp_path)
  rewrite(tmp_path, token="another", host="far")
  end = time.monotonic() + 10
  while not lock._lost and time.monotonic() < end:
    time.sleep(0.01)
  with pytest.raises(InputError, match=r"was taken by process \d+ on host far"):
    lock.require_held()
  lock.release()
  assert (tmp_path / NAME).exists()  # it is the other's


def test_a_removed_lock_comes_back(tmp_path):
  with quick(tmp_path) as lock:
    (tmp_path / NAME).unlink()
    end = time.monotonic() + 10
    while not (tmp_path / NAME).exists() and time.monotonic() < end:
      time.sleep(0.01)
    lock.require_held()
    assert (tmp_path / NAME).exists()


def test_a_new_holder_is_not_removed_for_the_dead_one(tmp_path):
  path = tmp_path / NAME
  lock = Lock(tmp_path)
  text = path.read_text()
  # As if this process had seen another holder dead a moment ago.
  lock._remove(lock_lib._Seen("dead", 0))
  assert path.read_text() == text
  lock.release()
  assert list(tmp_path.iterdir()) == []


def test_who_dies_while_removing_holds_nothing_up(tmp_path):
  Lock(tmp_path)._ended.set()
  rewrite(tmp_path, started=1)
  dead = (tmp_path / NAME).read_text()
  claim = hashlib.sha256(dead.encode()).hexdigest()[:16]
  (tmp_path / f"{NAME}.{claim}").write_text(dead)
  Lock(tmp_path).release()
  assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("stale", [False, True])
def test_of_many_starters_one_wins(tmp_path, stale):
  def start():
    barrier.wait()
    try:
      held.append(Lock(tmp_path))
    except InputError as error:
      refused.append(str(error))

  for _ in range(3):
    if stale:
      Lock(tmp_path)._ended.set()
      rewrite(tmp_path, started=1)
    held, refused, barrier = [], [], threading.Barrier(8)
    threads = [threading.Thread(target=start) for _ in range(8)]
    for thread in threads:
      thread.start()
    for thread in threads:
      thread.join()
    assert len(held) == 1, refused
    assert len(refused) == 7 and "in use by process" in refused[0]
    held[0].require_held()
    held[0].release()
    assert list(tmp_path.iterdir()) == []
