"""Mazes: trees, shortest paths, and problems that no other split has."""

import collections
import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flexmdm_jax.data.splits import SPLITS
from flexmdm_jax.errors import InputError
from flexmdm_jax.tasks.maze import law as mazes

#   0  1  2  3  4
#   5  .  .  .  9
#  10 ## ##  . 14
#  15  .  .  . 19
#  20 21 22 23 24
BEND = mazes.Maze(
  np.array(
    [
      [0, 0, 0, 0, 0],
      [0, 1, 1, 1, 0],
      [0, 0, 0, 1, 0],
      [0, 1, 1, 1, 0],
      [0, 0, 0, 0, 0],
    ],
    bool,
  )
)


def maze(size, seed=0):
  return mazes.Maze(mazes.make_maze(size, seed))


def edges(m):
  """Pairs of adjacent free cells, found without `Maze`."""
  right = m.grid[:, :-1] & m.grid[:, 1:]
  down = m.grid[:-1] & m.grid[1:]
  return int(right.sum() + down.sum())


def distance(m, a, b):
  """Steps from a to b by relaxing the whole grid, as `Maze` does not."""
  far = m.grid.size
  steps = np.where(m.grid, far, np.inf)
  steps.flat[a] = 0
  for _ in range(far):
    padded = np.pad(steps, 1, constant_values=np.inf)
    near = np.minimum.reduce(
      [padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:]]
    )
    steps = np.where(m.grid, np.minimum(steps, near + 1), np.inf)
  return int(steps.flat[b])


@settings(max_examples=15, deadline=None)
@given(half=st.integers(2, 12), seed=st.integers(0, 2**32))
def test_free_cells_form_a_tree(half, seed):
  m = maze(2 * half + 1, seed)
  assert edges(m) == len(m.free_cells) - 1
  assert all(hop[c] >= 0 for hop in m.next_hop.values() for c in m.free_cells)


@pytest.mark.parametrize("size", [5, 7, 41])
def test_walls_stand_on_even_lines_within_a_border(size):
  grid = mazes.make_maze(size, 3)
  assert grid.shape == (size, size) and grid.dtype == bool
  assert not (grid[0].any() or grid[-1].any())
  assert not (grid[:, 0].any() or grid[:, -1].any())
  assert grid[1::2, 1::2].all()
  assert not grid[::2, ::2].any()


def test_size_and_seed_determine_the_maze():
  assert (mazes.make_maze(15, 4) == mazes.make_maze(15, 4)).all()
  assert (mazes.make_maze(15, 4) != mazes.make_maze(15, 5)).any()


def test_maze_of_a_seed_is_the_same_for_ever():
  """A model knows one maze: a change here makes every checkpoint useless."""
  rows = [
    "".join(".#"[int(not free)] for free in row)
    for row in mazes.make_maze(9, 0)
  ]
  assert rows == GOLDEN_MAZE
  m = maze(9)
  first = itertools.islice(mazes.problems(m, 3, "train", 0), 2)
  assert list(first) == GOLDEN_PROBLEMS


GOLDEN_MAZE = [
  "#########",
  "#.#.#...#",
  "#.#.#.###",
  "#...#...#",
  "###.#.###",
  "#.......#",
  "###.#.###",
  "#...#...#",
  "#########",
]
GOLDEN_PROBLEMS = [(21, 48, 39), (19, 52, 68)]


@pytest.mark.parametrize("size", [4, 6, 3, 0, -5])
def test_rejects_size(size):
  with pytest.raises(InputError, match=f"size={size} must be odd"):
    mazes.make_maze(size, 0)


def test_rejects_negative_seed():
  with pytest.raises(InputError, match="seed=-1"):
    mazes.make_maze(5, -1)


@pytest.mark.parametrize(
  "grid", [np.ones((5, 7), bool), np.ones((5, 5)), np.ones(5, bool)]
)
def test_rejects_grid(grid):
  with pytest.raises(InputError, match="square array of bool"):
    mazes.Maze(grid)


def test_vocab_puts_mask_and_pad_after_the_cells():
  vocab = mazes.maze_vocab(7)
  assert (vocab.size, vocab.mask, vocab.pad) == (51, 49, 50)


