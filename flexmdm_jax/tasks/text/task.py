"""The text task: documents, in tokens, from nothing or around a prompt."""

import dataclasses
import functools
from collections.abc import Iterable, Mapping
from typing import Any

from flexmdm_jax import schema
from flexmdm_jax.data.chat import (
  ChatTokenizer,
  Conversations,
  load_chat_template,
)
from flexmdm_jax.data.documents import Files, Source, Tfds
from flexmdm_jax.data.loader import require_buckets
from flexmdm_jax.data.mixture import Mixture, parse_weights
from flexmdm_jax.data.records import LONG_RULES, TextSet, prepare
from flexmdm_jax.data.splits import SPLITS
from flexmdm_jax.data.tokenizers import (
  CharTokenizer,
  Tokenizer,
  load_tokenizer,
)
from flexmdm_jax.errors import InputError
from flexmdm_jax.schema import count, require, setting
from flexmdm_jax.tasks.task import SequenceTask, data_folder

_SOURCES = {"files": Files.find, "tfds": Tfds.parse}


@dataclasses.dataclass(frozen=True, kw_only=True)
class TokenSettings:
  """The settings of a text's tokenizer, and of its sequences.

  Attributes:
    name: name of the task.
    folder: where the tokenised text is kept.
    max_length: L; what is longer is cut.
    buckets: lengths of batches, ascending to max_length; empty for none. The
      fixed-length baseline has none: its sequences are all of L.
    tokenizer: "gpt2"; "char", which knows the training text's characters; or
      "folder", a pretrained model's.
    tokenizer_folder: files of "gpt2", or folder of the model of "folder".
    merges: how many of the merges of "gpt2" to keep; None for all.
    mask_id, pad_id, vocab_size: ids of "folder", where it does not tell.
  """

  name: str = setting()
  folder: str = setting()
  max_length: int = count()
  buckets: tuple[int, ...] = count(())
  tokenizer: str = setting(among=("gpt2", "char", "folder"))
  tokenizer_folder: str | None = setting(None)
  merges: int | None = count(None, least=0)
  mask_id: int | None = count(None, least=0)
  pad_id: int | None = count(None, least=0)
  vocab_size: int | None = count(None)

  def __post_init__(self):
    require(self, "data")
    if self.buckets:
      require_buckets(self.buckets, self.max_length)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextSource:
  """The settings of a text's documents.

  Attributes:
    source: "files" (JSONL or JSONL.gz) or "tfds".
    train, validation, test: paths or patterns, separated by commas, or
      NAME:SPLIT for TFDS. With "train" alone, a hash of each document decides
      its split.
    text_key: the key of the text in a row.
    chat: a document is a row's `messages`, of "files" alone, put into the chat
      template of `data.tokenizer_folder`.
  """

  source: str = setting("files", among=_SOURCES)
  train: str | None = setting(None)
  validation: str | None = setting(None)
  test: str | None = setting(None)
  text_key: str = setting("text")
  chat: bool = setting(False)

  def __post_init__(self):
    require(self, "data")


