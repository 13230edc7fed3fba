"""Maze planning: mazes, problems, their solutions and what solves them.

A cell is the token `row * size + column`. A problem is an ordered list of
distinct free cells, the subgoals; the first is the start and the last the
goal. Its solution is the shortest path that visits them in order.

Source: arXiv 2509.01025, experiment "maze planning".
"""

import collections
import dataclasses
import functools
import hashlib
import itertools
import math
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from flexmdm_jax.data.splits import content_split, require_split
from flexmdm_jax.errors import InputError
from flexmdm_jax.vocab import Vocab

Tokens = Sequence[int] | np.ndarray

# Universes of problems up to this size are shuffled whole (0.5 s); in larger
# ones problems are drawn, and the few that come again are dropped.
_SHUFFLE_UP_TO = 2**20
# So many problems in a row without one that fits: there is hardly any.
_PATIENCE = 2000


def make_maze(size: int, seed: int) -> np.ndarray:
  """Makes a perfect maze by recursive division.

  Walls stand on even rows and columns, each with one door at an odd
  coordinate; so the free cells form a tree, and every path is unique.

  Args:
    size: rows, and columns; odd, at least 5.
    seed: seed of the walls and doors; at least 0.

  Returns:
    bool[size, size], True where a cell is free.

  Raises:
    InputError: `size` is even or below 5, or `seed` is negative.
  """
  if size < 5 or size % 2 == 0:
    raise InputError(
      f"maze size={size} must be odd and at least 5: try {max(5, size | 1)}."
    )
  if seed < 0:
    raise InputError(f"maze seed={seed} must be at least 0.")
  rng = np.random.default_rng(seed)
  grid = np.zeros((size, size), bool)
  grid[1:-1, 1:-1] = True
  # A room carries the grid as it sees it: on its side where it is wide, so
  # that every wall can be built as a row.
  rooms = [(grid, 1, 1, size - 2, size - 2)]
  while rooms:
    view, top, left, bottom, right = rooms.pop()
    height, width = bottom - top, right - left
    if height == 0 or width == 0:
      continue
    if width > height or (width == height and rng.integers(2)):
      view, height, width = view.T, width, height
      top, left, bottom, right = left, top, right, bottom
    wall = top + 1 + 2 * int(rng.integers(height // 2))
    door = left + 2 * int(rng.integers(width // 2 + 1))
    view[wall, left : right + 1] = False
    view[wall, door] = True
    rooms.append((view, top, left, wall - 1, right))
    rooms.append((view, wall + 1, left, bottom, right))
  return grid


def maze_vocab(size: int) -> Vocab:
  """Makes a maze's ids: its `size * size` cells, the mask, the pad."""
  return Vocab(size=size * size + 2, mask=size * size, pad=size * size + 1)


class Plan(NamedTuple):
  """Path, and the positions of the subgoals in it.

  Attributes:
    path: tokens.
    index: positions of the subgoals in `path`, strictly increasing; the first
      is 0 and the last is that of the path's end.
  """

  path: list[int]
  index: list[int]


@dataclasses.dataclass(frozen=True, eq=False)
class Maze:
  """A maze and its shortest paths.

  Attributes:
    grid: bool[size, size], True where a cell is free. Usually `make_maze`'s;
      if it has loops, paths are shortest, but not unique.

  Raises:
    InputError: the grid is not a square of bools.
  """

  grid: np.ndarray

  def __post_init__(self):
    grid = np.array(self.grid)
    if grid.ndim != 2 or grid.shape[0] != grid.shape[1] or grid.dtype != bool:
      raise InputError(
        f"a maze is a square array of bool, got {grid.dtype}"
        f"{list(grid.shape)}: pass the result of make_maze."
      )
    grid.setflags(write=False)
    object.__setattr__(self, "grid", grid)

  @property
  def size(self) -> int:
    """Number of rows, and of columns."""
    return len(self.grid)

  @functools.cached_property
  def free_cells(self) -> tuple[int, ...]:
    """Tokens of the free cells, increasing."""
    return tuple(np.flatnonzero(self.grid).tolist())

  @functools.cached_property
  def digest(self) -> bytes:
    """Identity of the maze, from its walls alone."""
    return hashlib.sha256(self.grid.tobytes()).digest()

  @functools.cached_property
  def neighbours(self) -> dict[int, list[int]]:
    """Free cells beside each free cell."""
    beside = {}
    for cell in self.free_cells:
      row, column = divmod(cell, self.size)
      around = [
        (row - 1, column),
        (row, column - 1),
        (row, column + 1),
        (row + 1, column),
      ]
      beside[cell] = [
        r * self.size + c
        for r, c in around
        if 0 <= r < self.size and 0 <= c < self.size and self.grid[r, c]
      ]
    return beside

  @functools.cached_property
  def next_hop(self) -> dict[int, list[int]]:
    """Next cells on shortest paths: `next_hop[goal][cell]` comes after `cell`.

    It is `goal` at the goal itself, and -1 where no path leads there.
    """
    table = {}
    for goal in self.free_cells:
      hop = [-1] * self.grid.size
      hop[goal] = goal
      queue = collections.deque([goal])
      while queue:
        cell = queue.popleft()
        for neighbour in self.neighbours[cell]:
          if hop[neighbour] < 0:
            hop[neighbour] = cell
            queue.append(neighbour)
      table[goal] = hop
    return table

  def shortest_path(self, a: int, b: int) -> list[int]:
    """Finds the tokens of a shortest path from `a` to `b`, both included.

    Raises:
      InputError: `a` or `b` is not a free cell, or no path joins them.
    """
    for cell in (a, b):
      if cell not in self.neighbours:
        raise InputError(
          f"token {cell} is not a free cell of this {self.size}x{self.size}"
          " maze: take subgoals from Maze.free_cells."
        )
    hop = self.next_hop[b]
    if hop[a] < 0:
      raise InputError(
        f"no path joins cells {a} and {b}: use a connected maze, such as"
        " make_maze's."
      )
    path = [int(a)]
    while path[-1] != b:
      path.append(hop[path[-1]])
    return path

  def join(self, subgoals: Tokens) -> Plan:
    """Joins the shortest legs from subgoal to subgoal, each subgoal once.

    Args:
      subgoals: tokens of free cells, at least one, no two alike in a row.

    Raises:
      InputError: there is none, one comes twice in a row, or one is not a
        free cell.
    """
    if len(subgoals) == 0:
      raise InputError("a plan needs at least one subgoal, got none.")
    path, index = self.shortest_path(subgoals[0], subgoals[0]), [0]
    for a, b in itertools.pairwise(subgoals):
      if a == b:
        raise InputError(f"subgoal {a} comes twice in a row: drop one.")
      path += self.shortest_path(a, b)[1:]
      index.append(len(path) - 1)
    return Plan(path, index)


def subgoals(record: Mapping[str, np.ndarray]) -> list[int]:
  """Reads the subgoals off a record, start and goal included.

  Args:
    record: `tokens` int32[n], a path, and `subgoal_index` int32[K], the
      positions of the subgoals in it.
  """
  return [int(token) for token in record["tokens"][record["subgoal_index"]]]


def is_solution(maze: Maze, path: Tokens, subgoals: Tokens) -> bool:
  """Tells whether `path` solves the problem; it need not be the shortest.

  Args:
    maze: the maze.
    path: tokens, any ints: ids that are no cells make it no solution.
    subgoals: tokens of the start, what to visit in order, and the goal.
  """
  path = [int(token) for token in path]
  if not path or path[0] != subgoals[0] or path[-1] != subgoals[-1]:
    return False
  if path[0] not in maze.neighbours:
    return False
  steps = itertools.pairwise(path)
  if not all(b in maze.neighbours[a] for a, b in steps):
    return False
  rest = iter(path)
  return all(subgoal in rest for subgoal in subgoals)


def problem_split(maze: Maze, subgoals: Tokens) -> str:
  """Assigns a problem to a split, by a hash of the maze and the subgoals."""
  return content_split(maze.digest + np.asarray(subgoals, "<i4").tobytes())


def problems(
  maze: Maze, num_subgoals: int, split: str, seed: int
) -> Iterator[tuple[int, ...]]:
  """Draws the problems of a split, in random order, each once.

  Problems are uniform over ordered tuples of distinct free cells. The
  iterator ends when the split has no more (7x7 with 3 subgoals has 4080 in
  its three splits together).

  Args:
    maze: the maze.
    num_subgoals: K, start and goal included.
    split: "train", "validation" or "test".
    seed: seed of the order.

  Returns:
    An iterator over tuples of K tokens.

  Raises:
    InputError: at once, if K is below 2 or there are fewer free cells, or the
      split is unknown.
  """
  num_cells = len(maze.free_cells)
  if not 2 <= num_subgoals <= num_cells:
    raise InputError(
      f"subgoals={num_subgoals} must be between 2 and the maze's {num_cells}"
      " free cells: change it or take a larger maze."
    )
  require_split(split)
  drawn = (
    _unrank(rank, maze.free_cells, num_subgoals)
    for rank in _shuffled(math.perm(num_cells, num_subgoals), seed)
  )
  return (p for p in drawn if problem_split(maze, p) == split)


def _shuffled(n: int, seed: int) -> Iterator[int]:
  """Yields the integers below `n`, which may be huge, in random order."""
  rng = random.Random(seed)
  if n <= _SHUFFLE_UP_TO:
    yield from rng.sample(range(n), n)
    return
  seen = set()
  while len(seen) < n:
    number = rng.randrange(n)
    if number not in seen:
      seen.add(number)
      yield number


def _unrank(rank: int, cells: Sequence[int], count: int) -> tuple[int, ...]:
  """Finds the `rank`-th ordered choice of `count` distinct `cells`."""
  remaining, chosen = list(cells), []
  for _ in range(count):
    rank, i = divmod(rank, len(remaining))
    chosen.append(remaining.pop(i))
  return tuple(chosen)


@dataclasses.dataclass
class FittingPlans:
  """Iterable of the plans of problems whose path is not too long.

  Attributes:
    maze: the maze.
    problems: an iterable over tuples of subgoals.
    max_length: tokens of the longest path that fits.
    count: number of plans at most; fewer if the problems run out.
    skipped: how many problems did not fit so far, set by iterating.
  """

  maze: Maze
  problems: Iterable[Tokens]
  max_length: int
  count: int
  skipped: int = dataclasses.field(default=0, init=False)

  def __iter__(self) -> Iterator[Plan]:
    """Yields plans; raises InputError if hardly any problem fits."""
    self.skipped = made = in_vain = 0
    for subgoals in self.problems:
      if made == self.count:
        return
      plan = self.maze.join(subgoals)
      if len(plan.path) <= self.max_length:
        made, in_vain = made + 1, 0
        yield plan
        continue
      self.skipped, in_vain = self.skipped + 1, in_vain + 1
      if in_vain == _PATIENCE:
        raise InputError(
          f"max_length={self.max_length} is shorter than the paths of the last"
          f" {_PATIENCE} problems: raise it or lower subgoals."
        )
