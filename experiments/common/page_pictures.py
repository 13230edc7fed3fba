"""The pictures of the pages, each from what its page says or from the code."""

import pathlib
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.patches import FancyBboxPatch

from experiments.benchmarks.law import LAWS
from experiments.common.house import House, read_house
from experiments.common.tables import number, table
from flexmdm_jax import reading
from flexmdm_jax.exact import ShortLaw
from flexmdm_jax.exact.bounds import BOUNDS, bound_by_time, bounds
from flexmdm_jax.interpolant import JointInterpolant
from flexmdm_jax.pictures.figures import Panel, plot_panels
from flexmdm_jax.pictures.growth import plot_growth
from flexmdm_jax.pictures.style import (
  DATA,
  GRID,
  INK,
  MUTED,
  make_figure,
  model_styles,
  save,
  write_title,
)
from flexmdm_jax.schedules import Linear
from flexmdm_jax.vocab import Vocab

ROOT = pathlib.Path(__file__).parents[2]
_RESULTS = ROOT / "docs/results.md"
_NAMES = {
  "autoregressive": "autoregressive",
  "mdm": "MDM",
  "flexmdm": "FlexMDM",
  "mdm_pinned": "MDM, pinned",
  "mdm_prefix": "MDM, prefix",
}
# The law of the table in docs/method.md.
_LAW = {"": 0.1, "0": 0.2, "00": 0.1, "010": 0.35, "1101": 0.25}
_BOUNDS = {"paper": "paper", "aligned": "aligned targets", "tight": "tight"}


def growth(path: pathlib.Path) -> None:
  """Draws how a text grows, of the committed trace."""
  trace = reading.read_json(ROOT / "docs/images/data/growth.json")
  plot_growth(path, trace["sample"], num=9)


def bound(path: pathlib.Path) -> None:
  """Draws the bounds of a perfect model, and when they spend it."""
  law = ShortLaw(_LAW, Vocab(size=5, mask=3, pad=4), max_length=6)
  linear = JointInterpolant(Linear(), Linear())
  total = bounds(law, linear)
  entropy = law.entropy()[0]
  times = np.linspace(0.0, 0.995, 100)
  by_time = bound_by_time(law, linear, times)
  figure, (left, right) = make_figure(8.2, 3.5, columns=2)
  styles = model_styles(_BOUNDS.values())
  hatches = {"paper": "//", "aligned": "..", "tight": ""}
  for at, kind in enumerate(BOUNDS):
    style = styles[_BOUNDS[kind]]
    left.barh(
      at,
      total[kind],
      height=0.62,
      color=style.colour,
      hatch=hatches[kind],
      edgecolor="white",
    )
    left.text(
      total[kind] - 0.06,
      at,
      f"{total[kind]:.3f}",
      ha="right",
      va="center",
      color=INK,
      weight="bold",
      fontsize=10,
      bbox={"facecolor": "white", "edgecolor": "none", "pad": 2.5},
    )
    right.plot(
      times,
      by_time[kind],
      color=style.colour,
      ls=style.dash,
      lw=1.8,
      marker=style.marker,
      markevery=14,
      markeredgecolor="white",
      label=_BOUNDS[kind],
    )
  left.set_yticks(range(len(BOUNDS)), [_BOUNDS[kind] for kind in BOUNDS])
  left.invert_yaxis()
  left.grid(visible=False)
  left.axvline(entropy, color=DATA, ls=(0, (1, 1.5)), lw=1.6)
  left.set_title(
    f"entropy {entropy:.3f}", loc="right", color=MUTED, fontsize=8.5
  )
  left.set_xlabel("bound of a perfect model (nats)")
  write_title(left, "The bounds")
  right.set_ylim(bottom=0)
  right.set_xlim(0, 1)
  right.set_xlabel("time")
  right.set_ylabel("nats a unit of time")
  write_title(right, "When they are spent")
  right.legend(fontsize=9, labelcolor=INK, frameon=False, handlelength=3)
  save(figure, path)


def text(path: pathlib.Path) -> None:
  """Draws the bounds on held-out texts against the training steps."""
  panels = []
  for name, heading in (
    ("WordNet's definitions", "### Likelihood"),
    ("Shakespeare's speeches", "### Shakespeare"),
  ):
    rows = table(_RESULTS, heading, "| steps | 1000 |")
    panels.append(
      Panel(
        name,
        {_NAMES[row["steps"]]: _points(row, skip=("steps",)) for row in rows},
        xlabel="training step",
        ylabel="-log p of a text, at most (nats)",
      )
    )
  plot_panels(path, panels)


def quality(path: pathlib.Path) -> None:
  """Draws how far samplers are from laws that are known, by their calls."""
  heading = "## Samplers on laws that are known"
  rows = table(_RESULTS, heading, "| path | sampler | 8 calls")
  shown = ("events", "midpoint", "tau_leaping", "euler")
  short = {
    row["sampler"]: _points(row, skip=("path", "sampler"))
    for row in rows
    if row["path"].startswith("power") and row["sampler"] in shown
  }
  law = LAWS["short"]()
  panels = [
    Panel(
      "Eight short sequences",
      short,
      xlabel="network calls",
      ylabel="total variation from the law",
      logs="xy",
      floor=("perfect samples", law.total_variation_floor(20_000)),
    )
  ]
  rows = table(_RESULTS, heading, "| path | sampler | calls | mean length")
  lines: dict[str, tuple[list, list]] = {}
  for row in rows:
    if row["path"].startswith("power") and row["sampler"] in short:
      x, y = lines.setdefault(row["sampler"], ([], []))
      x.append(number(row["calls"]))
      y.append(number(row["excess, nats"]))
  panels.append(
    Panel(
      "A language of 39 tokens",
      lines,
      xlabel="network calls",
      ylabel="nats above perfect samples",
      logs="xy",
    )
  )
  plot_panels(path, panels)