@dataclasses.dataclass(frozen=True, kw_only=True)
class MixedSource(TextSource):
  """The settings of one source of a mixture.

  Attributes:
    weight: its share of the records, relative to the others'; one of weight 0
      is left out.
  """

  weight: float = setting(1.0, least=0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextSettings(TokenSettings, TextSource):
  """The `data` of a config of a text.

  Attributes:
    mixture: in place of `TextSource`'s settings, sources by name, each a
      `MixedSource`. Each is tokenised by itself, so that other weights cost
      nothing.
    long: "split" or "drop", where a cut finds no blank line.
  """

  mixture: Mapping[str, Any] | None = setting(None)
  long: str = setting("split", among=LONG_RULES)


class TextTask(SequenceTask):
  """Text, one piece of a document a sequence; see `TextSettings`."""

  def __init__(self, method: str, data: Mapping[str, Any]):
    """Checks the settings; reads no text, but the tokenizer's files."""
    super().__init__(method, schema.checked(TextSettings, data, "data"))
    self._mixture = {
      name: schema.checked(MixedSource, source, f"data.mixture.{name}")
      for name, source in (self._data["mixture"] or {}).items()
    }
    self._counts = self._check_mixture() if self._mixture else {}
    lengths_differ = self.inserts or self.causal
    self.buckets = self._data["buckets"] if lengths_differ else ()
    self._require_chats()
    self.vocab = self.tokenizer.vocab

  def _check_mixture(self) -> dict[str, int]:
    """Counts the records of each source in a pattern; see `parse_weights`."""
    for split in SPLITS:
      if self._data[split] is not None:
        raise InputError(
          f"data.{split}={self._data[split]} stands beside data.mixture: give"
          " the text of one of its sources."
        )
    if self._data["tokenizer"] == "char":
      raise InputError(
        "data.tokenizer=char depends on the text, of which data.mixture has"
        " several: choose gpt2 or folder."
      )
    weights = {name: x["weight"] for name, x in self._mixture.items()}
    return parse_weights(weights)

  def _require_chats(self) -> None:
    """Raises InputError unless conversations can be read."""
    for section, source in self._settings().items():
      if not source["chat"]:
        continue
      if source["source"] != "files":
        raise InputError(
          f"{section}.chat=True stands beside {section}.source="
          f"{source['source']}: give conversations in files."
        )
      if self._data["tokenizer"] == "char":
        raise InputError(
          "data.tokenizer=char has no chat template: choose folder, or set"
          " data.chat=False."
        )
      self._chat(source)

  def _chat(self, source: Mapping[str, Any]) -> ChatTokenizer | None:
    """Makes the tokenizer of a source's conversations; None without any."""
    if not source["chat"]:
      return None
    template = load_chat_template(self._data["tokenizer_folder"])
    return ChatTokenizer(self.tokenizer, template)

  def _settings(self) -> dict[str, Mapping[str, Any]]:
    """Collects the settings of each source, by their name in a config."""
    if not self._mixture:
      return {"data": self._data}
    return {
      f"data.mixture.{name}": self._mixture[name] for name in self._counts
    }

  @functools.cached_property
  def tokenizer(self) -> Tokenizer:
    """Tokenizer of the text."""
    if self._data["tokenizer"] == "char":
      (text_set,) = self._prepare(None)
      return CharTokenizer(text_set.metadata["alphabet"])
    return load_tokenizer(self._data)

  @functools.cached_property
  def text_sets(self) -> list[TextSet]:
    """Tokenised text of each source; prepared on first use."""
    char = self._data["tokenizer"] == "char"
    return self._prepare(None if char else self.tokenizer)

  def _prepare(self, tokenizer: Tokenizer | None) -> list[TextSet]:
    text_sets = []
    for section, source in self._settings().items():
      found = _sources(section, source)
      if (chat := self._chat(source)) is not None:
        found = {
          split: Conversations(files, chat) for split, files in found.items()
        }
      text_set = prepare(
        data_folder(self._data["folder"]),
        found,
        chat or tokenizer,
        max_length=self._data["max_length"],
        long=self._data["long"],
        setting=section,
      )
      text_sets.append(text_set)
    return text_sets

  def records(self, split):
    """Opens the records of a split.

    Of a mixture, those to train on are a `Mixture`. Those held out are as many
    as there are by weight, none twice; "test/NAME" is all of one source's.
    """
    split, _, name = split.partition("/")
    if name and name not in self._counts:
      raise InputError(
        f"split={split}/{name} names no source of data.mixture: choose one of"
        f" {', '.join(self._counts) or 'none, as there is no mixture'}."
      )
    if not self._counts:
      return self.text_sets[0].records(split)
    text_sets = dict(zip(self._counts, self.text_sets, strict=True))
    if name:
      return text_sets[name].records(split)
    mixture = Mixture(
      {name: text_set.records(split) for name, text_set in text_sets.items()},
      self._counts,
    )
    return mixture if split == "train" else mixture.balanced()

  def encode_text(self, text: str) -> list[int]:
    """Tokenises a text."""
    return self.tokenizer.encode(text)

  def to_text(self, tokens: Iterable[int]) -> str:
    """Decodes a sequence; masks and pads show."""
    return self.tokenizer.decode(tokens)


def _sources(section: str, data: Mapping[str, Any]) -> dict[str, Source]:
  """Finds the sources of a text by split."""
  find = _SOURCES[data["source"]]
  found = {}
  for split in SPLITS:
    if data[split] is not None:
      try:
        found[split] = find(data[split], data["text_key"])
      except InputError as error:
        raise InputError(f"{section}.{split}: {error}") from error
  return found