def test_maze_keeps_its_own_grid():
  grid = mazes.make_maze(5, 0)
  m = mazes.Maze(grid)
  grid[1, 1] = False
  assert m.grid[1, 1]
  with pytest.raises(ValueError, match="read-only"):
    m.grid[1, 1] = False


def test_path_around_a_bend():
  assert BEND.shortest_path(6, 16) == [6, 7, 8, 13, 18, 17, 16]
  assert BEND.shortest_path(7, 7) == [7]


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 99), data=st.data())
def test_paths_are_legal_and_shortest(seed, data):
  m = maze(9, seed)
  pair = st.lists(
    st.sampled_from(m.free_cells), min_size=2, max_size=2, unique=True
  )
  a, b = data.draw(pair)
  path = m.shortest_path(a, b)
  assert mazes.is_solution(m, path, [a, b])
  assert len(path) - 1 == distance(m, a, b)


def test_path_is_shortest_where_there_are_loops():
  grid = np.zeros((7, 7), bool)
  grid[1:-1, 1:-1] = True
  grid[3, 3] = False
  m = mazes.Maze(grid)
  for a, b in itertools.product(m.free_cells[::3], m.free_cells[::4]):
    assert len(m.shortest_path(a, b)) - 1 == distance(m, a, b)


@pytest.mark.parametrize("cell", [0, 12, -1, 25, 999])
def test_rejects_path_from_a_wall(cell):
  with pytest.raises(InputError, match=f"token {cell} is not a free cell"):
    BEND.shortest_path(cell, 6)
  with pytest.raises(InputError, match=f"token {cell} is not a free cell"):
    BEND.shortest_path(6, cell)


def test_rejects_path_between_unconnected_cells():
  grid = BEND.grid.copy()
  grid[2, 3] = False
  with pytest.raises(InputError, match="no path joins cells 6 and 16"):
    mazes.Maze(grid).shortest_path(6, 16)


def test_join_names_each_subgoal_once():
  plan = BEND.join([7, 13, 6])
  assert plan.path == [7, 8, 13, 8, 7, 6]
  assert plan.index == [0, 2, 5]
  assert BEND.join(np.array([7, 13, 6], np.int32)) == plan


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 99), K=st.integers(2, 9))
def test_join_visits_its_subgoals(seed, K):
  m = maze(11, seed)
  subgoals = next(mazes.problems(m, K, "train", seed))
  path, index = m.join(subgoals)
  assert [path[i] for i in index] == list(subgoals)
  assert index[0] == 0 and index[-1] == len(path) - 1
  assert all(a < b for a, b in itertools.pairwise(index))
  assert mazes.is_solution(m, path, subgoals)
  legs = (distance(m, a, b) for a, b in itertools.pairwise(subgoals))
  assert len(path) - 1 == sum(legs)


def test_rejects_join():
  with pytest.raises(InputError, match="at least one subgoal"):
    BEND.join([])
  with pytest.raises(InputError, match="subgoal 7 comes twice in a row"):
    BEND.join([6, 7, 7])


@pytest.mark.parametrize(
  ("path", "subgoals"),
  [
    ([6, 7, 8], [6, 8]),
    ([6, 7, 8, 7, 8], [6, 8]),  # a detour is a solution
    ([7, 8, 13, 8, 7, 6], [7, 13, 6]),
    ([6], [6]),
    (np.array([6, 7, 8], np.int32), np.array([6, 8], np.int32)),
  ],
)
def test_solutions(path, subgoals):
  assert mazes.is_solution(BEND, path, subgoals)


@pytest.mark.parametrize(
  ("path", "subgoals"),
  [
    ([], [6, 8]),
    ([7, 8], [6, 8]),  # wrong start
    ([6, 7], [6, 8]),  # wrong end
    ([6, 8], [6, 8]),  # a jump
    ([6, 7, 7, 8], [6, 8]),  # a rest
    ([6, 11, 16], [6, 16]),  # through a wall
    ([6, 7, 8], [6, 13, 8]),  # a subgoal left out
    ([6, 7, 8, 13, 18], [6, 13, 8, 18]),  # subgoals out of order
    ([6, 7, 8], [6, 7, 7, 8]),  # one visit counts once
    ([6, 25, 8], [6, 8]),  # the mask
    ([6, 7, 8, 26], [6, 8]),  # the pad
    ([25, 26], [25, 26]),
    ([6, -1, 10**9, 8], [6, 8]),
    ([-19, 7, 8], [-19, 8]),  # -19 would index cell 6 from the end
    (np.array([6, 26, 26]), np.array([6, 8])),
  ],
)
def test_no_solutions(path, subgoals):
  assert not mazes.is_solution(BEND, path, subgoals)


