"""Functions of Python's standard library: code that every machine has."""

import ast
import pathlib
import sysconfig
import textwrap
import warnings
from collections.abc import Iterator

from flexmdm_jax.errors import InputError

# Folders that are no part of the library, and its tests, three times as long.
_LEFT_OUT = {"site-packages", "dist-packages", "test", "tests", "idle_test"}


def standard_library_functions(
  folder: str | pathlib.Path | None = None, *, docstrings: bool = True
) -> Iterator[str]:
  """Reads the functions and methods of a folder of Python, each once.

  A function inside another is a part of it, not one more.

  Args:
    folder: as `python_modules` takes it. The version of a standard library
      decides what is found.
    docstrings: keep docstrings, and comments before the first statement.

  Yields:
    The source of each, without the indentation of its class, ending in a line
    break.

  Raises:
    InputError: as `python_modules`.
  """
  seen = set()
  for source, tree in python_modules(folder):
    for node in _functions(tree):
      text = _source(source, node, docstrings)
      if text is not None and text not in seen:
        seen.add(text)
        yield text


def python_modules(
  folder: str | pathlib.Path | None = None,
) -> Iterator[tuple[str, ast.Module]]:
  """Reads the Python files of a folder, and imports none.

  Tests and installed packages are left out, and files that do not parse.

  Args:
    folder: folder to read, in the order of the files' names; None for the
      standard library of the Python that runs.

  Yields:
    The source of each, and its tree.

  Raises:
    InputError: there is no such folder.
  """
  root = pathlib.Path(folder or sysconfig.get_paths()["stdlib"])
  if not root.is_dir():
    raise InputError(f"{root} is no folder: give one with files of Python.")
  for path in sorted(root.rglob("*.py")):
    if _LEFT_OUT & set(path.relative_to(root).parts):
      continue
    try:
      source = path.read_text("utf-8")
      with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the sources' own escapes
        tree = ast.parse(source)
    except (OSError, SyntaxError, ValueError, RecursionError):
      continue
    yield source, tree


def _functions(tree: ast.Module) -> Iterator[ast.FunctionDef]:
  """Finds functions and methods, in order, but none inside another."""
  pending: list[ast.AST] = [tree]
  while pending:
    node = pending.pop(0)
    if isinstance(node, ast.FunctionDef):
      yield node
    elif not isinstance(node, ast.AsyncFunctionDef | ast.expr):
      pending[:0] = ast.iter_child_nodes(node)


def _source(source: str, node: ast.FunctionDef, docstrings: bool) -> str | None:
  """Cuts out a function; None where nothing but a docstring is in it."""
  lines = source.splitlines(keepends=True)
  first = min([node.lineno, *(x.lineno for x in node.decorator_list)])
  kept = lines[first - 1 : node.end_lineno]
  if not docstrings and ast.get_docstring(node, clean=False) is not None:
    if len(node.body) == 1 or node.body[1].lineno <= node.body[0].end_lineno:
      return None
    begin = node.body[0].lineno - first
    end = min(
      [node.body[1].lineno]
      + [x.lineno for x in getattr(node.body[1], "decorator_list", [])]
    )
    if begin == 0:  # the docstring stands in the line of the "def"
      return None
    kept = [*kept[:begin], *kept[end - first :]]
  text = textwrap.dedent("".join(kept)).rstrip() + "\n"
  try:
    ast.parse(text)
  except SyntaxError:  # a text over several lines that is not indented
    return None
  return text
