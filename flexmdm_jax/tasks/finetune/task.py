"""The task of fine-tuning: what is given stays, an answer or a hole is learned.

Every example is a prefix, a hole and a suffix, or several holes with something
given between, each tokenised by itself as a reader of the prefix alone would:
what is given is frozen, and only the gaps of the holes are open. What is longer
than the model is left out: a cut would take away the end.

A fixed-length MDM, the baseline, predicts the padding of its holes.
"""

import collections
import dataclasses
import functools
import json
import logging
import pathlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from flexmdm_jax import schema
from flexmdm_jax.data.cache import cached_folder
from flexmdm_jax.data.chat import ChatTokenizer, load_chat_template
from flexmdm_jax.data.documents import Files, Skipped
from flexmdm_jax.data.splits import SPLITS, content_split, require_split
from flexmdm_jax.data.tokenizers import Tokenizer, load_tokenizer
from flexmdm_jax.errors import InputError
from flexmdm_jax.rows import FixedHoleLayout, HoleLayout, stack
from flexmdm_jax.schema import count, setting
from flexmdm_jax.tasks.finetune.formats import (
  CUTS,
  Cut,
  Parts,
  chat_parts,
  code_parts,
  gsm8k_parts,
)
from flexmdm_jax.tasks.finetune.records import (
  FORMAT,
  HoleRecords,
  pieces,
  save,
  tokenise,
)
from flexmdm_jax.tasks.task import Task, data_folder, require_method
from flexmdm_jax.tasks.text.task import TokenSettings


@dataclasses.dataclass(frozen=True, kw_only=True)
class FineTuneSettings(TokenSettings):
  """The `data` of a config of a fine-tuning.

  Attributes:
    train, validation, test: JSONL files, paths or patterns separated by commas.
      With "train" alone, a hash of each row decides its split.
    text_key: the key of a text of code.
    holes: examples of a text of code.
    most_holes: holes of an example of code, at most.
    cut: where the holes of a text of code are, see `Cut`.
    chat: put the question, or the row's `messages` before the last, into the
      chat template of `tokenizer_folder`.
    begin_id: id that precedes every prefix; None for none.
    separator_id: id that ends every prefix, just before its hole. The public
      7B's prompts have both: BOS, prompt, pad.
  """

  train: str | None = setting(None)
  validation: str | None = setting(None)
  test: str | None = setting(None)
  text_key: str = setting("code")
  holes: int = count(1)
  most_holes: int = setting(1, least=1, most=100)
  cut: str = setting("span", among=CUTS)
  chat: bool = setting(False)
  begin_id: int | None = count(None, least=0)
  separator_id: int | None = count(None, least=0)

  def __post_init__(self):
    super().__post_init__()
    if self.tokenizer == "char":
      raise InputError("data.tokenizer=char is unknown: choose gpt2 or folder.")
    if self.chat and self.name != "gsm8k":
      raise InputError(
        f"data.chat=True stands beside data.name={self.name!r}, which asks no"
        " questions: set data.name='gsm8k'."
      )


