"""Estimates of memory, so that what cannot fit is refused before it starts.

They count what is surely needed and no more: a run that is refused could not
have worked, and one that is not may still be too large.
"""

import os

import jax

from flexmdm_jax.errors import InputError
from flexmdm_jax.models.dit import DiT
from flexmdm_jax.models.parameters import abstract_params, num_parameters
from flexmdm_jax.models.transformer import Transformer

# Float32 numbers of a parameter that is trained: itself, its moving average,
# its gradient, and two moments.
_TRAINED = 5
# Bytes of a position of a row on the host: an int32 id and two bools.
_POSITION = 6


def of_training(
  model: DiT | Transformer, batch_size: int, accumulation: int
) -> int:
  """Computes the bytes that training needs at least, on all devices together.

  They are those of the parameters with their optimiser, and two for each block,
  position and channel of a part of a batch, from which the backward pass
  starts.

  Args:
    model: the network; where low-rank updates are trained, its parameters count
      once, in 16 bits or the 8 of quantised ones.
    batch_size: rows of a batch.
    accumulation: parts of a batch.
  """
  whole = getattr(model, "lora", None) is None
  state = 4 * _TRAINED * num_parameters(model) if whole else _weights(model)
  rows = -(-batch_size // accumulation)
  residuals = rows * model.max_length * model.hidden_size * model.num_layers
  return state + 2 * residuals


def of_sampling(model: DiT | Transformer, num: int, batch_size: int) -> int:
  """Computes the bytes that sampling needs at least.

  They are those of the parameters in 16 bits, or in the 8 of quantised ones, of
  the rows on the host, and two for each position and channel of a batch.

  Args:
    model: the network.
    num: rows in all.
    batch_size: rows at once.
  """
  rows = min(num, batch_size)
  return (
    _weights(model)
    + _POSITION * num * model.max_length
    + 2 * rows * model.max_length * model.hidden_size
  )


def _weights(model: DiT | Transformer) -> int:
  """Computes the bytes of the parameters, in 16 bits at most."""
  leaves = jax.tree.leaves(abstract_params(model))
  return sum(x.size * min(2, x.dtype.itemsize) for x in leaves)


def require_to_sample(
  model: DiT | Transformer, num: int, batch_size: int
) -> None:
  """Refuses more rows than surely fit on what is here.

  Args:
    model: the network.
    num: rows in all.
    batch_size: rows at once.

  Raises:
    InputError: it has an estimate, and the memory that there is.
  """
  needed = of_sampling(model, num, batch_size)
  require(f"sampling {num:,} rows", needed, "their number or the batch size")


def available() -> int:
  """Finds the bytes of all devices of all processes; a CPU's are the host's."""
  devices = jax.devices()
  if devices[0].platform == "cpu":
    host = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return host * jax.process_count()
  found = [x.memory_stats() or {} for x in jax.local_devices()]
  return len(devices) * min(x.get("bytes_limit", 2**63) for x in found)


def require(what: str, needed: int, fix: str) -> None:
  """Refuses what needs more memory than there is.

  Args:
    what: what needs it.
    needed: bytes that it needs at least.
    fix: settings that would make it less.

  Raises:
    InputError: there is less; it has both numbers.
  """
  if needed > (there := available()):
    raise InputError(
      f"{what} needs at least {needed / 1e9:,.1f} GB of memory, and"
      f" {there / 1e9:,.1f} GB are here: lower {fix}."
    )
