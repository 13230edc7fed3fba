"""The text task: documents, in tokens, from nothing or around a prompt."""

import functools
from collections.abc import Iterable, Mapping
from typing import Any

from flexmdm_jax.data.documents import Files, Source, Tfds
from flexmdm_jax.data.pipeline import require_buckets
from flexmdm_jax.data.splits import SPLITS
from flexmdm_jax.data.task import (
  Task,
  data_folder,
  require_method,
  sequence_layout,
  stack_start,
)
from flexmdm_jax.data.text import TextSet, prepare
from flexmdm_jax.data.tokenizers import CharTokenizer, GPT2Tokenizer, Tokenizer
from flexmdm_jax.errors import InputError

_SOURCES = {"files": Files.find, "tfds": Tfds.parse}
_TOKENIZERS = ("gpt2", "char")


class TextTask(Task):
  """Text, one piece of a document a sequence.

  Its settings, the `data` of a config:

    folder: where the tokenised text is kept.
    source: "files" (JSONL or JSONL.gz) or "tfds".
    train, validation, test: paths or patterns, separated by commas, or
      NAME:SPLIT for TFDS. With "train" alone, a hash of each document decides
      its split.
    text_key: the key of the text in a row.
    tokenizer: "gpt2" or "char"; "char" knows the training text's characters.
    tokenizer_folder: of "gpt2".
    merges: how many of its merges to keep; None for all.
    max_length: L; what is longer is cut.
    long: "split" or "drop", where a cut finds no blank line.
    buckets: lengths of batches, ascending to max_length; empty for none. The
      fixed-length baseline has none: its sequences are all of L.
  """

  methods = ("flexmdm", "mdm", "autoregressive")

  def __init__(self, method: str, data: Mapping[str, Any]):
    self.method = require_method(method, self.methods)
    self._data = dict(data)
    if data["tokenizer"] not in _TOKENIZERS:
      raise InputError(
        f"data.tokenizer={data['tokenizer']!r} is unknown: choose one of"
        f" {', '.join(_TOKENIZERS)}."
      )
    if data["source"] not in _SOURCES:
      raise InputError(
        f"data.source={data['source']!r} is unknown: choose one of"
        f" {', '.join(_SOURCES)}."
      )
    buckets = tuple(data["buckets"])
    if buckets:
      require_buckets(buckets, data["max_length"])
    self.buckets = buckets if self.grows or self.causal else ()
    self.vocab = self.tokenizer.vocab
    self.max_length = self.layout.max_length

  @functools.cached_property
  def tokenizer(self) -> Tokenizer:
    """The tokenizer of the text."""
    if self._data["tokenizer"] == "char":
      return CharTokenizer(self._prepare(None).metadata["alphabet"])
    folder = self._data["tokenizer_folder"]
    if folder is None:
      raise InputError(
        "data.tokenizer_folder is not set: give the folder of GPT-2's"
        " encoder.json and vocab.bpe, or data.tokenizer=char."
      )
    return GPT2Tokenizer(folder, self._data["merges"])

  @functools.cached_property
  def text_set(self) -> TextSet:
    """The tokenised text; prepared on first use."""
    char = self._data["tokenizer"] == "char"
    return self._prepare(None if char else self.tokenizer)

  def _prepare(self, tokenizer: Tokenizer | None) -> TextSet:
    data = self._data
    return prepare(
      data_folder(data["folder"]),
      self._sources(),
      tokenizer,
      max_length=data["max_length"],
      long=data["long"],
    )

  def _sources(self) -> dict[str, Source]:
    find = _SOURCES[self._data["source"]]
    text_key = self._data["text_key"]
    return {
      split: find(self._data[split], text_key)
      for split in SPLITS
      if self._data[split] is not None
    }

  @functools.cached_property
  def layout(self):
    return sequence_layout(self.method, self.vocab, self._data["max_length"])

  def records(self, split):
    return self.text_set.records(split)

  def encode(self, record):
    return self.layout.encode(record["tokens"])

  def start(self, records):
    return stack_start([self.layout.start() for _ in records])

  def encode_text(self, text: str) -> list[int]:
    """The tokens of a text."""
    return self.tokenizer.encode(text)

  def to_text(self, tokens: Iterable[int]) -> str:
    """The text of a sequence; masks and pads show."""
    return self.tokenizer.decode(tokens)
