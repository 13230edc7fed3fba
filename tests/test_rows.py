"""Layouts: what is given, what may grow, and the way back to a path."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flexmdm_jax.errors import InputError
from flexmdm_jax.rows import AnchorLayout, PaddedLayout
from flexmdm_jax.tasks.maze import law as mazes
from flexmdm_jax.tasks.maze import layouts

VOCAB = mazes.maze_vocab(5)
M, P = VOCAB.mask, VOCAB.pad
PATH, INDEX = [7, 8, 13, 8, 7, 6], [0, 2, 5]
SUBGOALS = [7, 13, 6]
L = 8


def rng():
  return np.random.default_rng(0)


def assert_row(row, tokens, length, frozen, open_gaps):
  size = len(tokens)
  assert {k: (v.shape, v.dtype) for k, v in row._asdict().items()} == {
    "tokens": ((size,), np.int32),
    "length": ((), np.int32),
    "frozen": ((size,), bool),
    "open_gaps": ((size + 1,), bool),
  }
  assert row.tokens.tolist() == tokens
  assert row.length == length
  assert np.flatnonzero(row.frozen).tolist() == frozen
  assert np.flatnonzero(row.open_gaps).tolist() == open_gaps


ANCHOR = AnchorLayout(VOCAB, L)
EVEN = layouts.PinnedLayout(VOCAB, L, layouts.EvenPositions(7))
PREFIX = layouts.PrefixLayout(VOCAB, L, num_subgoals=3)


def test_anchor_example_and_start():
  row = ANCHOR.encode(PATH, INDEX)
  assert_row(row, [*PATH, P, P], 6, INDEX, list(range(7)))
  row = ANCHOR.start(SUBGOALS)
  assert_row(row, [*SUBGOALS, P, P, P, P, P], 3, [0, 1, 2], [0, 1, 2, 3])


def test_anchor_example_that_fills_its_row():
  row = AnchorLayout(VOCAB, 6).encode(PATH, INDEX)
  assert_row(row, PATH, 6, INDEX, list(range(7)))


def test_rows_are_cropped_to_a_bucket():
  row = ANCHOR.encode(PATH, INDEX).crop(6)
  assert_row(row, PATH, 6, INDEX, list(range(7)))
  with pytest.raises(InputError, match="6 tokens cannot be cropped to 5"):
    row.crop(5)
  with pytest.raises(InputError, match="8 tokens cannot be cropped to 7"):
    EVEN.encode(PATH, INDEX).crop(7)


def test_pinned_example_and_even_start():
  row = EVEN.encode(PATH, INDEX)
  assert_row(row, [*PATH, P, P], L, INDEX, [])
  row = EVEN.start(SUBGOALS, rng())
  assert_row(row, [7, M, M, 13, M, M, 6, M], L, [0, 3, 6], [])


def test_pinned_start_by_the_law_of_the_pool():
  pool = np.array([[0, 1, 2], [0, 3, 7]], np.int32)
  layout = layouts.PinnedLayout(VOCAB, L, layouts.LawPositions(pool))
  generator = rng()
  where = {
    tuple(np.flatnonzero(row.frozen).tolist())
    for row in (layout.start(SUBGOALS, generator) for _ in range(30))
  }
  assert where == {(0, 1, 2), (0, 3, 7)}
  one, two = (layout.start(SUBGOALS, rng()) for _ in range(2))
  assert (one.tokens == two.tokens).all()
  assert one.tokens[one.frozen].tolist() == SUBGOALS
  assert (one.tokens[~one.frozen] == M).all()


def test_prefix_example_and_start():
  assert PREFIX.max_length == 11
  row = PREFIX.encode(PATH, INDEX)
  assert_row(row, [*SUBGOALS, *PATH, P, P], 11, [0, 1, 2], [])
  row = PREFIX.start(SUBGOALS)
  assert_row(row, [*SUBGOALS, *[M] * 8], 11, [0, 1, 2], [])


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 99), K=st.integers(2, 6))
def test_decode_inverts_encode(seed, K):
  maze = mazes.Maze(mazes.make_maze(7, seed))
  plan = maze.join(next(mazes.problems(maze, K, "train", seed)))
  vocab = mazes.maze_vocab(7)
  path, index = (np.array(x, np.int32) for x in plan)  # as records hold them
  room = len(path) + seed % 3
  for layout in (
    AnchorLayout(vocab, room),
    layouts.PinnedLayout(vocab, room, layouts.EvenPositions(K)),
    layouts.PrefixLayout(vocab, room, K),
  ):
    row = layout.encode(path, index)
    assert row.tokens.shape == (layout.max_length,)
    given_tokens = row.tokens[row.frozen].tolist()
    assert given_tokens == [plan.path[i] for i in plan.index]
    assert layout.decode(row.tokens, row.length) == plan.path


def test_decode_cuts_at_the_first_pad():
  sample = np.array([7, 8, P, 6, P, P, 7, 8], np.int32)
  assert EVEN.decode(sample, 8) == [7, 8]
  assert ANCHOR.decode(sample, 4) == [7, 8, P, 6]
  assert PREFIX.decode(np.array([1, 2, 3, *sample], np.int32), 11) == [7, 8]


def test_anchor_layout_without_anchors():
  layout = AnchorLayout(VOCAB, 4)
  assert_row(layout.encode([1, 2, 3]), [1, 2, 3, P], 3, [], [0, 1, 2, 3])
  assert_row(layout.encode([]), [P] * 4, 0, [], [0])
  assert_row(layout.start(), [P] * 4, 0, [], [0])
  assert layout.decode(np.array([1, 2, 3, P]), 3) == [1, 2, 3]


def test_padded_layout():
  layout = PaddedLayout(VOCAB, 4)
  assert_row(layout.encode([1, 2, 3]), [1, 2, 3, P], 4, [], [])
  assert_row(layout.start(), [M] * 4, 4, [], [])
  assert layout.decode(np.array([1, 2, P, 3]), 4) == [1, 2]


@pytest.mark.parametrize(
  "encode",
  [
    lambda path: AnchorLayout(VOCAB, 5).encode(path, INDEX),
    lambda path: layouts.PinnedLayout(
      VOCAB, 5, layouts.EvenPositions(5)
    ).encode(path, INDEX),
    lambda path: AnchorLayout(VOCAB, 5).encode(path),
    lambda path: PaddedLayout(VOCAB, 5).encode(path),
  ],
)
def test_rejects_long_paths(encode):
  with pytest.raises(InputError, match="has 6 tokens, more than max_length=5"):
    encode(PATH)


def test_rejects_path_longer_than_the_room_behind_the_prefix():
  with pytest.raises(InputError, match="max_length=8"):
    layouts.PrefixLayout(VOCAB, 5, 3).encode(PATH, INDEX)


def test_rejects_another_number_of_subgoals():
  with pytest.raises(InputError, match="has 2 subgoals, not num_subgoals=3"):
    PREFIX.start([7, 6])
  with pytest.raises(InputError, match="no positions of 3 subgoals"):
    layouts.LawPositions(np.array([[0, 1]]))(3, rng())
  with pytest.raises(InputError, match="mean_length=2 has no room for 3"):
    layouts.EvenPositions(2)(3, rng())


@pytest.mark.parametrize("pool", [np.zeros((0, 3), int), np.zeros(3, int)])
def test_rejects_pool(pool):
  with pytest.raises(InputError, match="is not int"):
    layouts.LawPositions(pool)


@pytest.mark.parametrize(
  "positions",
  [layouts.EvenPositions(9), layouts.LawPositions(np.array([[0, 2, 8]]))],
)
def test_rejects_pins_beyond_the_row(positions):
  with pytest.raises(InputError, match="position 8, beyond max_length=8"):
    layouts.PinnedLayout(VOCAB, L, positions)
