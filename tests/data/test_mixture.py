"""The mixture: whose turn it is, and that nothing but the seed decides it."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flexmdm_jax.data.loader import make_loader
from flexmdm_jax.data.mixture import Mixture, parse_weights
from flexmdm_jax.errors import InputError
from flexmdm_jax.rows import AnchorLayout, PaddedLayout
from flexmdm_jax.vocab import Vocab

LAYOUT = AnchorLayout(Vocab(1000, 998, 999), 16)
SIZES = {"a": 40, "b": 11}


class Records(list):
  """Record i starts with `first + i`, of random length."""

  def __init__(self, first, size):
    self.lengths = np.random.default_rng(first).integers(1, 17, size=size)
    super().__init__(
      [first + i, *range(n - 1)] for i, n in enumerate(self.lengths)
    )


def mixture(weights=(("a", 0.5), ("b", 0.5)), sizes=SIZES):
  sources = {
    name: Records(100 * i, sizes[name]) for i, (name, _) in enumerate(weights)
  }
  return Mixture(sources, parse_weights(dict(weights)))


def draws(mixed, seed, epochs):
  """The first word of the records that epochs draw, and its source."""
  rows = np.concatenate([mixed.epoch(seed, e) for e in range(epochs)])
  words = np.array([mixed[row][0] for row in rows])
  return words, words // 100


def test_weights_become_the_shortest_pattern():
  assert parse_weights({"b": 0.45, "a": 0.55}) == {"a": 11, "b": 9}
  assert parse_weights({"a": 2, "b": 1, "c": 0.0}) == {"a": 2, "b": 1}
  assert parse_weights({"a": 1 / 3, "b": 2 / 3}) == {"a": 1, "b": 2}
  assert parse_weights({"a": 1e-4, "b": 1}) == {"a": 1, "b": 10_000}


@pytest.mark.parametrize(
  ("weights", "message"),
  [
    ({"a": 1, "b": -0.5}, r"data.mixture.b.weight=-0.5 must be a number of at"),
    ({"a": float("nan")}, "data.mixture.a.weight=nan must be"),
    ({"a": float("inf")}, "data.mixture.a.weight=inf must be"),
    ({"a": "much"}, "data.mixture.a.weight='much' must be"),
    ({"a": None}, "data.mixture.a.weight=None must be"),
    ({"a": True}, "data.mixture.a.weight=True must be"),
    ({"a": 0, "b": 0.0}, r"the weights of data.mixture \(a, b\) are all 0"),
    ({"a": 0.1234567, "b": 1}, "a.weight=0.1234567, .*too many digits"),
  ],
)
def test_weights_that_are_none(weights, message):
  with pytest.raises(InputError, match=message):
    parse_weights(weights)


def test_two_equal_sources_alternate():
  mixed = mixture()
  _, whose = draws(mixed, 0, 4)
  # 51 records an epoch: the second begins with the other source.
  np.testing.assert_array_equal(whose, np.arange(204) % 2)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(1, 30), min_size=2, max_size=5), st.integers(1, 50))
def test_shares_hold_at_every_point(weights, size):
  names = "abcde"[: len(weights)]
  mixed = mixture(
    tuple(zip(names, weights, strict=True)), dict.fromkeys(names, size)
  )
  _, whose = draws(mixed, 0, 3)
  n = np.arange(1, len(whose) + 1)
  shares = np.array(weights) / sum(weights)
  for i, share in enumerate(shares):
    bound = 0.5 + (len(weights) - 2) * share / 2
    off = np.cumsum(whose == i) - share * n
    assert np.abs(off).max() <= bound + 1e-9


def test_every_source_goes_through_all_its_records_again_and_again():
  mixed = mixture((("a", 3), ("b", 1)))
  words, whose = draws(mixed, 5, 12)
  for i, size in enumerate(SIZES.values()):
    mine = words[whose == i]
    passes = mine[: len(mine) // size * size].reshape(-1, size)
    assert len(passes) > 2
    everything = np.arange(size) + 100 * i
    np.testing.assert_array_equal(np.sort(passes), [everything] * len(passes))
    assert len({tuple(order) for order in passes}) == len(passes)


def test_sources_are_shuffled_apart():
  words, whose = draws(mixture(sizes={"a": 11, "b": 11}), 0, 1)
  a, b = (words[whose == i] % 100 for i in (0, 1))
  assert a.tolist() != b.tolist()


def test_the_seed_decides():
  mixed = mixture()
  assert mixed.epoch(1, 3).tolist() == mixture().epoch(1, 3).tolist()
  assert mixed.epoch(1, 3).tolist() != mixed.epoch(2, 3).tolist()


def test_other_weights_leave_each_source_its_order():
  few, many = (draws(mixture((("a", 1), ("b", w))), 0, 3) for w in (1, 4))
  for i in (0, 1):
    orders = [words[whose == i] for words, whose in (few, many)]
    n = min(map(len, orders))
    np.testing.assert_array_equal(orders[0][:n], orders[1][:n])


def test_held_out_records_are_by_weight_and_once():
  for weights, expected in (((3, 1), (33, 11)), ((1, 1), (11, 11))):
    held_out = mixture((("a", weights[0]), ("b", weights[1]))).balanced()
    words = np.array([record[0] for record in held_out])
    assert len(set(words)) == len(words) == len(held_out.lengths)
    assert np.bincount(words // 100).tolist() == list(expected)
    # At even distances, as an evaluation takes them.
    some = words[np.arange(8) * len(words) // 8]
    assert np.bincount(some // 100)[0] == 8 * weights[0] / sum(weights)
  rare = mixture((("a", 1), ("b", 1000))).balanced()
  assert [record[0] // 100 for record in rare] == [0] + [1] * 11


def test_one_sequence_of_all():
  mixed = mixture()
  assert len(mixed) == 51 and mixed.lengths.tolist() == list(map(len, mixed))
  assert mixed[-1] == mixed[50] and mixed[40][0] == 100
  with pytest.raises(IndexError):
    _ = mixed[51]


def loader(buckets=(), source=None, **kwargs):
  kwargs = {"batch_size": 8, "seed": 0, "buckets": buckets, **kwargs}
  return make_loader(source or mixture(), LAYOUT.encode, **kwargs)


def rows(batch):
  texts = zip(batch.tokens, batch.length, strict=True)
  return [LAYOUT.decode(tokens, n) for tokens, n in texts]


def take(iterator, n):
  return [rows(batch) for batch in itertools.islice(iterator, n)]


@pytest.mark.parametrize("weights", [(1, 1), (3, 1), (2, 1), (0.3, 0.7)])
def test_every_batch_holds_its_shares(weights):
  mixed = mixture((("a", weights[0]), ("b", weights[1])))
  for batch in take(loader(source=mixed), 30):
    share = 8 * weights[1] / sum(weights)
    assert abs(sum(row[0] >= 100 for row in batch) - share) <= 1


def test_the_place_in_a_batch_does_not_tell_the_source():
  batches = take(loader(), 200)
  whose = np.array([[row[0] >= 100 for row in batch] for batch in batches])
  off = whose.mean(0) - 0.5  # 200 draws: standard deviation .035
  assert np.abs(off).max() < 0.16


@pytest.mark.parametrize("buckets", [(), (4, 8, 16)])
def test_processes_share_the_batch_of_one(buckets):
  one = take(loader(buckets), 20)
  for count in (2, 4):
    shares = [
      take(loader(buckets, rows=range(i, 8, count)), 20) for i in range(count)
    ]
    for batch, *parts in zip(one, *shares, strict=True):
      for i, part in enumerate(parts):
        assert part == batch[i::count]


@pytest.mark.parametrize("buckets", [(), (4, 8, 16)])
@pytest.mark.parametrize("at", [0, 3, 9])
def test_resumes_exactly_across_epochs(buckets, at):
  whole = take(loader(buckets), 20)
  first, second = loader(buckets), loader(buckets)
  take(first, at)
  take(second, 2)
  second.set_state(first.get_state())
  assert take(second, 20 - at) == whole[at:]
  assert take(first, 20 - at) == whole[at:]


def test_buckets_hold_the_shares_of_an_epoch():
  mixed = mixture((("a", 1), ("b", 2)))
  batches = list(loader((4, 8, 16), mixed, num_epochs=1))
  assert {batch.tokens.shape[1] for batch in batches} == {4, 8, 16}
  seen = [row[0] for batch in batches for row in rows(batch)]
  assert len(seen) == 48 and sum(word >= 100 for word in seen) == 32


def test_fixed_rows_are_left_whole():
  layout = PaddedLayout(LAYOUT.vocab, 16)
  batch = next(make_loader(mixture(), layout.encode, batch_size=4, seed=0))
  assert batch.tokens.shape == (4, 16) and (batch.length == 16).all()
