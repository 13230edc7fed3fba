"""Token ids: how many there are, and the two that are not text."""

import dataclasses

from flexmdm_jax.errors import InputError


@dataclasses.dataclass(frozen=True)
class Vocab:
  """The id space of a model.

  Attributes:
    size: number of ids; tokens are in `[0, size)`.
    mask: id of the mask token; it stands for a token that is inserted but not
      yet unmasked, and is never part of a clean sequence.
    pad: id that fills the positions beyond a sequence's length. The length
      decides what is padding, never this value: `pad` may also be an ordinary
      token (LLaDA's is its end-of-text; the fixed-length MDM predicts it).

  Raises:
    InputError: an id is out of range, or `mask` equals `pad`.
  """

  size: int
  mask: int
  pad: int

  def __post_init__(self):
    for name in ("size", "mask", "pad"):
      value = getattr(self, name)
      if isinstance(value, bool) or not isinstance(value, int):
        raise InputError(f"Vocab.{name} must be an int, got {value!r}.")
    if self.size < 3:
      raise InputError(
        f"Vocab.size={self.size} is too small: it needs a mask, a pad and at"
        " least one token."
      )
    for name in ("mask", "pad"):
      value = getattr(self, name)
      if not 0 <= value < self.size:
        raise InputError(
          f"Vocab.{name}={value} is out of range: choose an id in"
          f" [0, {self.size}) or raise Vocab.size={self.size}."
        )
    if self.mask == self.pad:
      raise InputError(
        f"Vocab.mask and Vocab.pad are both {self.mask}: give them two ids."
      )