class FineTuneTask(Task):
  """Answers after a question, or code in a hole; see `FineTuneSettings`.

  Rows longer than `max_length` are left out.
  """

  methods = ("flexmdm", "mdm")

  def __init__(self, method: str, data: Mapping[str, Any]):
    self.method = require_method(method, self.methods)
    self._data = schema.checked(FineTuneSettings, data, "data")
    # A baseline's rows are as long as their holes have room.
    self.buckets = self._data["buckets"] if self.inserts else ()
    self.vocab = self.tokenizer.vocab
    for name in ("begin_id", "separator_id"):
      value = self._data[name]
      if value is not None and not self._is_token(value):
        raise InputError(
          f"data.{name}={value} must be an id below {self.vocab.size}, and not"
          f" the mask {self.vocab.mask}."
        )
    self.max_length = self._data["max_length"]
    _ = self.chat  # a template that is wrong is refused at once

  def _is_token(self, value: int) -> bool:
    return value < self.vocab.size and value != self.vocab.mask

  @functools.cached_property
  def tokenizer(self) -> Tokenizer:
    """Tokenizer of the text."""
    return load_tokenizer(self._data)

  @functools.cached_property
  def chat(self) -> ChatTokenizer | None:
    """Tokenizer of conversations; None where `data.chat` is off."""
    if not self._data["chat"]:
      return None
    template = load_chat_template(self._data["tokenizer_folder"])
    return ChatTokenizer(self.tokenizer, template)

  @functools.cached_property
  def layout(self):
    make = HoleLayout if self.inserts else FixedHoleLayout
    return make(self.vocab, self.max_length)

  def parts(self, row: Mapping[str, Any]) -> list[Parts]:
    """Makes the examples of a row, as text."""
    if self.chat:
      return chat_parts(row, self.chat.render)
    if self._data["name"] == "gsm8k":
      return gsm8k_parts(row)
    cut = Cut(self._data["holes"], self._data["most_holes"], self._data["cut"])
    return code_parts(row, self._data["text_key"], cut)

  def rows(self, split: str) -> list[dict[str, Any]]:
    """Reads the rows of a split's files, which a record's `row` counts.

    Raises:
      InputError: they cannot be read.
    """
    files = self._files()
    found = files.get(split) or files.get("train")
    return list(found.rows(Skipped())) if found else []

  def records(self, split):
    """Opens the records of a split; prepares them on first use."""
    require_split(split)
    records = HoleRecords(self._folder, split)
    if not len(records):
      raise InputError(
        f"these data have no {split} examples of at most max_length="
        f"{self.max_length} tokens: set data.{split}, or give more rows."
      )
    return records

  def encode(self, record):
    return self.layout.encode(*pieces(record))

  def start(self, records):
    """Makes the rows to sample from; a baseline is told the rooms of holes."""
    return stack(self.layout.start(*pieces(record)) for record in records)

  def encode_text(self, text: str) -> list[int]:
    """Tokenises a text."""
    return self.tokenizer.encode(text)

  @property
  def around(self) -> tuple[list[int], list[int]]:
    """Ids before every prefix, and after it."""
    ids = (self._data["begin_id"], self._data["separator_id"])
    begin, separator = ([] if x is None else [x] for x in ids)
    return begin, separator

  def to_text(self, tokens: Iterable[int]) -> str:
    """Decodes a sequence; masks show."""
    return self.tokenizer.decode(tokens)

  def _files(self) -> dict[str, Files]:
    files = {}
    for split in SPLITS:
      if self._data[split] is not None:
        try:
          files[split] = Files.find(self._data[split], self._data["text_key"])
        except InputError as error:
          raise InputError(f"data.{split}: {error}") from error
    if "train" not in files:
      raise InputError("data.train is not set: give the rows to train on.")
    return files

  @functools.cached_property
  def _folder(self) -> pathlib.Path:
    files = self._files()
    recipe = [
      FORMAT,
      self._data["name"],
      {split: found.fingerprint() for split, found in files.items()},
      self.tokenizer.fingerprint,
      self._data["holes"],
      self._data["most_holes"],
      self._data["cut"],
      self.max_length,
    ]
    if self.chat:
      recipe.append(self.chat.fingerprint)
    if any(self.around):  # records without any are as they were
      recipe.append(self.around)
    return cached_folder(
      data_folder(self._data["folder"]),
      "finetune",
      recipe,
      lambda folder: self._write(folder, files),
    )

  def _write(self, folder: pathlib.Path, files: Mapping[str, Files]) -> None:
    """Writes the files of `HoleRecords` for all splits."""
    skipped = Skipped()
    tables = tokenise(
      self._examples(files, skipped),
      self.tokenizer,
      self.max_length,
      skipped,
      self.chat,
      self.around,
    )
    if skipped:
      logging.warning("skipped rows: %s", dict(skipped))
    if not tables["train"].rows:
      raise InputError(
        f"data.train has no row that can be used ({dict(skipped)}): it needs"
        f" the format of {self._data['name']!r}, see flexmdm_jax/tasks/"
        "finetune/formats.py, and data.max_length tokens at most."
      )
    save(folder, tables)

  def _examples(
    self, files: Mapping[str, Files], skipped: collections.Counter
  ) -> Iterator[tuple[str, int, Parts]]:
    """Yields the split, the number of the row and the text of each example."""
    for split, found in files.items():
      for number, row in enumerate(found.rows(skipped)):
        examples = self.parts(row)
        if not examples:
          skipped["no_example"] += 1
        of = split
        if files.keys() == {"train"}:
          content = json.dumps(row, sort_keys=True)
          of = content_split(b"finetune" + content.encode())
        for parts in examples:
          yield of, number, parts