def test_rows_do_not_wrap():
  m = mazes.Maze(np.array([[1, 1, 1], [1, 0, 0], [1, 1, 1]], bool))
  assert not mazes.is_solution(m, [2, 3], [2, 3])
  assert m.shortest_path(2, 3) == [2, 1, 0, 3]


def test_small_universe_is_dealt_out_whole_and_once():
  m = maze(7)
  dealt = {s: list(mazes.problems(m, 3, s, 0)) for s in SPLITS}
  everything = [p for split in dealt.values() for p in split]
  assert len(everything) == len(set(everything)) == 17 * 16 * 15
  assert set(everything) == set(itertools.permutations(m.free_cells, 3))
  shares = [len(dealt[s]) / len(everything) for s in SPLITS]
  assert shares == pytest.approx([0.8, 0.1, 0.1], abs=0.02)  # 4 sigma


def test_split_is_by_content_and_not_by_seed():
  m = maze(7)
  for split in SPLITS:
    one, two = (set(mazes.problems(m, 2, split, seed)) for seed in (0, 1))
    assert one == two
    assert {mazes.problem_split(m, np.array(p)) for p in one} == {split}
  other = maze(7, 1)
  shared = set(itertools.permutations(m.free_cells, 2))
  shared &= set(itertools.permutations(other.free_cells, 2))
  assert any(
    mazes.problem_split(m, p) != mazes.problem_split(other, p) for p in shared
  )


def test_large_universe_has_no_repeats_and_follows_the_seed():
  m = maze(41)

  def take(seed):
    return list(itertools.islice(mazes.problems(m, 12, "train", seed), 300))

  assert take(0) == take(0) != take(1)
  assert len(set(take(0))) == 300
  assert all(len(set(p)) == 12 for p in take(0))


def test_subgoals_are_uniform():
  m = maze(41)  # 799 * 798 * 797 problems: drawn, not shuffled
  drawn = itertools.islice(mazes.problems(m, 3, "train", 0), 8000)
  for cells in zip(*drawn, strict=True):
    counts = collections.Counter(cells)
    expected = 8000 / len(m.free_cells)
    chi2 = sum((counts[c] - expected) ** 2 / expected for c in m.free_cells)
    df = len(m.free_cells) - 1
    assert abs(chi2 - df) < 4 * math.sqrt(2 * df)  # p < 1e-4


def test_drawing_from_a_large_universe_ends(monkeypatch):
  monkeypatch.setattr(mazes, "_SHUFFLE_UP_TO", 10)
  m = maze(5)
  dealt = [p for s in SPLITS for p in mazes.problems(m, 2, s, 0)]
  assert sorted(dealt) == list(itertools.permutations(m.free_cells, 2))


@pytest.mark.parametrize("K", [-1, 0, 1, 18])
def test_rejects_number_of_subgoals(K):
  with pytest.raises(InputError, match=f"subgoals={K} .* the maze's 17 free"):
    mazes.problems(maze(7), K, "train", 0)


def test_rejects_split():
  with pytest.raises(InputError, match="split='dev' is unknown"):
    mazes.problems(maze(7), 2, "dev", 0)


def test_fitting_plans_skip_long_paths_and_count_them():
  problems = [(6, 8), (6, 16), (7, 8), (8, 6), (16, 18)]
  plans = mazes.FittingPlans(BEND, problems, max_length=3, count=3)
  assert [p.path for p in plans] == [[6, 7, 8], [7, 8], [8, 7, 6]]
  assert plans.skipped == 1
  every = mazes.FittingPlans(BEND, problems, max_length=7, count=100)
  assert len(list(every)) == 5 and every.skipped == 0


def test_fitting_plans_give_up():
  m = maze(41)
  plans = mazes.FittingPlans(
    m, mazes.problems(m, 12, "train", 0), max_length=12, count=1
  )
  with pytest.raises(InputError, match="max_length=12 is shorter"):
    list(plans)
