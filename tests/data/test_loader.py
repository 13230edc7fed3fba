"""The input pipeline: order, shares, and exact resumption."""

import itertools

import numpy as np
import pytest

from flexmdm_jax.data.loader import BucketPlan, make_loader
from flexmdm_jax.errors import InputError
from flexmdm_jax.rows import AnchorLayout, Rows
from flexmdm_jax.tasks.maze import law as mazes
from flexmdm_jax.vocab import Vocab

RECORDS = [{"n": np.array(n)} for n in range(23)]


def same(record):
  return Rows(
    record["n"][None], np.array(1), np.zeros(1, bool), np.ones(2, bool)
  )


def loader(source=RECORDS, batch_size=4, seed=0, **kwargs):
  return make_loader(source, same, batch_size=batch_size, seed=seed, **kwargs)


def take(iterator, n):
  return [
    batch.tokens[:, 0].tolist() for batch in itertools.islice(iterator, n)
  ]


def flat(batches):
  return list(itertools.chain.from_iterable(batches))


def test_every_epoch_holds_all_records_in_another_order():
  order = flat(take(loader(), 12))
  first, second = order[:23], order[23:46]
  assert sorted(first) == sorted(second) == list(range(23))
  assert first != second and first != list(range(23))


def test_one_epoch_drops_the_remainder():
  batches = take(loader(num_epochs=1), 100)
  assert [len(b) for b in batches] == [4] * 5
  assert len(set(flat(batches))) == 20


def test_seed_determines_the_order():
  assert take(loader(), 6) == take(loader(), 6) != take(loader(seed=1), 6)


@pytest.mark.parametrize("at", [0, 3, 7])
def test_resumes_exactly_across_epochs(at):
  whole = take(loader(), 15)
  first = loader()
  take(first, at)
  second = loader()
  take(second, 2)  # its own position must not matter
  second.set_state(first.get_state())
  assert take(second, 15 - at) == whole[at:]
  assert take(first, 15 - at) == whole[at:]


def test_processes_share_the_global_batch_of_one():
  shares = [loader(rows=rows) for rows in ([0, 3], [1, 2])]
  for batch in take(loader(), 12):
    outer, inner = [take(share, 1)[0] for share in shares]
    assert [outer[0], *inner, outer[1]] == batch


def test_state_outlives_a_change_of_processes():
  one = loader()
  take(one, 7)
  shares = [loader(rows=[i]) for i in range(4)]
  for share in shares:
    share.set_state(one.get_state())
  assert flat(take(share, 1)[0] for share in shares) == take(one, 1)[0]


def test_batches_stack_examples():
  maze = mazes.Maze(mazes.make_maze(7, 0))
  layout = AnchorLayout(mazes.maze_vocab(7), 40)
  plans = [
    maze.join(p)
    for p in itertools.islice(mazes.problems(maze, 3, "test", 0), 8)
  ]
  batch = next(
    make_loader(plans, lambda plan: layout.encode(*plan), batch_size=4, seed=0)
  )
  assert {k: (v.shape, v.dtype) for k, v in batch._asdict().items()} == {
    "tokens": ((4, 40), np.int32),
    "length": ((4,), np.int32),
    "frozen": ((4, 40), bool),
    "open_gaps": ((4, 41), bool),
  }
  paths = [p.path for p in plans]
  for tokens, length in zip(batch.tokens, batch.length, strict=True):
    assert layout.decode(tokens, length) in paths


@pytest.mark.parametrize(
  ("kwargs", "message"),
  [
    ({"batch_size": 0}, "batch_size=0 must be at least 1"),
    ({"batch_size": 24}, "batch_size=24 is larger than the data set of 23"),
    ({"source": []}, "batch_size=4 is larger than the data set of 0"),
    ({"rows": [4]}, r"rows=\(4,\) must be in \[0, 4\)"),
    ({"rows": [-1, 0]}, r"rows=\(-1, 0\)"),
    ({"rows": []}, r"rows=\(\)"),
    ({"seed": -1}, "seed=-1"),
    ({"num_epochs": 0}, "num_epochs=0"),
  ],
)
def test_rejects(kwargs, message):
  with pytest.raises(InputError, match=message):
    loader(**kwargs)


LENGTHS = np.random.default_rng(0).integers(0, 17, size=103)
BUCKETS = (4, 8, 16)


def plan(lengths=LENGTHS, buckets=BUCKETS, batch_size=8, seed=0):
  return BucketPlan(lengths, buckets, batch_size=batch_size, seed=seed)


def test_a_plan_has_every_record_at_most_once_an_epoch():
  p = plan()
  assert p.batches_per_epoch == 12
  orders = []
  for epoch in range(3):
    batches = [p.batch(12 * epoch + i)[1] for i in range(12)]
    orders.append(np.concatenate(batches).tolist())
    assert len(set(orders[-1])) == 96
  assert len({tuple(order) for order in orders}) == 3
  # What is left out is another few each time.
  assert len(set.intersection(*({*range(103)} - {*o} for o in orders))) < 7


