"""Files that appear whole or not at all."""

import json

import pytest

from flexmdm_jax import files
from flexmdm_jax.errors import InputError


def test_output_keeps_what_was_there(tmp_path):
  path = tmp_path / "a" / "b.json"
  files.write_json(path, {"x": 1})
  with pytest.raises(TypeError):
    files.write_json(path, {"x": object()})
  assert json.loads(path.read_text()) == {"x": 1}


def test_what_cannot_be_written_is_refused(tmp_path):
  path = tmp_path / "b.json"
  path.write_text("{}")
  with pytest.raises(InputError, match="is a directory"):
    files.require_writable(tmp_path)
  with pytest.raises(InputError, match=r"cannot write .*c\.json"):
    files.require_writable(path / "c.json")
  with pytest.raises(InputError, match=r"cannot write .*/plots"):
    files.require_writable_folder(path / "plots")
  with pytest.raises(InputError, match=r"cannot write .*c\.json"):
    files.write_text(path / "c.json", "")


def test_the_commit_is_that_of_our_own_checkout_alone(tmp_path, monkeypatch):
  commit = files.git_commit()
  assert commit is None or len(commit.removesuffix("+changes")) == 40
  (tmp_path / ".git").mkdir()  # no repository
  monkeypatch.setattr(files, "__file__", str(tmp_path / "package/files.py"))
  assert files.git_commit() is None
  monkeypatch.setattr(files, "__file__", str(tmp_path / "a/b/files.py"))
  assert files.git_commit() is None
