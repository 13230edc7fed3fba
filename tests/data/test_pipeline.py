"""The input pipeline: order, shares, and exact resumption."""

import itertools

import numpy as np
import pytest

from flexmdm_jax.data import layouts, mazes
from flexmdm_jax.data.pipeline import make_loader
from flexmdm_jax.errors import InputError

RECORDS = [{"n": np.array(n)} for n in range(23)]


def same(record):
  return record


def loader(source=RECORDS, batch_size=4, seed=0, **kwargs):
  return make_loader(source, same, batch_size=batch_size, seed=seed, **kwargs)


def take(iterator, n):
  return [batch["n"].tolist() for batch in itertools.islice(iterator, n)]


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
  shares = [loader(process_index=i, process_count=2) for i in range(2)]
  for batch in take(loader(), 12):
    parts = [take(share, 1)[0] for share in shares]
    assert [len(part) for part in parts] == [2, 2]
    assert sorted(flat(parts)) == sorted(batch)


def test_state_outlives_a_change_of_processes():
  one = loader()
  take(one, 7)
  shares = [loader(process_index=i, process_count=4) for i in range(4)]
  for share in shares:
    share.set_state(one.get_state())
  parts = [take(share, 1)[0] for share in shares]
  assert sorted(flat(parts)) == sorted(take(one, 1)[0])


def test_batches_stack_examples():
  maze = mazes.Maze(mazes.make_maze(7, 0))
  layout = layouts.AnchorLayout(mazes.maze_vocab(7), 40)
  plans = [
    maze.join(p)
    for p in itertools.islice(mazes.problems(maze, 3, "test", 0), 8)
  ]
  batch = next(
    make_loader(plans, lambda plan: layout.encode(*plan), batch_size=4, seed=0)
  )
  assert {k: (v.shape, v.dtype) for k, v in batch.items()} == {
    "tokens": ((4, 40), np.int32),
    "length": ((4,), np.int32),
    "frozen": ((4, 40), bool),
    "open_gaps": ((4, 41), bool),
  }
  paths = [p.path for p in plans]
  for tokens, length in zip(batch["tokens"], batch["length"], strict=True):
    assert layout.decode(tokens, length) in paths


@pytest.mark.parametrize(
  ("kwargs", "message"),
  [
    ({"batch_size": 5, "process_count": 2}, "batch_size=5 must be a positive"),
    ({"batch_size": 0}, "batch_size=0 must be a positive"),
    ({"batch_size": 24}, "batch_size=24 is larger than the data set of 23"),
    ({"source": []}, "batch_size=4 is larger than the data set of 0"),
    ({"process_index": 2, "process_count": 2}, "process_index=2"),
    ({"process_index": -1}, "process_index=-1"),
    ({"seed": -1}, "seed=-1"),
    ({"num_epochs": 0}, "num_epochs=0"),
  ],
)
def test_rejects(kwargs, message):
  with pytest.raises(InputError, match=message):
    loader(**kwargs)
