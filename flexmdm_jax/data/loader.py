"""The input pipeline: from stored records to this process's batches."""

import functools
import itertools
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import grain
import numpy as np
from jaxtyping import Int

from flexmdm_jax.data.mixture import Mixture
from flexmdm_jax.errors import InputError, clear_library_errors
from flexmdm_jax.reading import require_keys
from flexmdm_jax.rows import Rows, stack


class BucketPlan:
  """Plan of the records of each batch, for batches of like lengths.

  It is a pure function of its arguments: every process, and every resumed run,
  finds the same batches. In each epoch fewer than `batch_size` records are left
  out, drawn uniformly, so that in the long run all are seen equally often; the
  others come once. They are shuffled, sorted by bucket and cut into batches,
  which come in a shuffled order. A batch that straddles two buckets belongs to
  the longer one.

  An epoch of a mixture takes the records whose turn it is, by weight; within a
  bucket they keep their order, in which the sources take turns.
  """

  def __init__(
    self,
    lengths: Int[np.ndarray, " N"],
    buckets: Sequence[int],
    *,
    batch_size: int,
    seed: int,
    order: Callable[[int, int], Int[np.ndarray, " N"]] | None = None,
  ):
    """Plans the batches.

    Args:
      lengths: number of tokens of each record.
      buckets: the lengths that the arrays of a batch may have, ascending.
      batch_size: number of records of a batch, over all processes.
      seed: seed of the order.
      order: makes, of the seed and an epoch, the records to take in the epoch;
        None for a shuffle.

    Raises:
      InputError: `buckets` are empty or do not ascend, or a record is longer.
    """
    require_buckets(buckets, buckets[-1] if buckets else 1)
    lengths = np.asarray(lengths)
    if lengths.size and lengths.max() > buckets[-1]:
      raise InputError(
        f"a record of {lengths.max()} tokens fits in none of the buckets"
        f" {tuple(buckets)}: the last must be max_length."
      )
    self._buckets = np.array(buckets)
    self._bucket = np.searchsorted(self._buckets, lengths)
    self._batch_size = batch_size
    self._seed = seed
    self._order = order
    self.batches_per_epoch = len(lengths) // batch_size
    # Two, since reading ahead crosses the end of an epoch. All reading threads
    # want the same at once: one draws, the others wait.
    self._drawing = threading.Lock()
    self._epoch = functools.lru_cache(maxsize=2)(self._draw_epoch)

  def batch(self, index: int) -> tuple[int, Int[np.ndarray, " B"]]:
    """Returns the length and the records of batch `index`.

    The index counts from 0, on through the epochs.
    """
    epoch, i = divmod(index, self.batches_per_epoch)
    with self._drawing:
      rows = self._epoch(epoch)[i]
    return int(self._buckets[self._bucket[rows].max()]), rows

  def _draw_epoch(self, epoch: int) -> Int[np.ndarray, "n B"]:
    rng = np.random.default_rng([self._seed, epoch])
    size = self.batches_per_epoch * self._batch_size
    if self._order is None:
      rows = rng.permutation(len(self._bucket))
    else:
      rows = self._order(self._seed, epoch)
    rows = rows[:size]
    rows = rows[np.argsort(self._bucket[rows], kind="stable")]
    batches = rng.permutation(rows.reshape(-1, self._batch_size))
    # Training times are stratified over the rows: where a batch straddles two
    # buckets they must not go with the length.
    return rng.permuted(batches, axis=1)


def require_buckets(buckets: Sequence[int], max_length: int) -> None:
  """Raises InputError unless buckets ascend from >= 1 to `max_length`."""
  ascending = all(a < b for a, b in itertools.pairwise(buckets))
  if not (buckets and 1 <= buckets[0] and ascending):
    raise InputError(
      f"buckets={tuple(buckets)} must be lengths of at least 1, ascending."
    )
  if buckets[-1] != max_length:
    raise InputError(
      f"buckets={tuple(buckets)} must end with max_length={max_length}."
    )