def test_a_plan_leaves_out_every_record_equally_often():
  # The only record of the longest bucket too: by a plan that drops what fills
  # no batch of the last bucket it would never be seen.
  p = plan(lengths=np.array([3] * 8 + [16]), batch_size=8)
  seen = sum(8 in p.batch(epoch)[1] for epoch in range(900))
  assert abs(seen - 800) < 4 * np.sqrt(900 * 8 / 81)


def test_a_plan_batches_like_lengths():
  p = plan()
  mixed = 0
  for i in range(48):
    L, rows = p.batch(i)
    fitting = np.array(BUCKETS)[np.searchsorted(BUCKETS, LENGTHS[rows])]
    assert L == fitting.max()
    mixed += len(set(fitting)) > 1
  assert mixed <= 4 * (len(BUCKETS) - 1)


def test_a_plan_follows_its_arguments_alone():
  batches = [plan().batch(i)[1].tolist() for i in (30, 3)]
  p = plan()
  assert batches == [p.batch(i)[1].tolist() for i in (30, 3)]
  assert batches != [plan(seed=1).batch(i)[1].tolist() for i in (30, 3)]


class Texts(list):
  """Record i counts up to `lengths[i]`, after its number."""

  def __init__(self, lengths):
    self.lengths = lengths
    super().__init__([100 + i, *range(n - 1)] for i, n in enumerate(lengths))


TEXTS = Texts(np.random.default_rng(1).integers(1, 17, size=50))
LAYOUT = AnchorLayout(Vocab(200, 198, 199), 16)


def bucketed(**kwargs):
  kwargs = {"batch_size": 8, "seed": 0, "buckets": BUCKETS, **kwargs}
  return make_loader(TEXTS, LAYOUT.encode, **kwargs)


def rows(batch):
  texts = zip(batch.tokens, batch.length, strict=True)
  return [LAYOUT.decode(tokens, n) for tokens, n in texts]


def test_bucketed_batches_are_as_long_as_their_bucket():
  sizes = set()
  for batch in itertools.islice(bucketed(), 20):
    L = batch.tokens.shape[1]
    sizes.add(L)
    assert {k: (v.shape, v.dtype) for k, v in batch._asdict().items()} == {
      "tokens": ((8, L), np.int32),
      "length": ((8,), np.int32),
      "frozen": ((8, L), bool),
      "open_gaps": ((8, L + 1), bool),
    }
    for row in rows(batch):
      assert row == TEXTS[row[0] - 100]
    gaps = np.arange(L + 1) <= batch.length[:, None]
    np.testing.assert_array_equal(batch.open_gaps, gaps)
  assert sizes == set(BUCKETS)


def test_one_bucketed_epoch_ends():
  batches = list(bucketed(num_epochs=1))
  seen = [row[0] for batch in batches for row in rows(batch)]
  assert len(batches) == 6 and len(set(seen)) == 48


@pytest.mark.parametrize("at", [0, 3, 7])
def test_bucketed_resumes_exactly_across_epochs(at):
  def take_rows(iterator, n):
    return [rows(batch) for batch in itertools.islice(iterator, n)]

  whole = take_rows(bucketed(), 15)
  first = bucketed()
  take_rows(first, at)
  second = bucketed()
  take_rows(second, 2)
  second.set_state(first.get_state())
  assert take_rows(second, 15 - at) == whole[at:]


def test_processes_share_a_bucketed_batch():
  shares = [bucketed(rows=[i, i + 4]) for i in range(4)]
  one = bucketed()
  for batch in itertools.islice(one, 9):
    parts = [next(share) for share in shares]
    for i, part in enumerate(parts):
      np.testing.assert_array_equal(part.tokens, batch.tokens[[i, i + 4]])
  shares[0].set_state(one.get_state())
  assert next(shares[0]).tokens.shape[1] == next(one).tokens.shape[1]


@pytest.mark.parametrize(
  ("buckets", "message"),
  [
    ((4, 4, 16), "must be lengths of at least 1, ascending"),
    ((0, 16), "must be lengths of at least 1, ascending"),
    ((16, 4), "must be lengths of at least 1, ascending"),
    ((4, 8), "a record of 16 tokens fits in none of the buckets"),
  ],
)
def test_rejects_buckets(buckets, message):
  with pytest.raises(InputError, match=message):
    bucketed(buckets=buckets)
  with pytest.raises(InputError, match="must be lengths"):
    plan(buckets=())


@pytest.mark.parametrize(
  "state", [None, [], {}, {"next_index": "1"}, {"next_index": -4}]
)
def test_a_position_that_is_none_is_refused(state):
  with pytest.raises(InputError, match="no position in the data: "):
    loader().set_state(state)
