"""Tables of the pages, so that a picture and its page have the same numbers."""

import pathlib
import re

from flexmdm_jax import reading
from flexmdm_jax.errors import InputError


def table(page: pathlib.Path, heading: str, first: str) -> list[dict[str, str]]:
  """Reads a table of a page.

  Args:
    page: Markdown file.
    heading: the line of a heading, as "### Shakespeare".
    first: beginning of the table's first line, as "| maze | K |"; the first
      table after the heading that begins so is taken.

  Returns:
    A row of text a line, by the names of the columns; the second of one name
    is "name (2)".

  Raises:
    InputError: there is no such table, or a row is shorter than the first line.
  """
  lines = reading.read_text(page).splitlines()
  begin = lines.index(heading) if heading in lines else len(lines)
  at = next(
    (i for i in range(begin, len(lines)) if lines[i].startswith(first)), None
  )
  if at is None:
    raise InputError(
      f"{page} has no table that begins with {first!r} after {heading!r}."
    )
  names: list[str] = []
  for cell in _cells(lines[at]):
    again = sum(name.split(" (")[0] == cell for name in names)
    names.append(f"{cell} ({again + 1})" if again else cell)
  rows = []
  for line in lines[at + 2 :]:
    if not line.startswith("|"):
      break
    cells = _cells(line)
    if len(cells) != len(names):
      raise InputError(f"{page}: {line!r} has not the columns {names}.")
    rows.append(dict(zip(names, cells, strict=True)))
  return rows


def number(cell: str) -> float | None:
  """Reads the first number of a cell; None if it has none."""
  found = re.search(r"-?\d[\d,]*\.?\d*|-?\.\d+", cell)
  return float(found[0].replace(",", "")) if found else None


def _cells(line: str) -> list[str]:
  return [cell.strip() for cell in line.strip().strip("|").split("|")]
