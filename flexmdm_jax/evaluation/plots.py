"""Pictures of training curves, length laws, success rates and maze paths.

Every function takes plain NumPy data and a path, and writes one PNG file. The
figures are built without pyplot, so nothing here touches process-wide state.
"""

import dataclasses
import itertools
import os
import pathlib
import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib import collections as mcollections
from matplotlib import colors as mcolors
from matplotlib import ticker
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure

from flexmdm_jax.errors import InputError

DPI = 160  # pixels per inch of every picture

_INK = "#23272e"
_MUTED = "#6b7280"
_GRID = "#e5e7eb"
_DATA = "#4b5563"
_FAULT = "#d4003c"
_WALL = "#3a404a"
_FLOOR = "#f8f7f4"
# Both ends of viridis are cut: yellow is lost on the floor, the darkest purple
# on the walls.
_TIME = mcolors.LinearSegmentedColormap.from_list(
  "path_time", ["#46337f", "#2a6fa8", "#1f9e89", "#8fcf3c"]
)


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


def smooth(values: np.ndarray, width: int) -> np.ndarray:
  """Moving average whose window is centred, so that it does not lag.

  The window shrinks on both sides at the start, where losses are steep, and
  on the right only at the end, where they are flat and noisy.

  Args:
    values: f[N]; entries that are not finite are skipped.
    width: number of entries taken on either side, >= 0.

  Returns:
    f64[N]; nan where the window holds no finite entry.
  """
  values = np.asarray(values, np.float64)
  finite = np.isfinite(values)
  position = np.arange(len(values))
  reach = np.minimum(width, position)
  low, high = position - reach, np.minimum(position + reach + 1, len(values))
  total = np.concatenate([[0.0], np.cumsum(np.where(finite, values, 0.0))])
  count = np.concatenate([[0], np.cumsum(finite)])
  seen = count[high] - count[low]
  return np.where(
    seen, (total[high] - total[low]) / np.maximum(seen, 1), np.nan
  )


