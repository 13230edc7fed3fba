"""Functions of a folder of Python."""

import ast
import itertools

import pytest

from flexmdm_jax.data.python_functions import standard_library_functions
from flexmdm_jax.errors import InputError

SOURCE = '''
import os

def first(a):
  """Does it.

  Or not.
  """
  # why
  return a

class C:
    @property
    def second(self):
        "one line"
        def inner(): pass
        return inner

    def third(self):
        """Only words."""

    async def fourth(self):
        pass

if os.name:
  def first_again(a): return a
else:
  def first_again(a): return a
'''


@pytest.fixture
def folder(tmp_path):
  (tmp_path / "a.py").write_text(SOURCE)
  (tmp_path / "b.py").write_text(SOURCE)
  (tmp_path / "broken.py").write_text("def (")
  (tmp_path / "binary.py").write_bytes(b"\xff\xfe")
  (tmp_path / "test").mkdir()
  (tmp_path / "test" / "c.py").write_text("def left_out(): pass\n")
  return tmp_path


def test_each_function_comes_once_and_whole(folder):
  found = list(standard_library_functions(folder))
  assert [ast.parse(text).body[0].name for text in found] == [
    *("first", "second", "third", "first_again")
  ]
  assert found[0].startswith('def first(a):\n  """Does it.')
  assert found[1].startswith("@property\ndef second(self):\n    ")
  assert all(text.endswith("\n") for text in found)


def test_docstrings_can_be_left_out(folder):
  found = list(standard_library_functions(folder, docstrings=False))
  assert found[0] == "def first(a):\n  return a\n"
  assert found[1].startswith("@property\ndef second(self):\n    def inner()")
  assert len(found) == 3  # of one nothing is left


def test_the_library_itself_is_read():
  for text in itertools.islice(standard_library_functions(), 20):
    assert isinstance(ast.parse(text).body[0], ast.FunctionDef)
  with pytest.raises(InputError, match="nowhere is no folder"):
    next(standard_library_functions("nowhere"))
