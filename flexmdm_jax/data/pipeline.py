"""The input pipeline: from stored records to batches of this process."""

from collections.abc import Callable, Sequence
from typing import Any

import grain
import numpy as np

from flexmdm_jax.errors import InputError


def make_loader(
  source: Sequence[Any],
  encode: Callable[[Any], dict[str, np.ndarray]],
  *,
  batch_size: int,
  seed: int,
  process_index: int = 0,
  process_count: int = 1,
  num_epochs: int | None = None,
) -> grain.DatasetIterator:
  """Shuffled batches of examples, in another order every epoch.

  All processes together read each record once an epoch, and step n's global
  batch holds the same examples whatever their number. Batches run on across
  the end of an epoch; what does not fill the last one is dropped.

  Args:
    source: records, by index.
    encode: makes an example, a dict of arrays, of a record.
    batch_size: examples in a global batch, over all processes.
    seed: of the order; at least 0.
    process_index: this process, from 0.
    process_count: number of processes.
    num_epochs: passes over the records; None is for ever.

  Returns:
    An iterator over dicts of arrays [batch_size / process_count, ...]. Its
    `get_state` and `set_state` resume exactly, given the same arguments.

  Raises:
    InputError: `batch_size` is not a positive multiple of `process_count`, or
      there are fewer records; a number is out of range.
  """
  if not 0 <= process_index < process_count:
    raise InputError(
      f"process_index={process_index} must be in [0, {process_count})."
    )
  if batch_size < 1 or batch_size % process_count:
    raise InputError(
      f"batch_size={batch_size} must be a positive multiple of the"
      f" {process_count} processes."
    )
  if len(source) < batch_size:
    raise InputError(
      f"batch_size={batch_size} is larger than the data set of {len(source)}"
      " examples: lower it or prepare more."
    )
  if seed < 0:
    raise InputError(f"data seed={seed} must be at least 0.")
  if num_epochs is not None and num_epochs < 1:
    raise InputError(f"num_epochs={num_epochs} must be None or at least 1.")
  return iter(
    grain.MapDataset.source(source)
    .seed(seed)
    .shuffle()
    .repeat(num_epochs)[process_index::process_count]
    .map(encode)
    .batch(batch_size // process_count, drop_remainder=True)
    .to_iter_dataset(_READ)
  )


# Batches are read ahead; the default, 500 of them, is gigabytes at 1024 tokens.
_READ = grain.ReadOptions(num_threads=4, prefetch_buffer_size=16)