def plot_loss(
  path: str | os.PathLike,
  curves: Mapping[str, tuple[np.ndarray, np.ndarray]],
  ylabel: str = "loss",
) -> None:
  """Draws training losses: a smoothed line over the faint raw values.

  The loss axis is logarithmic where the smoothed losses are positive and span
  more than a factor of ten.

  Args:
    path: PNG file to write.
    curves: name -> (steps int[N], losses f[N]); losses may hold nan or inf.
    ylabel: name and unit of the loss.

  Raises:
    InputError: no curves, or a curve's steps and losses differ in length.
  """
  _require(curves, "plot_loss needs at least one curve.")
  figure, (axes,) = _figure(7.2, 4.2, columns=1)
  smoothed, shown = [], []
  for name, style in model_styles(curves).items():
    steps, losses = (np.asarray(a) for a in curves[name])
    _require(
      steps.shape == losses.shape and steps.ndim == 1,
      f"Curve {name!r} has steps of shape {steps.shape} and losses of shape"
      f" {losses.shape}: give two 1-d arrays of one length.",
    )
    line = smooth(losses, width=len(losses) // 50)
    axes.plot(steps, losses, color=style.colour, alpha=0.18, lw=0.7)
    axes.plot(steps, line, color=style.colour, ls=style.dash, lw=2, label=name)
    smoothed.append(line[np.isfinite(line)])
    shown.append(losses[np.isfinite(losses)])
  _loss_axis(axes, np.concatenate(smoothed), np.concatenate(shown))
  axes.set_xlabel("training step")
  axes.set_ylabel(ylabel)
  axes.xaxis.set_major_formatter(ticker.FuncFormatter(_thousands))
  axes.margins(x=0.01)
  _title(axes, "Training loss")
  _legend(axes, loc="upper right")
  _save(figure, path)


def _loss_axis(axes: Axes, smoothed: np.ndarray, raw: np.ndarray) -> None:
  """Picks the scale and the limits so that single spikes do not set them."""
  if not len(smoothed):
    return
  low = min(smoothed.min(), np.percentile(raw, 1))
  high = max(smoothed.max(), np.percentile(raw, 99))
  if smoothed.min() > 0 and smoothed.max() > 10 * smoothed.min():
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(ticker.FuncFormatter(lambda v, _: f"{v:g}"))
    axes.yaxis.set_minor_locator(ticker.NullLocator())
    low = max(low, smoothed.min() / 3)
    axes.set_ylim(low / 1.15, high * 1.15)
  else:
    margin = 0.06 * (high - low) or 0.5
    axes.set_ylim(low - margin, high + margin)


def plot_length_law(
  path: str | os.PathLike, data: np.ndarray, models: Mapping[str, np.ndarray]
) -> None:
  """Draws the law of the lengths: histograms, and cumulative laws beside them.

  The legend of the cumulative laws gives the largest vertical distance to the
  data (Kolmogorov and Smirnov's statistic).

  Args:
    path: PNG file to write.
    data: int[N], lengths of real sequences, in tokens.
    models: name -> int[M], lengths of a model's samples, in tokens.

  Raises:
    InputError: an array is empty.
  """
  lengths = {
    "data": np.asarray(data),
    **{n: np.asarray(m) for n, m in models.items()},
  }
  for name, values in lengths.items():
    _require(values.size, f"The lengths of {name!r} are empty.")
  styles = model_styles(models)
  figure, (histogram, cumulative) = _figure(10, 4.0, columns=2)
  edges = length_edges(np.concatenate(list(lengths.values())))
  widths = np.diff(edges)

  share = np.histogram(data, edges)[0] / (len(data) * widths)
  histogram.stairs(share, edges, fill=True, color=_DATA, alpha=0.25, lw=0)
  histogram.stairs(share, edges, color=_DATA, lw=1.2, label="data")
  cumulative.plot(*_steps(data), color=_DATA, lw=4, alpha=0.4, label="data")
  for name, style in styles.items():
    look = {"color": style.colour, "ls": style.dash, "lw": 1.8}
    share = np.histogram(models[name], edges)[0] / (len(models[name]) * widths)
    histogram.stairs(share, edges, label=name, **look)
    distance = largest_distance(data, models[name])
    label = f"{name}  (distance {distance:.3f})"
    cumulative.plot(*_steps(models[name]), label=label, **look)

  for axes in (histogram, cumulative):
    axes.set_xlim(edges[0] - 1, edges[-1] + 1)
    axes.set_xlabel("length (tokens)")
  histogram.set_ylim(bottom=0)
  histogram.set_ylabel("share per token of length")
  cumulative.set_ylim(0, 1.02)
  cumulative.set_ylabel("share at most this long")
  _title(histogram, "Length law")
  _title(cumulative, "Cumulative")
  _legend(histogram, loc="best")
  _legend(cumulative, loc="best")
  _save(figure, path)


def length_edges(lengths: np.ndarray, max_bins: int = 64) -> np.ndarray:
  """Histogram edges half-way between integers, all bins equally wide.

  Args:
    lengths: int[N], N >= 1.
    max_bins: largest number of bins.

  Returns:
    f64[bins+1]; each bin holds the same number of whole lengths, so a law that
    is flat over the integers looks flat.
  """
  low, high = int(np.min(lengths)), int(np.max(lengths))
  width = -(-(high - low + 1) // max_bins)
  bins = -(-(high - low + 1) // width)
  return low - 0.5 + width * np.arange(bins + 1)


def largest_distance(a: np.ndarray, b: np.ndarray) -> float:
  """Largest distance between the cumulative laws of two samples, in [0, 1]."""
  at = np.union1d(a, b)
  below = [np.searchsorted(np.sort(x), at, "right") / len(x) for x in (a, b)]
  return float(np.max(np.abs(below[0] - below[1])))


def _steps(lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Corners of a sample's cumulative law, drawn past both ends of its range."""
  values, counts = np.unique(lengths, return_counts=True)
  share = np.cumsum(counts) / len(lengths)
  x = np.concatenate(
    [[values[0] - 1e6], np.repeat(values, 2), [values[-1] + 1e6]]
  )
  y = np.repeat(np.concatenate([[0.0], share]), 2)
  return x, y


def plot_success_by_steps(
  path: str | os.PathLike,
  results: Mapping[str, Mapping[int, float]],
  trials: int,
) -> None:
  """Draws success against the number of sampling steps.

  Args:
    path: PNG file to write.
    results: name -> {sampling steps, >= 1: success, in [0, 1]}.
    trials: number of problems behind each success rate; the bars show the
      binomial standard error, sqrt(p (1 - p) / trials).

  Raises:
    InputError: no results, a success out of range, or `trials` below 1.
  """
  _require(results, "plot_success_by_steps needs at least one result.")
  _require(trials >= 1, f"trials={trials} must be at least 1.")
  figure, (axes,) = _figure(6.4, 4.2, columns=1)
  for name, style in model_styles(results).items():
    steps = np.array(sorted(results[name]))
    success = np.array([results[name][s] for s in steps], np.float64)
    _require(
      np.all((success >= 0) & (success <= 1)) and np.all(steps >= 1),
      f"Results of {name!r} must map steps >= 1 to success in [0, 1].",
    )
    axes.errorbar(
      steps,
      100 * success,
      yerr=100 * np.sqrt(success * (1 - success) / trials),
      color=style.colour,
      ls=style.dash,
      marker=style.marker,
      markersize=6.5,
      markeredgecolor="white",
      lw=1.8,
      elinewidth=1.3,
      capsize=3,
      label=name,
      clip_on=False,
      zorder=3,
    )
  ticks = sorted({s for result in results.values() for s in result})
  axes.set_xscale("log", base=2)
  axes.xaxis.set_major_locator(ticker.FixedLocator(ticks))
  axes.xaxis.set_minor_locator(ticker.NullLocator())
  axes.xaxis.set_major_formatter(ticker.FuncFormatter(lambda v, _: f"{v:g}"))
  axes.set_xlabel("sampling steps (network calls)")
  axes.set_ylim(0, 100)
  axes.yaxis.set_major_formatter(ticker.PercentFormatter(decimals=0))
  axes.set_ylabel("problems solved")
  _title(axes, "Success by sampling steps", f"± 1 standard error, N = {trials}")
  _legend(axes, loc="best")
  _save(figure, path)


@dataclasses.dataclass(frozen=True)
class PathFaults:
  """What is wrong with a path through a maze.

  Attributes:
    cells: int[n, 2], (row, column) of the tokens that are cells, in order.
    legal: bool[n-1], whether the move from each cell to the next is one step
      between neighbouring free cells.
    in_wall: bool[n], whether each cell is a wall.
    jumps: number of moves between cells that are not neighbours.
    off_grid: number of tokens that are no cell.
    missed: 1-based number of the first subgoal that the path does not visit
      in order; 0 if it visits them all.
  """

  cells: np.ndarray
  legal: np.ndarray
  in_wall: np.ndarray
  jumps: int
  off_grid: int
  missed: int

  @property
  def solved(self) -> bool:
    """Whether the path is flawless."""
    return not (
      self.jumps or self.off_grid or self.missed or self.in_wall.any()
    )

  def __str__(self) -> str:
    """A verdict of a few words."""
    if self.solved:
      return f"solved, {len(self.cells)} cells"
    walls = int(self.in_wall.sum())
    reasons = [
      f"{count} {noun}{'s' if plural and count > 1 else ''}"
      for count, noun, plural in (
        (self.jumps, "jump", True),
        (walls, "wall cell", True),
        (self.off_grid, "off grid", False),
      )
      if count
    ]
    if self.missed:
      reasons.append(f"misses subgoal {self.missed}")
    return "failed: " + ", ".join(reasons)


def path_faults(
  walls: np.ndarray, subgoals: Sequence[int], path: Sequence[int]
) -> PathFaults:
  """Examines a path; any list of integers will do.

  Args:
    walls: bool[rows, columns], True where there is a wall.
    subgoals: tokens to be visited in this order; token = row * columns +
      column.
    path: tokens of the path, in order. Tokens that are no cell (mask and pad
      ids, say) count as faults, and so does the move across them.

  Returns:
    The faults.
  """
  walls = np.asarray(walls, bool)
  tokens = np.asarray(list(path), np.int64).reshape(-1)
  on_grid = (tokens >= 0) & (tokens < walls.size)
  cells = np.stack(np.divmod(tokens[on_grid], walls.shape[1]), axis=-1)
  in_wall = walls[cells[:, 0], cells[:, 1]]
  near = np.abs(np.diff(cells, axis=0)).sum(axis=-1) == 1
  together = np.diff(np.flatnonzero(on_grid)) == 1
  rest = iter(tokens.tolist())
  visited = list(itertools.takewhile(lambda goal: goal in rest, subgoals))
  return PathFaults(
    cells=cells,
    legal=near & together & ~in_wall[1:] & ~in_wall[:-1],
    in_wall=in_wall,
    jumps=int((~near & together).sum()),
    off_grid=int((~on_grid).sum()),
    missed=len(visited) + 1 if len(visited) < len(subgoals) else 0,
  )


def plot_mazes(
  path: str | os.PathLike,
  walls: np.ndarray,
  problems: Sequence[
    tuple[Sequence[int], Sequence[int], Mapping[str, Sequence[int]]]
  ],
) -> None:
  """Draws paths through a maze: a row a problem, the truth and then each model.

  A path's colour tells its direction. Illegal moves (jumps, wall cells) are
  red and dashed; subgoals are numbered.

  Args:
    path: PNG file to write.
    walls: bool[rows, columns], True where there is a wall.
    problems: (subgoals, true path, {model name: generated path}); lists of
      tokens, token = row * columns + column. Generated paths may hold any
      integers.

  Raises:
    InputError: no problems, or the walls are not a matrix.
  """
  walls = np.asarray(walls, bool)
  _require(len(problems), "plot_mazes needs at least one problem.")
  _require(
    walls.ndim == 2 and walls.size,
    f"walls has shape {walls.shape}: give a matrix.",
  )
  names = list(dict.fromkeys(n for *_, paths in problems for n in paths))
  styles = model_styles(names)
  figure, panels, bar = _maze_figure(walls.shape, len(problems), 1 + len(names))
  for row, (subgoals, truth, paths) in enumerate(problems):
    for panel, name in zip(panels[row], ["truth", *names], strict=True):
      if row == 0:
        colour = styles[name].colour if name in styles else _INK
        panel.set_title(name, color=colour, weight="bold", fontsize=11, pad=6)
      tokens = truth if panel is panels[row][0] else paths.get(name)
      if tokens is None:
        panel.axis("off")
        continue
      faults = path_faults(walls, subgoals, tokens)
      _draw_maze(panel, walls, subgoals, faults)
      panel.set_xlabel(
        str(faults),
        color=_MUTED if faults.solved else _FAULT,
        fontsize=8.5,
        labelpad=4,
      )
  _time_bar(figure, bar)
  _save(figure, path)


def _maze_figure(
  shape: tuple[int, int], rows: int, columns: int
) -> tuple[Figure, list[list[Axes]], Axes]:
  """Panels of one size, and a narrow one below them for the colour bar.

  Placed by hand: the automatic layouts clip titles of panels whose aspect is
  fixed.
  """
  inches = float(np.clip(0.085 * max(shape), 2.3, 3.8)) / max(shape)
  high, wide = inches * shape[0], inches * shape[1]
  margin, top, caption, bottom = 0.12, 0.36, 0.4, 0.42
  width = columns * (wide + margin) + margin
  height = top + rows * (high + caption) + bottom
  figure = Figure((width, height), dpi=DPI)

  def place(left: float, up: float, w: float, h: float) -> Axes:
    return figure.add_axes((left / width, up / height, w / width, h / height))

  panels = [
    [
      place(
        margin + column * (wide + margin),
        height - top - high - row * (high + caption),
        wide,
        high,
      )
      for column in range(columns)
    ]
    for row in range(rows)
  ]
  bar = place(width / 2 - 1, 0.27, 2, 0.07)
  return figure, panels, bar


def _draw_maze(
  axes: Axes,
  walls: np.ndarray,
  subgoals: Sequence[int],
  faults: PathFaults,
) -> None:
  """Draws one path."""
  rows, columns = walls.shape
  cell = 72 * axes.bbox.width / axes.figure.dpi / columns  # side in points
  axes.imshow(
    walls, cmap=mcolors.ListedColormap([_FLOOR, _WALL]), vmin=0, vmax=1
  )
  axes.set_xticks([])
  axes.set_yticks([])
  for spine in axes.spines.values():
    spine.set_visible(True)
    spine.set_color(_WALL)

  xy = faults.cells[:, ::-1].astype(np.float64)
  moves = np.stack([xy[:-1], xy[1:]], axis=1)
  when = np.linspace(0, 1, max(len(moves), 1))[: len(moves)]
  width = float(np.clip(0.42 * cell, 1.4, 4.5))
  axes.add_collection(
    mcollections.LineCollection(
      moves[faults.legal],
      array=when[faults.legal],
      cmap=_TIME,
      norm=mcolors.Normalize(0, 1),
      lw=width,
      capstyle="round",
      zorder=2,
    )
  )
  # The pale line keeps the red one legible on walls.
  thin = max(1.2, 0.5 * width)
  for colour, extra, dash in ((_FLOOR, 1.6, "-"), (_FAULT, 0, (0, (2.4, 1.6)))):
    axes.add_collection(
      mcollections.LineCollection(
        moves[~faults.legal],
        colors=colour,
        lw=thin + extra,
        ls=dash,
        capstyle="butt",
        zorder=3,
      )
    )
  for colour, extra in ((_FLOOR, 1.6), (_FAULT, 0)):
    axes.scatter(
      *xy[faults.in_wall].T,
      marker="x",
      s=(0.7 * cell) ** 2,
      color=colour,
      lw=max(1.2, 0.3 * width) + extra,
      zorder=4,
    )
  for number, goal in enumerate(subgoals, start=1):
    if not 0 <= goal < walls.size:
      continue
    y, x = divmod(goal, columns)
    axes.text(
      x,
      y,
      str(number),
      ha="center",
      va="center_baseline",
      color=_INK,
      fontsize=float(np.clip(0.75 * cell, 5.5, 9)),
      weight="bold",
      bbox={
        "boxstyle": "circle,pad=0.22",
        "facecolor": "white",
        "edgecolor": _INK,
        "lw": 0.9,
      },
      zorder=5,
    )
  axes.set_xlim(-0.5, columns - 0.5)
  axes.set_ylim(rows - 0.5, -0.5)


def _time_bar(figure: Figure, axes: Axes) -> None:
  """Draws the legend of the paths' colours."""
  bar = figure.colorbar(
    ScalarMappable(mcolors.Normalize(0, 1), _TIME),
    cax=axes,
    orientation="horizontal",
  )
  bar.outline.set_visible(False)
  bar.set_ticks([0, 1], labels=["first cell", "last cell"])
  axes.tick_params(length=0, labelsize=8.5, labelcolor=_MUTED)


def _figure(
  width: float, height: float, columns: int, rows: int = 1
) -> tuple[Figure, list[Axes]]:
  """A figure of `width` x `height` inches and its panels, row by row."""
  figure = Figure((width, height), dpi=DPI, layout="constrained")
  panels = list(figure.subplots(rows, columns, squeeze=False).flat)
  for axes in panels:
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(_MUTED)
    axes.tick_params(colors=_MUTED, labelcolor=_INK, labelsize=9)
    axes.xaxis.label.set_color(_INK)
    axes.yaxis.label.set_color(_INK)
    axes.grid(axis="y", color=_GRID, lw=0.8)
    axes.set_axisbelow(True)
  return figure, panels


def _title(axes: Axes, text: str, note: str = "") -> None:
  axes.set_title(text, loc="left", color=_INK, weight="bold", fontsize=11)
  if note:
    axes.set_title(note, loc="right", color=_MUTED, fontsize=8.5)


def _legend(axes: Axes, loc: str) -> None:
  axes.legend(
    loc=loc, fontsize=9, labelcolor=_INK, frameon=True, edgecolor="none"
  )


def _thousands(value: float, _: int = 0) -> str:
  """Writes whole steps; 12500 becomes 12.5k."""
  return f"{value / 1000:g}k" if value >= 1000 else f"{value:g}"


def _require(condition: object, message: str) -> None:
  if not condition:
    raise InputError(message)


def _save(figure: Figure, path: str | os.PathLike) -> None:
  path = pathlib.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  figure.savefig(path, format="png", dpi=DPI, facecolor="white")
