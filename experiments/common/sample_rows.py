"""Rows to sample from, of a file or of flags."""

import hashlib
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from flexmdm_jax.errors import InputError
from flexmdm_jax.inference import Model
from flexmdm_jax.inference.model import Request
from flexmdm_jax.reading import read_json_lines
from flexmdm_jax.tasks.task import parse_ids

FORMS = "prompt, messages, parts, prefix and suffix, anchors"
_KEYS = ("prompt", "messages", "parts", "prefix", "suffix", "anchors")


class Row(NamedTuple):
  """One row to sample from.

  Attributes:
    given: what is given, under one of the keys of a file's row; empty for
      nothing.
    others: the row's other keys, to be carried to its samples.
    place: where it stands, for errors.
  """

  given: Mapping[str, Any]
  others: Mapping[str, Any]
  place: str


def rows_of_flags(
  file: str | None, prompt: str | None, prefix: str | None, suffix: str | None
) -> list[Row]:
  """Makes the rows that flags ask for: those of a file, or one.

  Raises:
    InputError: the flags give two kinds, or the file is wrong.
  """
  flags = {"prompt": prompt, "prefix": prefix, "suffix": suffix}
  given = {name: text for name, text in flags.items() if text is not None}
  if file is not None:
    if given:
      raise InputError(
        f"--input={file} and --{next(iter(given))} are both given: put the text"
        " into the file, or leave the file out."
      )
    return read_rows(file)
  if prompt is not None and len(given) > 1:
    raise InputError("--prompt excludes --prefix and --suffix: give one kind.")
  return [Row(given, {}, " ".join(f"--{x}" for x in given) or "the sample")]


def read_rows(path: str | pathlib.Path) -> list[Row]:
  """Reads the rows of a file.

  Args:
    path: JSON lines, each with `prompt`, `messages`, `parts`, `anchors`, or
      `prefix` and `suffix`, of which one may be missing. A text may be a list
      of ids.

  Raises:
    InputError: the file cannot be read or is empty, or a line has not one of
      these, or of another type; it names the line.
  """
  rows = []
  for number, row in read_json_lines(path, fix="put it right"):
    place = f"{path}: line {number}"
    given = {key: row[key] for key in _KEYS if key in row}
    kinds = {"infill" if key in ("prefix", "suffix") else key for key in given}
    if len(kinds) != 1:
      has = " and ".join(map(repr, given)) or "nothing to sample from"
      raise InputError(f"{place} has {has}: give one of {FORMS}.")
    for key, value in given.items():
      _require_form(place, key, value)
    others = {key: x for key, x in row.items() if key not in given}
    rows.append(Row(given, others, place))
  if not rows:
    raise InputError(f"{path} is empty: give a row a line.")
  return rows


def make_requests(model: Model, rows: Sequence[Row], num: int) -> list[Request]:
  """Makes `num` starts of each row, and checks that the model can take them.

  Raises:
    InputError: as `Model.requests`; it names the row's place.
  """
  made = []
  for row in rows:
    try:
      (request,) = model.requests(1, **_arguments(model, row.given))
    except InputError as error:
      # The library's message begins with its own index of the row.
      inner = error.__cause__
      why = inner if isinstance(inner, InputError) else error
      raise InputError(f"{row.place}: {why}") from error
    made += [request] * num
  return made


def digest(rows: Sequence[Row]) -> str:
  """Hashes all that rows give and carry."""
  text = json.dumps([[dict(row.given), dict(row.others)] for row in rows])
  return hashlib.sha256(text.encode()).hexdigest()[:16]


def _arguments(model: Model, given: Mapping[str, Any]) -> dict[str, Any]:
  """Makes the arguments of `Model.requests` for one row."""

  def read(text):  # without a tokenizer a text is ids, separated by spaces
    ids = isinstance(text, str) and model.tokenizer is None
    return parse_ids(text) if ids else text

  if not given:
    return {}
  if "messages" in given:
    return {"prompts": [given["messages"]], "chat": True}
  if "prompt" in given:
    return {"prompts": [read(given["prompt"])]}
  if "anchors" in given:
    return {"anchors": [read(given["anchors"])]}
  parts = given.get("parts", [given.get(x, "") for x in ("prefix", "suffix")])
  return {"infills": [[read(part) for part in parts]]}


def _require_form(place: str, key: str, value: Any) -> None:
  """Refuses a value of another type than its key's."""
  if key == "messages":
    good, wanted = isinstance(value, (str, list)), "a list of messages"
  elif key == "parts":
    good = isinstance(value, list) and all(map(_is_text, value))
    wanted = "a list of texts, or of lists of ids"
  else:
    good, wanted = _is_text(value), "a text or a list of ids"
  if not good:
    raise InputError(f"{place} has {key}={value!r:.60}: it must be {wanted}.")


def _is_text(value: Any) -> bool:
  if isinstance(value, list):
    return all(type(token) is int for token in value)
  return isinstance(value, str)
