"""Tables as Markdown."""

from collections.abc import Iterable, Sequence
from typing import Any


def table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
  """Writes a table, with a line break at its end.

  Args:
    head: names of the columns.
    rows: cells of each row, which `str` writes.
  """
  lines = [_line(head), "|---" * len(head) + "|", *map(_line, rows)]
  return "\n".join(lines) + "\n"


def _line(cells: Sequence[Any]) -> str:
  return "| " + " | ".join(map(str, cells)) + " |"
