"""What a visitor of the demo may ask for, and how a text is read."""

import dataclasses
import re
from collections.abc import Sequence

from flexmdm_jax import schema
from flexmdm_jax.errors import InputError
from flexmdm_jax.inference.model import Model, Text
from flexmdm_jax.schema import count, require
from flexmdm_jax.tasks.task import parse_ids

MARK = "[...]"
# Editors make one character of three dots.
_MARKS = re.compile(r"\[(?:\.\.\.|…)\]")


@dataclasses.dataclass(frozen=True)
class Bounds:
  """The most that one request may ask for.

  Attributes:
    characters: of a text field.
    samples: at once.
    calls: network calls a sample, or a text that is scored.
    holes: in one text.
    texts: scored at once.
    seconds: that a sample is slowed down to, to be watched.
    waiting: requests that wait for their turn; more are refused.
    programs: compiled programs that are kept: each choice of samples, calls,
      temperature, sampler and length compiles one.
  """

  characters: int = count(4000)
  samples: int = count(8)
  calls: int = count(512)
  holes: int = count(16)
  texts: int = count(32)
  seconds: int = count(20)
  waiting: int = count(16)
  programs: int = count(32)

  def __post_init__(self):
    require(self, "demo")

  def require_number(self, name: str, value: int, most: int) -> None:
    """Raises an InputError unless `value` is an integer in [1, most]."""
    schema.require_value(name, value, int, schema.Range(least=1, most=most))

  def require_text(self, text: str) -> str:
    """Returns a text; raises an InputError if it is too long, or is none."""
    if not isinstance(text, str):
      raise InputError(f"a text is needed, not {text!r:.40}.")
    if len(text) > self.characters:
      raise InputError(
        f"the text has {len(text)} characters, more than {self.characters}:"
        " shorten it."
      )
    return text

  def parts(self, text: str) -> list[str]:
    """Splits a text at its holes, each written as [...].

    Raises:
      InputError: there is no hole, too many, or too many characters.
    """
    parts = _MARKS.split(self.require_text(text))
    holes = len(parts) - 1
    if not holes:
      raise InputError(
        f"the text has no hole: write {MARK} where something is to be put in."
      )
    if holes > self.holes:
      raise InputError(
        f"the text has {holes} holes, more than {self.holes}: remove some."
      )
    return parts

  def lines(self, text: str) -> list[str]:
    """Splits a text into its lines that are not blank.

    Raises:
      InputError: there is none, or too many of lines or characters.
    """
    lines = self.require_text(text).splitlines()
    lines = [line for line in lines if line.strip()]
    if not lines:
      raise InputError("there is no text: write one on each line.")
    if len(lines) > self.texts:
      raise InputError(
        f"there are {len(lines)} texts, more than {self.texts}: remove some."
      )
    return lines


def read_text(model: Model, text: str) -> Text:
  """Reads a text as the model takes it: ids, for one without a tokenizer.

  Raises:
    InputError: it is to be ids, and is not.
  """
  return text if model.tokenizer is not None else parse_ids(text)


def doubled(least: int, most: int) -> Sequence[int]:
  """Lists `least`, twice that, and so on up to `most`."""
  return [least * 2**i for i in range((most // least).bit_length())]
