import json

import pytest

from flexmdm_jax.data.docstrings import docstring_summaries, write_docstrings
from flexmdm_jax.errors import InputError


@pytest.fixture
def folder(tmp_path):
  sources = tmp_path / "sources"
  (sources / "test").mkdir(parents=True)
  (sources / "a.py").write_text(
    '"""A module\n  of two lines.\n\nMore of it."""\n'
    'def f():\n  """Does it."""\n'
    'class C:\n  """Does it."""\n  def g(self):\n    """\N{EM DASH}"""\n'
    f'async def h():\n  """{"x" * 65}"""\n'
  )
  (sources / "test" / "b.py").write_text('"""A test."""')
  (sources / "c.py").write_text("def broken(")
  return sources


def test_first_paragraphs_each_once(folder):
  assert docstring_summaries(folder=folder) == [
    "A module of two lines.",
    "Does it.",
  ]
  assert docstring_summaries(10, folder) == ["Does it."]


def test_written_as_a_text(folder, tmp_path):
  path = tmp_path / "new" / "text.jsonl"
  assert write_docstrings(path, folder=folder) == 2
  lines = path.read_text().splitlines()
  assert [json.loads(line)["text"] for line in lines][1] == "Does it."


def test_pythons_own_library():
  found = docstring_summaries(64)
  assert len(found) > 3000 and max(map(len, found)) <= 64


def test_bad_input(tmp_path):
  with pytest.raises(InputError, match="max_characters=0"):
    docstring_summaries(0)
  with pytest.raises(InputError, match="no docstrings"):
    docstring_summaries(folder=tmp_path)
  with pytest.raises(InputError, match="is a directory"):
    write_docstrings(tmp_path)
