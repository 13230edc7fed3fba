"""The notebooks: equal to their sources, and they run from top to bottom."""

import importlib.util
import pathlib
import re
import subprocess
import sys

import nbformat
import pytest

from experiments.common import notebooks
from flexmdm_jax.errors import InputError

SOURCES = notebooks.sources()


def code(path):
  return [content for kind, content in notebooks.cells(path) if kind == "code"]


def test_there_are_six():
  assert [name[0] for name in SOURCES] == list("123456")
  assert {path.stem for path in notebooks.FOLDER.glob("*.ipynb")} == set(
    SOURCES
  )


@pytest.mark.parametrize("name", SOURCES)
def test_a_notebook_has_the_cells_of_its_source(name):
  source = SOURCES[name]
  assert notebooks.cells(source) == notebooks.cells(
    source.with_suffix(".ipynb")
  ), f"{name} is older than its source: run make notebooks."


@pytest.mark.parametrize("name", SOURCES)
def test_outputs_are_worth_looking_at(name):
  path = SOURCES[name].with_suffix(".ipynb")
  assert path.stat().st_size < 600_000
  found = nbformat.read(path, as_version=4)
  nbformat.validate(found)
  outputs = [x for cell in found.cells for x in cell.get("outputs", [])]
  kinds = {x.output_type for x in outputs}
  assert "error" not in kinds
  assert any("image/png" in x.get("data", {}) for x in outputs)
  # No cell has failed quietly, and no name of a machine's folder is shown.
  text = "".join(x.text for x in outputs if x.output_type == "stream")
  assert not re.search(r"Traceback|/tmp/|/root/|/home/", text), text


@pytest.mark.parametrize("name", SOURCES)
def test_cells_are_short_and_have_a_badge(name):
  (kind, first), *_ = notebooks.cells(SOURCES[name])
  assert kind == "markdown"
  assert f"/experiments/colab/{name}.ipynb" in first
  # What is longer belongs to the library; configs are lists of numbers.
  long = [
    cell
    for cell in code(SOURCES[name])[1:]
    if len([x for x in cell.splitlines() if x.strip()]) > 48
  ]
  assert not long


def test_all_begin_with_the_same_cell():
  assert len({code(path)[0] for path in SOURCES.values()}) == 1


def run_first_cell(monkeypatch):
  """Executes the cell that installs; returns the programs that it started."""
  started = []

  def run(command, check):
    assert check
    started.append([str(word) for word in command])

  monkeypatch.setattr(subprocess, "run", run)
  monkeypatch.setattr(sys, "path", list(sys.path))
  scope = {}
  exec(code(SOURCES["1_interpolant"])[0], scope)
  return started, scope


def test_nothing_is_installed_where_all_is_there(monkeypatch):
  started, scope = run_first_cell(monkeypatch)
  assert not started
  assert scope["root"] == notebooks.ROOT and str(scope["root"]) in sys.path


def test_what_is_missing_is_installed(monkeypatch, tmp_path):
  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
  (clone, install), scope = run_first_cell(monkeypatch)
  folder = str(tmp_path / "flexmdm_jax_source")
  assert clone == ["git", "clone", "--depth=1", scope["REPOSITORY"], folder]
  assert install[1:] == ["-m", "pip", "install", f"{folder}[notebooks]"]
  assert sys.path[-1] == folder


def test_configs_are_cloned_beside_an_installed_wheel(monkeypatch, tmp_path):
  monkeypatch.chdir(tmp_path)
  site = tmp_path / "site-packages" / "flexmdm_jax"
  spec = importlib.util.spec_from_file_location("x", site / "__init__.py")
  monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
  (clone,), scope = run_first_cell(monkeypatch)
  assert clone[0] == "git"
  assert scope["root"] == tmp_path / "flexmdm_jax_source"


def test_a_cell_that_fails_is_one_line(tmp_path):
  source = tmp_path / "1_wrong.py"
  source.write_text("# %%\nprint(1)\n\n# %%\nraise ValueError('too small')\n")
  with pytest.raises(InputError, match=r"1_wrong\.py: ValueError: too small$"):
    notebooks.execute(source, "tiny")


@pytest.mark.slow
@pytest.mark.parametrize("name", SOURCES)
def test_runs_from_top_to_bottom(name):
  executed = notebooks.execute(SOURCES[name], "tiny", timeout=900)
  for cell in executed.cells:
    if cell.cell_type == "code":
      assert cell.execution_count, cell.source


@pytest.mark.slow
def test_a_missing_text_is_one_line(tmp_path):
  text = pathlib.Path(SOURCES["3_text"]).read_text()
  source = tmp_path / "3_text.py"
  source.write_text(text.replace("MY_TEXT = None", "MY_TEXT = 'none.jsonl'"))
  with pytest.raises(InputError) as caught:
    notebooks.execute(source, "tiny", timeout=900)
  assert "InputError" in str(caught.value) and "none.jsonl" in str(caught.value)
  assert "\n" not in str(caught.value)
