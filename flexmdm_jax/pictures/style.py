"""The one style of all pictures: sizes, inks, models' lines, and saving.

Lines differ in colour (Okabe and Ito's), marker and dash pattern, so that they
are told apart in grey too. Nothing here touches process-wide state.
"""

import itertools
import os
import pathlib
import zlib
from collections.abc import Iterable
from typing import NamedTuple

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from flexmdm_jax.errors import InputError

DPI = 160  # pixels per inch of every picture

INK = "#23272e"
MUTED = "#6b7280"
GRID = "#e5e7eb"
DATA = "#4b5563"  # what is no model: data, floors


class Style(NamedTuple):
  """How a model's line is drawn: colour, marker and dash pattern."""

  colour: str
  marker: str
  dash: str


# Okabe and Ito's palette without yellow and black, which are hard to see on
# white or reserved for the data.
_PINNED = {
  "flexmdm": Style("#0072b2", "o", "-"),
  "mdm": Style("#d55e00", "s", "-"),
}
_FREE = [("#009e73", "^"), ("#cc79a7", "D"), ("#e69f00", "v"), ("#56b4e9", "P")]
_DASHES = ("-", "--", ":", "-.")


def model_styles(names: Iterable[str]) -> dict[str, Style]:
  """Gives each model a style that is the same in every figure.

  A style follows from the name alone, unless two names of one figure would
  share it: then the later name, in alphabetical order, takes the next free one.

  Args:
    names: model names; "FlexMDM" and "MDM" (in any case) have fixed colours.

  Returns:
    name -> style, in the order given; distinct for up to 18 names.
  """
  names = list(dict.fromkeys(names))
  styles = {n: _PINNED[n.lower()] for n in names if n.lower() in _PINNED}
  for name in sorted(set(names) - set(styles)):
    # Not `hash`: Python salts it, so colours would change with every run.
    first = zlib.crc32(name.encode()) % len(_FREE)
    rotated = _FREE[first:] + _FREE[:first]
    choices = [
      Style(colour, marker, dash)
      for dash, (colour, marker) in itertools.product(_DASHES, rotated)
    ]
    taken = set(styles.values())
    styles[name] = next((c for c in choices if c not in taken), choices[0])
  return {name: styles[name] for name in names}


def make_figure(
  width: float, height: float, columns: int, rows: int = 1
) -> tuple[Figure, list[Axes]]:
  """A figure of `width` x `height` inches and its panels, row by row."""
  figure = Figure((width, height), dpi=DPI, layout="constrained")
  panels = list(figure.subplots(rows, columns, squeeze=False).flat)
  for axes in panels:
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(MUTED)
    axes.tick_params(colors=MUTED, labelcolor=INK, labelsize=9)
    axes.xaxis.label.set_color(INK)
    axes.yaxis.label.set_color(INK)
    axes.grid(axis="y", color=GRID, lw=0.8)
    axes.set_axisbelow(True)
  return figure, panels


def write_title(axes: Axes, text: str, note: str = "") -> None:
  """Writes a panel's title, and a note at its right end."""
  axes.set_title(text, loc="left", color=INK, weight="bold", fontsize=11)
  if note:
    axes.set_title(note, loc="right", color=MUTED, fontsize=8.5)


def write_legend(axes: Axes, loc: str) -> None:
  """Writes a panel's legend."""
  axes.legend(
    loc=loc, fontsize=9, labelcolor=INK, frameon=True, edgecolor="none"
  )


def thousands(value: float, _: int = 0) -> str:
  """Writes whole steps; 12500 becomes 12.5k."""
  return f"{value / 1000:g}k" if value >= 1000 else f"{value:g}"


def require(condition: object, message: str) -> None:
  """Raises InputError with `message` unless `condition` holds."""
  if not condition:
    raise InputError(message)


def save(figure: Figure, path: str | os.PathLike) -> None:
  """Writes a figure, its folder too if missing: as SVG if so named, else PNG.

  A figure is the same file every time it is drawn.
  """
  path = pathlib.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  if path.suffix == ".svg":
    # Ids are random, and a date is written, unless these are given.
    with mpl.rc_context({"svg.hashsalt": path.stem}):
      figure.savefig(path, format="svg", metadata={"Date": None})
  else:
    figure.savefig(path, format="png", dpi=DPI, facecolor="white")