def maze(path: pathlib.Path) -> None:
  """Draws how many mazes are solved by network calls."""
  rows = table(
    _RESULTS, "## Planning in a maze", "| maze | K | training steps | method |"
  )
  panels: dict[str, dict] = {}
  for row in rows:
    title = f"{row['maze']}, {row['K']} cells, {row['training steps']} steps"
    lines = panels.setdefault(title, {})
    skip = ("maze", "K", "training steps", "method")
    lines[_NAMES[row["method"]]] = _points(row, skip)
  plot_panels(
    path,
    [
      Panel(
        title,
        lines,
        xlabel="network calls",
        ylabel="solved (%)",
        logs="x",
        low=0,
        high=100,
      )
      for title, lines in panels.items()
    ],
    columns=2,
  )


def reasoning(path: pathlib.Path) -> None:
  """Draws how many word problems are solved by network calls."""
  rows = table(_RESULTS, "### Word problems", "| method | 2 |")
  panel = Panel(
    "Word problems with their steps",
    {row["method"]: _points(row, skip=("method",)) for row in rows},
    xlabel="network calls",
    ylabel="right (%)",
    logs="x",
    low=0,
    high=100,
  )
  plot_panels(path, [panel])


def cost(path: pathlib.Path) -> None:
  """Draws the cost of sampling by length, beside the public code's."""
  rows = table(_RESULTS, "### What sampling costs", "| model | batch | L |")
  figure, (axes,) = make_figure(7.4, 0.46 * len(rows) + 1.5, columns=1)
  axes.grid(visible=False)
  axes.grid(axis="x", color=GRID, lw=0.8)
  styles = model_styles(["public", "FlexMDM"])
  columns = list(rows[0])
  ours = [columns.index("ours, 25 % of L"), columns.index("ours, L")]
  for at, row in enumerate(rows):
    cells = list(row.values())
    for name, places, shift in (
      ("this code", ours, -0.13),
      ("public code", [i + 1 for i in ours], 0.13),
    ):
      style = styles["FlexMDM" if name == "this code" else "public"]
      low, high = (number(cells[i]) for i in places)
      axes.plot([low, high], [at + shift] * 2, color=style.colour, lw=2.2)
      for value, filled in ((low, False), (high, True)):
        axes.plot(
          value,
          at + shift,
          ls="none",
          marker=style.marker,
          markersize=7.5,
          color=style.colour,
          markerfacecolor=style.colour if filled else "white",
          markeredgewidth=1.6,
          label=f"{name}, {'all' if filled else 'a quarter'} of L"
          if at == 0
          else None,
          zorder=3,
        )
  axes.set_xscale("log")
  axes.set_yticks(
    range(len(rows)),
    [f"{row['model']}\nbatch {row['batch']}, L = {row['L']}" for row in rows],
  )
  axes.invert_yaxis()
  axes.xaxis.set_major_formatter(lambda v, _: f"{v:g}")
  axes.set_xlabel("seconds a batch")
  write_title(axes, "Cost of sampling by mean final length")
  figure.legend(
    loc="outside lower center",
    ncols=2,
    fontsize=9,
    labelcolor=INK,
    frameon=False,
  )
  save(figure, path)


def house(path: pathlib.Path) -> None:
  """Draws the packages on their floors."""
  _draw_house(path, read_house(ROOT))


# What `make figures` draws, by the name of the file.
PICTURES = {
  "growth": growth,
  "bound": bound,
  "text": text,
  "quality": quality,
  "maze": maze,
  "reasoning": reasoning,
  "cost": cost,
  "house": house,
}


def _points(
  row: Mapping[str, str], skip: Sequence[str]
) -> tuple[list[float], list[float]]:
  """Reads a row whose columns are named by numbers; empty cells are none."""
  cells = {name: cell for name, cell in row.items() if name not in skip}
  found = [(number(name), number(cell)) for name, cell in cells.items() if cell]
  return [x for x, _ in found], [y for _, y in found]


def _draw_house(path: pathlib.Path, house: House) -> None:
  """Draws a house: the lowest floor at the bottom, sizes as shades."""
  pitch, high, width = 0.37, 0.29, 8.2  # inches
  height = pitch * len(house.floors) + 0.2
  figure, (axes,) = make_figure(width, height, columns=1)
  figure.set_layout_engine("none")
  axes.set_position((0, 0, 1, 1))
  axes.set_xlim(0, width)
  axes.set_ylim(0, height)
  axes.axis("off")
  most = max(house.lines.values())
  for at, floor in enumerate(house.floors):
    y = 0.12 + pitch * at
    axes.plot([0, width], [y - 0.04] * 2, color=GRID, lw=1)
    box = 1.22
    x = (width - box * len(floor)) / 2
    for name in floor:
      # The darker, the more lines.
      share = (house.lines[name] / most) ** 0.4
      axes.add_patch(
        FancyBboxPatch(
          (x + 0.04, y),
          box - 0.08,
          high,
          boxstyle="round,pad=0,rounding_size=0.06",
          facecolor=(1 - 0.7 * share, 1 - 0.4 * share, 1 - 0.2 * share),
          edgecolor=INK,
          lw=0.8,
        )
      )
      look = {"ha": "center", "va": "center_baseline", "color": INK}
      axes.text(x + box / 2, y + 0.19, name, fontsize=9, **look)
      count = f"{house.lines[name]:,}"
      axes.text(x + box / 2, y + 0.07, count, fontsize=6.5, **look)
      x += box
  save(figure, path)
