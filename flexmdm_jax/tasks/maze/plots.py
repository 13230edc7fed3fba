"""Pictures of paths through a maze, and what is wrong with them."""

import dataclasses
import itertools
import os
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib import collections as mcollections
from matplotlib import colors as mcolors
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure

from flexmdm_jax.pictures.style import (
  DPI,
  INK,
  MUTED,
  model_styles,
  require,
  save,
)

_FAULT = "#d4003c"
_WALL = "#3a404a"
_FLOOR = "#f8f7f4"
# Both ends of viridis are cut: yellow is lost on the floor, the darkest purple
# on the walls.
_TIME = mcolors.LinearSegmentedColormap.from_list(
  "path_time", ["#46337f", "#2a6fa8", "#1f9e89", "#8fcf3c"]
)


@dataclasses.dataclass(frozen=True)
class PathFaults:
  """Faults of a path through a maze.

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
    """Tells whether the path is flawless."""
    return not (
      self.jumps or self.off_grid or self.missed or self.in_wall.any()
    )

  def __str__(self) -> str:
    """Says the verdict in a few words."""
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
  require(len(problems), "plot_mazes needs at least one problem.")
  require(
    walls.ndim == 2 and walls.size,
    f"walls has shape {walls.shape}: give a matrix.",
  )
  names = list(dict.fromkeys(n for *_, paths in problems for n in paths))
  styles = model_styles(names)
  figure, panels, bar = _maze_figure(walls.shape, len(problems), 1 + len(names))
  for row, (subgoals, truth, paths) in enumerate(problems):
    for panel, name in zip(panels[row], ["truth", *names], strict=True):
      if row == 0:
        colour = styles[name].colour if name in styles else INK
        panel.set_title(name, color=colour, weight="bold", fontsize=11, pad=6)
      tokens = truth if panel is panels[row][0] else paths.get(name)
      if tokens is None:
        panel.axis("off")
        continue
      faults = path_faults(walls, subgoals, tokens)
      _draw_maze(panel, walls, subgoals, faults)
      panel.set_xlabel(
        str(faults),
        color=MUTED if faults.solved else _FAULT,
        fontsize=8.5,
        labelpad=4,
      )
  _time_bar(figure, bar)
  save(figure, path)


def _maze_figure(
  shape: tuple[int, int], rows: int, columns: int
) -> tuple[Figure, list[list[Axes]], Axes]:
  """Makes panels of one size, and a narrow one below for the colour bar.

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
      color=INK,
      fontsize=float(np.clip(0.75 * cell, 5.5, 9)),
      weight="bold",
      bbox={
        "boxstyle": "circle,pad=0.22",
        "facecolor": "white",
        "edgecolor": INK,
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
  axes.tick_params(length=0, labelsize=8.5, labelcolor=MUTED)
