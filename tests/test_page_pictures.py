"""The pages' pictures: there, described, small, and as the code draws them."""

import pathlib
import re

import pytest

from experiments.common import house, page_pictures, tables
from flexmdm_jax.errors import InputError

ROOT = pathlib.Path(__file__).parents[1]
PAGES = [
  ROOT / "README.md",
  ROOT / "WORKSPACE.md",
  *sorted((ROOT / "docs").rglob("*.md")),
]


def pictures(page):
  """Pairs of the alternative text and the path of a page's own pictures."""
  text = page.read_text("utf-8")
  text = re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)
  found = re.findall(r"!\[(.*?)\]\((.*?)\)", text, re.S)
  for tag in re.findall(r"<img\b.*?>", text, re.S):
    parts = dict(re.findall(r'(\w+)="(.*?)"', tag, re.S))
    found.append((parts.get("alt", ""), parts["src"]))
  return [x for x in found if not x[1].startswith("https://")]  # badges


def test_pictures_are_there_described_and_small():
  shown = set()
  for page in PAGES:
    for text, source in pictures(page):
      path = (page.parent / source).resolve()
      assert path.is_file(), (page, source)
      assert len(text.split()) >= 5, (page, source)
      shown.add(path)
      assert path.stat().st_size < 150_000 or path.suffix == ".svg"
  # None is drawn that no page shows.
  drawn = {ROOT / f"docs/images/{x}.svg" for x in page_pictures.PICTURES}
  assert drawn <= shown
  assert len(pictures(ROOT / "README.md")) <= 3


# The bounds take a compilation: tests/exact/test_bounds.py has their numbers.
@pytest.mark.parametrize("name", sorted({*page_pictures.PICTURES} - {"bound"}))
def test_a_picture_is_drawn_twice_the_same(name, tmp_path):
  paths = tmp_path / f"{name}.svg", tmp_path / "again" / f"{name}.svg"
  for path in paths:
    page_pictures.PICTURES[name](path)
  text = paths[0].read_text("utf-8")
  assert text == paths[1].read_text("utf-8")
  assert "http" not in re.sub(
    r'xmlns[:\w]*="[^"]*"|<metadata>.*?</metadata>|'
    r"<!DOCTYPE[^>]*>",
    "",
    text,
    flags=re.S,
  )


def test_tables_are_read(tmp_path):
  page = tmp_path / "page.md"
  page.write_text(
    "# A\n\n| a | b | b |\n|---|---|---|\n| x | 1,024 | .5 ± 2 |\n"
  )
  (row,) = tables.table(page, "# A", "| a |")
  assert row == {"a": "x", "b": "1,024", "b (2)": ".5 ± 2"}
  assert [tables.number(x) for x in row.values()] == [None, 1024.0, 0.5]
  for heading, first in (("# A", "| c |"), ("# B", "| a |")):
    with pytest.raises(InputError, match="has no table that begins"):
      tables.table(page, heading, first)
  page.write_text("# A\n| a | b |\n|---|---|\n| x |\n")
  with pytest.raises(InputError, match="has not the columns"):
    tables.table(page, "# A", "| a |")


def test_the_house_has_every_package(tmp_path):
  found = house.read_house(ROOT)
  assert found.floors[0] == ["errors", "kernels"]
  assert min(found.lines.values()) > 0
  (tmp_path / "WORKSPACE.md").write_text("# Nothing\n")
  with pytest.raises(InputError, match="no list of floors"):
    house.read_house(tmp_path)
