"""The map of the house: the packages, their floors and their sizes."""

import dataclasses
import pathlib
import re

from flexmdm_jax import reading
from flexmdm_jax.errors import InputError

# What is no part of the library stands on its roof, in one box each.
_ROOF = ("experiments", "examples", "tests")


@dataclasses.dataclass(frozen=True)
class House:
  """Packages on their floors.

  Attributes:
    floors: names of the packages and modules of each floor, the mathematics'
      ground first.
    lines: number of lines of Python of each.
  """

  floors: list[list[str]]
  lines: dict[str, int]


def read_house(root: pathlib.Path) -> House:
  """Reads the floors from WORKSPACE.md, and all else from the code.

  Args:
    root: the checkout.

  Raises:
    InputError: the page lists no floors, or others than there are packages.
  """
  page = root / "WORKSPACE.md"
  found = re.search(
    r"^## Floors$.*?^```\n(.*?)^```$", reading.read_text(page), re.M | re.S
  )
  if not found:
    raise InputError(f"{page} has no list of floors after '## Floors'.")
  floors = [
    [name.strip() for name in line.split(",")]
    for line in found[1].splitlines()
    if line.strip()
  ]
  listed = {name for floor in floors for name in floor}
  files = {name: _files(root, name) for name in listed}
  library = root / "flexmdm_jax"
  present = {
    path.stem
    for path in library.iterdir()
    if path.suffix == ".py" or (path / "__init__.py").exists()
  } - {"__init__"}
  if listed - set(_ROOF) != present:
    raise InputError(
      f"{page} lists other floors than there are packages:"
      f" {sorted((listed - set(_ROOF)) ^ present)}."
    )
  lines = {
    name: sum(len(reading.read_text(path).splitlines()) for path in paths)
    for name, paths in files.items()
  }
  return House(floors, lines)


def _files(root: pathlib.Path, name: str) -> list[pathlib.Path]:
  """Lists the Python files of a package, a module or a folder of the root."""
  if name in (*_ROOF, "kernels"):
    return sorted((root / name).rglob("*.py"))
  path = root / "flexmdm_jax" / name
  return sorted(path.rglob("*.py")) or [path.with_suffix(".py")]
