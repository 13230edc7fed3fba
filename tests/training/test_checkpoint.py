"""Checkpoints: checksums of their files, damage, and what has none."""

import random
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.benchmarks.flips import Flips, Position
from flexmdm_jax import checksums
from flexmdm_jax.errors import InputError
from flexmdm_jax.training.checkpoint import Checkpointer, restore_ema
from flexmdm_jax.training.step import TrainState

META = {"config": {"width": 8}, "interpolant": None}


def state_at(step):
  """A state of a few arrays, which nothing has trained."""

  def params(seed):
    keys = jax.random.split(jax.random.key(seed))
    return {
      "dense": {"kernel": jax.random.normal(keys[0], (16, 8))},
      "bias": jax.random.normal(keys[1], (8,)),
    }

  return TrainState(
    step=jnp.int32(step),
    params=params(step),
    ema=params(step + 1),
    opt_state=(params(step + 2), jnp.int32(step)),
    key=jax.random.key(0),
    sums={"loss": jnp.float32(1.5)},
  )


def position(step):
  data = Position()
  data.set_state({"batches": step})
  return data


def abstract_state():
  return jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding),
    state_at(0),
  )


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
  """A work directory with the checkpoints 1 and 2."""
  workdir = tmp_path_factory.mktemp("saved")
  checkpointer = Checkpointer(workdir)
  for step in (1, 2):
    checkpointer.save(state_at(step), position(step), META)
  checkpointer.close()
  return workdir


@pytest.fixture
def workdir(saved, tmp_path):
  shutil.copytree(saved, tmp_path / "work")
  return tmp_path / "work"


def largest_file(workdir, step):
  paths = (workdir / "checkpoints" / str(step) / "state").rglob("*")
  return max((x for x in paths if x.is_file()), key=lambda x: x.stat().st_size)


def flip(path):
  content = bytearray(path.read_bytes())
  content[len(content) // 2] ^= 1
  path.write_bytes(content)


def assert_state(state, step):
  for x, y in zip(
    jax.tree.leaves(state), jax.tree.leaves(state_at(step)), strict=True
  ):
    if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
      x, y = jax.random.key_data(x), jax.random.key_data(y)
    np.testing.assert_array_equal(x, y)


def test_a_checkpoint_has_checksums_of_all_that_is_restored(saved):
  for step in (1, 2):
    folder = saved / "checkpoints" / str(step)
    assert checksums.verify(folder)
    noted = (folder / checksums.NAME).read_text()
    for item in ("state", "data", "meta"):
      for path in (folder / item).rglob("*"):
        assert path.is_dir() or path.relative_to(folder).as_posix() in noted


def test_a_flipped_bit_is_a_damaged_checkpoint(workdir, caplog):
  path = largest_file(workdir, 2)
  flip(path)
  step, _, meta = restore_ema(workdir, abstract_state().ema)
  assert (step, meta) == (1, META)
  assert f"{path} has another content" in caplog.text
  caplog.clear()
  data = Position()
  state = Checkpointer(workdir).restore(abstract_state(), data)
  assert_state(state, 1)
  assert data.value == {"batches": 1}
  assert f"{path} has another content" in caplog.text
  assert (workdir / "damaged_checkpoints" / "2").is_dir()
  assert not (workdir / "checkpoints" / "2").exists()


def test_a_file_that_is_gone_or_short_is_damage(workdir):
  largest_file(workdir, 1).unlink()
  path = largest_file(workdir, 2)
  path.write_bytes(path.read_bytes()[:-1])
  with pytest.raises(
    InputError, match=r"\(2: .* has \d+ bytes instead of \d+\)"
  ):
    Checkpointer(workdir).restore(abstract_state(), Position())
  with pytest.raises(InputError, match="no readable checkpoint"):
    restore_ema(workdir, abstract_state().ema)


def test_a_checkpoint_of_an_older_version_is_read_with_a_warning(
  workdir, caplog
):
  for step in (1, 2):
    (workdir / "checkpoints" / str(step) / checksums.NAME).unlink()
  state = Checkpointer(workdir).restore(abstract_state(), Position())
  assert_state(state, 2)
  assert "read without a check" in caplog.text
  caplog.clear()
  assert restore_ema(workdir, abstract_state().ema)[0] == 2
  assert "read without a check" in caplog.text


def test_checks_can_be_turned_off(workdir):
  note = workdir / "checkpoints" / "2" / checksums.NAME
  note.write_text("{")
  with checksums.unverified():
    assert restore_ema(workdir, abstract_state().ema)[0] == 2
  assert restore_ema(workdir, abstract_state().ema)[0] == 1


def test_a_save_without_its_checksums_is_no_checkpoint(
  tmp_path, monkeypatch, caplog
):
  def full(*_):
    raise OSError(28, "No space left on device")

  checkpointer = Checkpointer(tmp_path)
  checkpointer.save(state_at(1), position(1), META)
  checkpointer._manager.wait_until_finished()
  monkeypatch.setattr(checksums, "write", full)
  checkpointer.save(state_at(2), position(2), META)
  with pytest.raises(InputError, match="no space left"):
    checkpointer.close()
  state = Checkpointer(tmp_path).restore(abstract_state(), Position())
  assert_state(state, 1)


def torture(saved, tmp_path, count):
  flips = Flips(saved, abstract_state(), tmp_path / "copy")
  outcomes = [x for i in range(count) for x in flips(random.Random(i))]
  wrong = [x for x in outcomes if x.result not in ("older", "harmless")]
  assert not wrong
  older = sum(x.result == "older" for x in outcomes)
  assert older > 1.5 * count, older  # of two restores each


def test_no_flip_is_silent(saved, tmp_path):
  torture(saved, tmp_path, 12)


@pytest.mark.slow
def test_no_flip_of_many_is_silent(saved, tmp_path):
  torture(saved, tmp_path, 500)
