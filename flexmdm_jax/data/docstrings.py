"""A text that every machine has: the docstrings of Python's own library.

Thousands of short sentences, with a natural law of lengths, for a first try
without a download.
"""

import ast
import json
import os

from flexmdm_jax import files
from flexmdm_jax.data.python_functions import python_modules
from flexmdm_jax.errors import InputError


def docstring_summaries(
  max_characters: int = 64, folder: str | os.PathLike | None = None
) -> list[str]:
  """Reads the first paragraphs of docstrings that are short enough.

  Nothing is imported: the sources are parsed.

  Args:
    max_characters: longest paragraph to take, at least 1.
    folder: folder of Python files; None for the standard library's.

  Returns:
    Printable ASCII texts on one line each, sorted, each once. Tests and
    installed packages are left out.

  Raises:
    InputError: max_characters < 1, or the folder has no docstrings.
  """
  if max_characters < 1:
    raise InputError(f"max_characters={max_characters} must be at least 1.")
  found = set()
  for _, tree in python_modules(folder):
    for node in ast.walk(tree):
      if isinstance(
        node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
      ):
        first = (ast.get_docstring(node) or "").partition("\n\n")[0]
        found.add(" ".join(first.split()))
  kept = sorted(
    text
    for text in found
    if 0 < len(text) <= max_characters
    if text.isascii() and text.isprintable()
  )
  if not kept:
    raise InputError(
      f"folder={folder} has no docstrings of at most {max_characters}"
      " characters: give a folder of Python files."
    )
  return kept


def write_docstrings(
  path: str | os.PathLike,
  max_characters: int = 64,
  folder: str | os.PathLike | None = None,
) -> int:
  """Writes `docstring_summaries` as `{"text": ...}` on each line.

  Args:
    path: file to write.
    max_characters: longest paragraph to take.
    folder: folder of Python files; None for the standard library's.

  Returns:
    The number of lines.

  Raises:
    InputError: as `docstring_summaries`, or the file cannot be written.
  """
  files.require_writable(path)
  texts = docstring_summaries(max_characters, folder)
  files.write_text(path, "".join(json.dumps({"text": x}) + "\n" for x in texts))
  return len(texts)
