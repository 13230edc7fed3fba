"""Settings: fields of dataclasses with a type, a range and a sentence.

  learning_rate: float = setting(3e-4, above=0)

The type is the field's annotation, the range stands in `setting`, the sentence
in the Attributes of the class's docstring; `require` in its `__post_init__`
checks all of them. Checks, the help of commands and the configs of experiments
are made of these.
"""

import dataclasses
import inspect
import math
import numbers
import re
import types
import typing
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from flexmdm_jax.errors import InputError

_KEY = "flexmdm_jax.setting"
# Seeds of JAX, NumPy and Grain alike.
MAX_SEED = 2**32 - 1
# More rows, positions or steps are a slip of the hand, and some overflow int32.
MAX_COUNT = 10**9
_WORDS = {
  int: "an integer",
  float: "a number",
  str: "text",
  bool: "True or False",
  Mapping: "settings by name",
}


@dataclasses.dataclass(frozen=True)
class Range:
  """Values that a setting may have, beside what its type allows.

  Attributes:
    least: smallest value; None for no limit, as of the other three.
    above: value that it must exceed.
    most: largest value.
    below: value that it must stay under.
    among: the values that there are.
  """

  least: float | None = None
  above: float | None = None
  most: float | None = None
  below: float | None = None
  among: Collection[Any] | None = None

  def problem(self, value: Any) -> str | None:
    """Says what a value must be, if it is not; finite in any case."""
    if self.among is not None:
      return None if value in self.among else str(self)
    if isinstance(value, str) and "\0" in value:  # no path, say, can have it
      return "text without a NUL"
    if not isinstance(value, numbers.Real) or isinstance(value, bool):
      return None
    if not _is_finite(value):
      return f"finite{', ' if str(self) else ''}{self}"
    if self.most == MAX_COUNT and value > MAX_COUNT:
      return f"at most {MAX_COUNT:,}"
    inside = (
      (self.least is None or value >= self.least)
      and (self.above is None or value > self.above)
      and (self.most is None or value <= self.most)
      and (self.below is None or value < self.below)
    )
    return None if inside else str(self)

  def __str__(self):
    """Says the limits; empty without any."""
    if self.among is not None:
      return f"one of {', '.join(str(x) for x in self.among if x is not None)}"
    limits = (
      ("at least", self.least),
      ("above", self.above),
      # A billion goes without saying.
      ("at most", None if self.most == MAX_COUNT else self.most),
      ("below", self.below),
    )
    said = (f"{word} {limit:,}" for word, limit in limits if limit is not None)
    return " and ".join(said)


def _is_finite(value: float) -> bool:
  """Tells whether a number is one that a float can hold."""
  try:
    return math.isfinite(float(value))
  except OverflowError:
    return False


def setting(
  default: Any = dataclasses.MISSING,
  *,
  least: float | None = None,
  above: float | None = None,
  most: float | None = None,
  below: float | None = None,
  among: Collection[Any] | None = None,
) -> Any:
  """Makes a dataclass field that `require` checks.

  Args:
    default: its value where none is given; without, one must be.
    least: smallest value.
    above: value that it must exceed.
    most: largest value.
    below: value that it must stay under.
    among: the values that there are, beside None where the type has it.
  """
  known = Range(least, above, most, below, among)
  return dataclasses.field(default=default, metadata={_KEY: known})


def count(default: Any = dataclasses.MISSING, *, least: int = 1) -> Any:
  """Makes the field of a number of things, at most a billion."""
  return setting(default, least=least, most=MAX_COUNT)


def seed(default: Any = dataclasses.MISSING) -> Any:
  """Makes the field of a seed, of 32 bits."""
  return setting(default, least=0, most=MAX_SEED)


def require(instance: Any, section: str) -> None:
  """Checks all settings of a dataclass; call it in `__post_init__`.

  A list is taken for a tuple.

  Args:
    instance: the dataclass.
    section: what its settings are called by, as "optimizer" in
      "optimizer.learning_rate".

  Raises:
    InputError: names the first setting that has another type, is not finite,
      or is out of its range.
  """
  for field in dataclasses.fields(instance):
    if (known := field.metadata.get(_KEY)) is None:
      continue
    value = getattr(instance, field.name)
    if isinstance(value, list):
      value = tuple(value)
      object.__setattr__(instance, field.name, value)
    require_value(f"{section}.{field.name}", value, field.type, known)


def require_value(
  name: str, value: Any, hint: Any, known: Range | None = None
) -> None:
  """Checks one value.

  Args:
    name: what it is called by.
    value: the value.
    hint: its type: int, float, str, bool, tuple[X, ...], or one of several
      with |.
    known: its range; of a tuple, each member's.

  Raises:
    InputError: it has another type, is not finite, or is out of its range.
  """
  known = known or Range()
  if not fits(value, hint):
    wanted = f"must be {describe_type(hint)}"
    if limits := str(known):
      wanted += f", {limits}"
    raise InputError(f"{name}={value!r} {wanted}.")
  if value is None:
    return
  for member in value if isinstance(value, tuple) else (value,):
    if problem := known.problem(member):
      raise InputError(f"{name}={value!r} must be {problem}.")


