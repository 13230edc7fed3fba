"""Splits by content: what is held out is never trained on."""

import hashlib

from flexmdm_jax.errors import InputError

SPLITS = ("train", "validation", "test")


def content_split(content: bytes) -> str:
  """Returns the split of `content`: 80 % train, 10 % validation, 10 % test.

  It depends on nothing else: not on a seed, an order or a number of examples,
  so that two data sets of any settings agree on it.
  """
  bucket = int.from_bytes(hashlib.sha256(content).digest()[:8], "big") % 10
  return "validation" if bucket == 8 else "test" if bucket == 9 else "train"


def require_split(split: str) -> None:
  """Raises InputError unless `split` is one of `SPLITS`."""
  if split not in SPLITS:
    raise InputError(
      f"split={split!r} is unknown: choose one of {', '.join(SPLITS)}."
    )
