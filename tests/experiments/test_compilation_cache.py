"""A main keeps its compiled programs, and leaves what is not its own alone."""

import os

import pytest

from experiments.common import compilation_cache
from tests.experiments.tools import run_text

# A main that compiles one program, and prints how often it was compiled anew.
MAIN = """
import os
import jax
import jax.numpy as jnp
from experiments.common import cli

os.environ["XDG_CACHE_HOME"] = {home!r}
jax.config.update("jax_enable_compilation_cache", {enabled})
jax.config.update("jax_compilation_cache_dir", {folder!r})
events = []
jax.monitoring.register_event_listener(lambda name, **_: events.append(name))

def main(_):
  jax.jit(lambda x: jnp.linalg.qr(jnp.sort(x @ x.T)))(jnp.ones((64, 3)))
  print(sum("cache_misses" in name for name in events))

cli.run(main)
"""


def compiled(*flags, home=None, enabled=True, folder=None):
  """Runs the main: (number of programs compiled anew, what it warned of)."""
  text = MAIN.format(home=str(home), enabled=enabled, folder=folder)
  status, out, err = run_text(text, *flags)
  assert status == 0, err
  return int(out), err


def test_a_second_start_compiles_nothing(tmp_path):
  first, _ = compiled(home=tmp_path)
  assert first > 0
  (folder,) = (tmp_path / "flexmdm_jax/xla").iterdir()
  assert any(folder.iterdir())
  assert compiled(home=tmp_path)[0] == 0


@pytest.mark.parametrize("by_flag", [True, False])
def test_the_folder_can_be_chosen(tmp_path, by_flag):
  own, home = tmp_path / "own", tmp_path / "home"
  if by_flag:
    compiled(f"--compilation_cache={own}", home=home, folder=str(home / "no"))
  else:
    compiled(home=home, folder=str(own))
  assert any(own.iterdir())
  assert not home.exists()


@pytest.mark.parametrize("by_flag", [True, False])
def test_it_can_be_off(tmp_path, by_flag):
  flags = ["--compilation_cache=off"] if by_flag else []
  compiled(*flags, home=tmp_path, enabled=by_flag)
  assert not any(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_is_a_warning(tmp_path):
  (tmp_path / "file").touch()
  _, warned = compiled(f"--compilation_cache={tmp_path}/file/x")
  assert warned.startswith("warning: the compilation cache")
  assert warned.count("\n") == 1 and "--compilation_cache" in warned


def test_trim_removes_old_programs_and_nothing_else(tmp_path):
  for i, name in enumerate(["a-cache", "b-cache", "notes", "c-cache"]):
    (tmp_path / name).write_bytes(bytes(100))
    os.utime(tmp_path / name, (i, i))
  compilation_cache._trim(tmp_path, 250)
  assert {x.name for x in tmp_path.iterdir()} == {"notes", "b-cache", "c-cache"}
  compilation_cache._trim(tmp_path, 0)
  assert [x.name for x in tmp_path.iterdir()] == ["notes"]