class Batches(Iterator):
  """Iterator over the batches of a data set, which are read ahead."""

  def __init__(self, batches: grain.MapDataset):
    """Begins at the first batch."""
    self._batches = iter(batches.to_iter_dataset(_READ))

  def __next__(self) -> Rows:
    return next(self._batches)

  def get_state(self) -> dict[str, Any]:
    """Returns the position, JSON-ready."""
    return self._batches.get_state()

  def set_state(self, state: Any) -> None:
    """Goes to a position.

    Raises:
      InputError: it is none of this data set.
    """
    fix = "give a good copy of the checkpoint, or remove it"
    with clear_library_errors(f"no position in the data: {state!r:.60}", fix):
      ours = self._batches.get_state()
      require_keys(state, {key: type(x) for key, x in ours.items()})
      self._batches.set_state(state)


def make_loader(
  source: Sequence[Any],
  encode: Callable[[Any], Rows],
  *,
  batch_size: int,
  seed: int,
  rows: Sequence[int] | None = None,
  num_epochs: int | None = None,
  buckets: Sequence[int] = (),
) -> Batches:
  """Makes shuffled batches of examples, in another order every epoch.

  Step n's global batch holds the same examples in the same rows, however many
  processes share it: each reads its own rows. Batches run on across
  the end of an epoch; what does not fill the last one is dropped. With buckets
  a batch holds records of like lengths, as `BucketPlan` has it, and its arrays
  are only as long as its bucket. A `Mixture` is drawn by its weights, whose
  epochs are as long as its sources together; without buckets every batch is
  consecutive in its order, so the sources have their shares of each.

  Args:
    source: records, by index; with buckets, `source.lengths` are their numbers
      of tokens.
    encode: makes the example of a record.
    batch_size: number of examples in a global batch, over all processes.
    seed: seed of the order; at least 0.
    rows: rows of every global batch that this process reads; None is all.
    num_epochs: number of passes over the records; None is for ever.
    buckets: lengths to crop examples to, ascending; none if empty. Examples
      must have open gaps, and be padded beyond their tokens.

  Returns:
    An iterator over batches [rows, ...]. Its `get_state` and
    `set_state` resume exactly, given the same arguments but for `rows`: the
    state is the number of batches taken.

  Raises:
    InputError: there are fewer records than `batch_size`; a number is out of
      range; the buckets do not ascend, or a record fits in none.
  """
  if batch_size < 1:
    raise InputError(f"batch_size={batch_size} must be at least 1.")
  rows = range(batch_size) if rows is None else rows
  if not rows or not 0 <= min(rows) <= max(rows) < batch_size:
    raise InputError(f"rows={tuple(rows)} must be in [0, {batch_size}).")
  if len(source) < batch_size:
    raise InputError(
      f"batch_size={batch_size} is larger than the data set of {len(source)}"
      " examples: lower it or prepare more."
    )
  if seed < 0:
    raise InputError(f"data seed={seed} must be at least 0.")
  if num_epochs is not None and num_epochs < 1:
    raise InputError(f"num_epochs={num_epochs} must be None or at least 1.")
  mixed = isinstance(source, Mixture)
  if not buckets and not mixed:
    order = grain.MapDataset.source(source).seed(seed).shuffle()
    order = order.repeat(num_epochs)
    num_batches = len(order) // batch_size

    def read(index):
      first = index * batch_size
      return stack(encode(order[first + row]) for row in rows)

    return Batches(grain.MapDataset.range(num_batches).map(read))

  # One bucket for all: examples are not cropped.
  buckets = buckets or (max(1, int(source.lengths.max())),)
  plan = BucketPlan(
    source.lengths,
    buckets,
    batch_size=batch_size,
    seed=seed,
    order=source.epoch if mixed else None,
  )

  def read(index):
    length, chosen = plan.batch(index)
    examples = [encode(source[int(chosen[row])]) for row in rows]
    # Examples may be longer than their records, all by as much.
    room = examples[0].tokens.size - (buckets[-1] - length)
    return stack(example.crop(room) for example in examples)

  num_batches = _FOR_EVER
  if num_epochs is not None:
    num_batches = num_epochs * plan.batches_per_epoch
  return Batches(grain.MapDataset.range(num_batches).map(read))


# Batches are read ahead; the default, 500 of them, is gigabytes at 1024 tokens.
_READ = grain.ReadOptions(num_threads=4, prefetch_buffer_size=16)
_FOR_EVER = 2**62