def fits(value: Any, hint: Any) -> bool:
  """Tells whether a value has a type; an int is a float, a bool no number."""
  if hint is Any:
    return True
  if hint is None or hint is type(None):
    return value is None
  if isinstance(hint, types.UnionType):
    return any(fits(value, part) for part in typing.get_args(hint))
  if typing.get_origin(hint) is tuple:
    kind = typing.get_args(hint)[0]
    return isinstance(value, tuple) and all(fits(x, kind) for x in value)
  if typing.get_origin(hint) is not None:
    hint = typing.get_origin(hint)
  if hint in (int, float):
    hint = numbers.Integral if hint is int else numbers.Real
    return isinstance(value, hint) and not isinstance(value, bool)
  return isinstance(value, hint)


def describe_type(hint: Any) -> str:
  """Says a type in words."""
  if hint is None or hint is type(None):
    return "None"
  if isinstance(hint, types.UnionType):
    return " or ".join(describe_type(x) for x in typing.get_args(hint))
  if typing.get_origin(hint) is tuple:
    kind = typing.get_args(hint)[0]
    return f"a tuple, each {describe_type(kind)}"
  return _WORDS.get(hint, getattr(hint, "__name__", str(hint)))


def build(
  cls: type, settings: Mapping[str, Any], section: str, **more: Any
) -> Any:
  """Calls `cls(**settings, **more)`, with tuples in place of JSON's lists.

  Args:
    cls: a dataclass.
    settings: fields by name.
    section: what they are called by.
    **more: fields that are no settings.

  Raises:
    KeyMismatchError: a setting is no field of it, or one is missing.
    InputError: as the class raises it.
  """
  require_value(section, settings, Mapping)
  fields = {
    f.name: f
    for f in dataclasses.fields(cls)
    # Those two are Flax's own.
    if f.init and (_KEY in f.metadata or f.name not in ("parent", "name"))
  }
  known = sorted(fields.keys() - more.keys())
  require_known(section, settings, known)
  for name in known:
    missing = (fields[name].default, fields[name].default_factory)
    if name not in settings and missing == (dataclasses.MISSING,) * 2:
      raise KeyMismatchError(f"{section} has no setting {name!r}: give it one.")
  lists = {k: tuple(v) for k, v in settings.items() if isinstance(v, list)}
  settings = {**settings, **lists}
  for name, value in settings.items():
    hint = fields[name].type
    if (limits := fields[name].metadata.get(_KEY)) is not None:
      require_value(f"{section}.{name}", value, hint, limits)
      # JSON writes some floats as integers.
      if hint in (float, float | None) and fits(value, int):
        settings[name] = float(value)
  return cls(**settings, **more)


def checked(
  cls: type, settings: Mapping[str, Any], section: str
) -> dict[str, Any]:
  """Returns settings as `build` checks them, with what is missing by default.

  Args:
    cls: a dataclass.
    settings: fields by name.
    section: what they are called by.

  Raises:
    InputError: as `build`.
  """
  return vars(build(cls, settings, section)).copy()


class KeyMismatchError(InputError):
  """A setting that this version does not know, or one that it misses."""


def require_known(
  what: str, settings: Mapping[str, Any], known: Collection[str]
) -> None:
  """Raises a KeyMismatchError if `what` has a setting that is not known."""
  for key in settings:
    if key not in known:
      raise KeyMismatchError(
        f"unknown setting {key!r} of {what}: it takes {', '.join(known)}."
      )


@dataclasses.dataclass(frozen=True)
class Description:
  """One setting, for a reader.

  Attributes:
    name: name of the field.
    hint: its type.
    limits: its range in words; may be empty.
    default: its default; `dataclasses.MISSING` without one.
    sentence: what it means.
  """

  name: str
  hint: Any
  limits: str
  default: Any
  sentence: str

  def __str__(self):
    kind = describe_type(self.hint)
    limits = f", {self.limits}" if self.limits else ""
    default = ""
    if self.default is not dataclasses.MISSING:
      default = f"; by default {self.default!r}"
    return f"{self.name} ({kind}{limits}{default}): {self.sentence}"


def describe(cls: type) -> Iterator[Description]:
  """Describes the settings of a dataclass, in order."""
  sentences = {}
  for base in reversed(cls.__mro__):
    sentences |= _attributes(inspect.cleandoc(base.__doc__ or ""))
  for field in dataclasses.fields(cls):
    if (known := field.metadata.get(_KEY)) is not None:
      yield Description(
        field.name,
        field.type,
        str(known),
        field.default,
        sentences.get(field.name, ""),
      )


def _attributes(doc: str) -> dict[str, str]:
  """Reads the Attributes section of a docstring: name -> sentence."""
  _, _, section = doc.partition("\nAttributes:\n")
  section = re.split(r"\n\w+:\n", section)[0]
  found, names = {}, ()
  for line in section.splitlines():
    if head := re.match(r"  ([a-z0-9_]+(?:, [a-z0-9_]+)*): (.*)", line):
      names = head[1].split(", ")
      found.update(dict.fromkeys(names, head[2]))
    elif line.strip():
      found.update({name: f"{found[name]} {line.strip()}" for name in names})
  return found
