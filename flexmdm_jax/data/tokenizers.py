"""Tokenizers: text to ids and back, with a mask and a pad that are no text.

Source: arXiv 2509.01025, experiment "OpenWebText": GPT-2's byte-level BPE with
[PAD] and [MASK] added to it.
"""

import abc
import functools
import hashlib
import itertools
import json
import math
import os
import pathlib
import types
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from flexmdm_jax.errors import InputError, clear_library_errors
from flexmdm_jax.reading import (
  clear_read_errors,
  read_json,
  read_text,
  require_keys,
)
from flexmdm_jax.vocab import Vocab

# Characters that a token stands for, at most: GPT-2's longest has 128. A text
# of n times as many is known, unread, to have more than n tokens.
MOST_CHARACTERS = 256
# Tokens for each byte of a text, at most: NFKC makes 11 bytes of one.
_MOST_TOKENS = 16
# How much longer a normaliser or a decoder may make a text.
_MOST_GROWTH = 64
_COPY = "take a good copy"
# What a pretrained model's folder has of its tokenizer.
_FOLDER_FILES = (
  "tokenizer.json",
  "tokenizer_config.json",
  "special_tokens_map.json",
  "chat_template.jinja",
)


class Tokenizer(abc.ABC):
  """Tokenizer: text to ids and back.

  Attributes:
    vocab: the id space. With n ids of our own the mask is n and the pad n + 1;
      a pretrained model's are where it has them.
    fingerprint: hash of all that decides a text's ids.
    unknown: id of text that cannot be written; None if all text can.
    special_tokens: ids by name of the tokens that no text has, but a chat
      template may write.
  """

  vocab: Vocab
  fingerprint: str
  unknown: int | None
  special_tokens: Mapping[str, int] = types.MappingProxyType({})

  def encode(self, text: str) -> list[int]:
    """Encodes a text; never as a mask or a pad, whatever the text says."""
    return self.encode_batch([text])[0]

  @abc.abstractmethod
  def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
    """Encodes each text."""

  def encode_special_batch(self, texts: Sequence[str]) -> list[list[int]]:
    """Encodes each text; names of special tokens in it are those tokens."""
    return self.encode_batch(texts)

  def decode(self, ids: Iterable[int]) -> str:
    """Decodes ids to a text.

    Ids that are no text are written out, a mask as [MASK] and a pad as [PAD]:
    a finished sample has none, so a reader should see them.

    Raises:
      InputError: an id is out of range.
    """
    ids = [int(id_) for id_ in ids]
    for id_ in ids:
      if not 0 <= id_ < self.vocab.size:
        raise InputError(
          f"the id {id_} is out of range [0, {self.vocab.size}): use the"
          " tokenizer that the model was trained with."
        )
    return "".join(
      "".join(mark for _ in run) if mark else self._decode(list(run))
      for mark, run in itertools.groupby(ids, key=self._mark)
    )

  def _mark(self, id_: int) -> str | None:
    """Returns the mark of an id that is no text; None for one that is."""
    marks = {self.vocab.mask: "[MASK]", self.vocab.pad: "[PAD]"}
    return marks.get(id_)

  @abc.abstractmethod
  def _decode(self, ids: list[int]) -> str:
    """Decodes ids that are text."""

  def save(self, folder: pathlib.Path) -> dict[str, Any]:
    """Writes the tokenizer's files into a folder that exists.

    Returns:
      A JSON-ready description, from which `load_saved` makes it again.
    """
    return {**self._save(folder), "fingerprint": self.fingerprint}

  @abc.abstractmethod
  def _save(self, folder: pathlib.Path) -> dict[str, Any]:
    """Writes the files, and tells the kind of the tokenizer."""


class CharTokenizer(Tokenizer):
  """Tokenizer with one id a character, and one for all unknown characters."""

  def __init__(self, characters: Iterable[str]):
    """Makes the tokenizer of some characters, in any order.

    Raises:
      InputError: there are none, or one is not a single character.
    """
    self.characters = tuple(sorted(set(characters)))
    if not self.characters or any(len(c) != 1 for c in self.characters):
      raise InputError(
        f"characters={self.characters!r} must be one or more strings of length"
        " 1."
      )
    self._ids = {c: i for i, c in enumerate(self.characters)}
    self.unknown = len(self.characters)
    self.vocab = _vocab(self.unknown + 1)
    self.fingerprint = content_hash("char", self.characters)

  def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
    """Encodes each text."""
    return [[self._ids.get(c, self.unknown) for c in text] for text in texts]

  def _decode(self, ids):
    return "".join((*self.characters, "<unk>")[i] for i in ids)

  def _save(self, folder):
    return {"kind": "char", "characters": "".join(self.characters)}


class GPT2Tokenizer(Tokenizer):
  """GPT-2's byte-level BPE, or one in its format; it can write every text.

  With all merges the ids are the file's own (GPT-2: 50,257, so V = 50,259);
  the text "<|endoftext|>" is text like any other. Keeping only the first
  merges leaves a smaller BPE, whose ids are the 256 bytes and one a merge.
  """

  unknown = None

  def __init__(self, folder: str | os.PathLike, merges: int | None = None):
    """Reads a tokenizer.

    Args:
      folder: holds encoder.json and vocab.bpe, as OpenAI published them, or
        vocab.json and merges.txt, or tokenizer.json, as Hugging Face has them.
      merges: number of merges to keep; None for all.

    Raises:
      InputError: the package `tokenizers` is not installed, the files are
        missing or no byte-level BPE, or there are fewer merges.
    """
    tokenizers = import_tokenizers()
    ids, pairs = _read_bpe(pathlib.Path(folder).expanduser())
    if merges is not None:
      if not 0 <= merges <= len(pairs):
        raise InputError(
          f"merges={merges} must be in [0, {len(pairs)}], the merges in"
          f" {folder}."
        )
      pairs = pairs[:merges]
      alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
      tokens = sorted(alphabet & ids.keys(), key=ids.get)
      tokens = dict.fromkeys([*tokens, *(a + b for a, b in pairs)])
      ids = {token: i for i, token in enumerate(tokens)}
    _require_bytes(ids, tokenizers, folder)
    with clear_library_errors(
      f"the merges in {folder} do not fit its vocabulary",
      "take both files from one tokenizer",
    ):
      bpe = tokenizers.Tokenizer(tokenizers.models.BPE(ids, pairs))
    bpe.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(
      add_prefix_space=False
    )
    bpe.decoder = tokenizers.decoders.ByteLevel()
    self._bpe = bpe
    self.vocab = _vocab(len(ids))
    self.fingerprint = content_hash("gpt2", sorted(ids, key=ids.get), pairs)

  def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
    """Encodes each text, on all cores."""
    return _encode_batch(self._bpe, texts)

  def _decode(self, ids):
    return self._bpe.decode(ids)

  def _save(self, folder):
    self._bpe.save(str(folder / "tokenizer.json"))
    return {"kind": "gpt2"}


class FolderTokenizer(Tokenizer):
  """Tokenizer of a pretrained model, from its Hugging Face folder.

  Ids are the model's own, and so is the size of its vocabulary, which may be
  larger than the tokenizer's (LLaDA's 126,464 are). What text says is text,
  special tokens' names too; none is added. A text that the tokenizer itself
  reads as the mask is refused. Byte-level tokenizers without a normaliser give
  every text back to the byte; a normaliser's changes stay, as Qwen's NFC or a
  SentencePiece model's sign for a space. Where the pad is the end of text as
  well (LLaDA's is), it is no mark of the length.
  """

  def __init__(
    self,
    folder: str | os.PathLike,
    *,
    mask: int | None = None,
    pad: int | None = None,
    size: int | None = None,
  ):
    """Reads a tokenizer.

    Args:
      folder: holds tokenizer.json, or Qwen 2's vocab.json and merges.txt, and
        to tell what is not given here, config.json, tokenizer_config.json or
        special_tokens_map.json.
      mask: the mask's id; by default `mask_token_id` or `mask_token`.
      pad: the pad's id; by default `pad_token_id` or `pad_token`, else the end
        of text, `eos_token_id` or `eos_token`.
      size: size of the model's vocabulary; by default `embedding_size` or
        `vocab_size` of config.json, else the ids there are.

    Raises:
      InputError: the package `tokenizers` is not installed, a file is missing
        or damaged, the mask or the pad is not known or out of range, or the
        vocabulary is smaller than the tokenizer's.
    """
    tokenizers = import_tokenizers()
    folder = pathlib.Path(folder).expanduser()
    path = folder / "tokenizer.json"
    self._files = {
      name: read_text(folder / name, _COPY)
      for name in _FOLDER_FILES
      if (folder / name).exists()
    }
    if path.exists():
      content = read_json(path, {"model": dict}, _COPY)
      _require_modest(content, path)
    else:
      content = _qwen2_content(folder)
      self._files[path.name] = json.dumps(content, ensure_ascii=False)
    model = _read_object(folder / "config.json")
    told = [
      model,
      _read_object(folder / "tokenizer_config.json"),
      _read_object(folder / "special_tokens_map.json"),
    ]
    ids = _load(tokenizers, content, path).get_vocab(with_added_tokens=True)
    self._ids = frozenset(ids.values())

    def known(name):
      for settings in told:
        if settings.get(f"{name}_token_id") is not None:
          return settings[f"{name}_token_id"]
        token = settings.get(f"{name}_token")
        token = token.get("content") if isinstance(token, dict) else token
        if isinstance(token, str) and token in ids:
          return ids[token]
      return None

    mask = known("mask") if mask is None else mask
    pad = known("pad") if pad is None else pad
    pad = known("eos") if pad is None else pad
    for name, value in (("mask", mask), ("pad", pad)):
      if value is None:
        raise InputError(
          f"{folder} does not tell the {name} token: set data.{name}_id."
        )
    if size is None:
      size = model.get("embedding_size") or model.get("vocab_size")
    last = max(self._ids, default=-1)
    size = last + 1 if size is None else size
    if isinstance(size, int) and size <= last:
      raise InputError(
        f"the vocabulary of {size} ids is smaller than the tokenizer in"
        f" {folder}, whose last id is {last}: set data.vocab_size, or take both"
        " from one model."
      )
    self.vocab = Vocab(size, mask, pad)
    # Only special tokens can be told to be read as text.
    added = [
      token | {"special": token["special"] or token["id"] in (mask, pad)}
      for token in content.get("added_tokens") or []
    ]
    content = content | {"added_tokens": added}
    self._tokenizer = _load(tokenizers, content, path)
    self._tokenizer.encode_special_tokens = True
    self._tokenizer.no_padding()
    self._tokenizer.no_truncation()
    self.special_tokens = types.MappingProxyType(
      {
        token["content"]: token["id"]
        for token in added
        if token["special"] and token["content"]
      }
    )
    # Byte-level decoders take the letters of some added tokens for bytes.
    self._verbatim = {}
    if (content.get("decoder") or {}).get("type") == "ByteLevel":
      for token in added:
        text = self._decode([token["id"]])
        if text != token["content"]:
          self._verbatim[token["id"]] = token["content"]
    token = self._tokenizer.id_to_token(mask)
    if token is not None:
      for text in (token, self._decode([mask])):
        if mask in _encode_batch(self._tokenizer, [text])[0]:
          raise InputError(
            f"the tokenizer in {folder} reads the text {text!r} as the mask"
            f" {mask}: set data.mask_id to an id that no text has."
          )
    unknown = content["model"].get("unk_token")
    self.unknown = ids.get(unknown, content["model"].get("unk_id"))
    self.fingerprint = content_hash(
      "folder", content, self.vocab.size, self.vocab.mask, self.vocab.pad
    )

  def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
    """Encodes each text, on all cores.

    Raises:
      InputError: the tokenizer fails, makes far more tokens than a text has
        bytes, or reads a part of a text as the mask.
    """
    rows = _encode_batch(self._tokenizer, texts)
    for text, ids in zip(texts, rows, strict=True):
      if self.vocab.mask in ids:
        raise InputError(
          f"the tokenizer reads a part of the text that begins {text[:40]!r} as"
          f" the mask {self.vocab.mask}: set data.mask_id to an id that no text"
          " has."
        )
    return rows

  def encode_special_batch(self, texts: Sequence[str]) -> list[list[int]]:
    """Encodes each text; names of special tokens in it are those tokens.

    Raises:
      InputError: as `encode_batch`, but for the mask.
    """
    return _encode_batch(self._special, texts)

  @functools.cached_property
  def _special(self) -> Any:
    """Tokenizer that reads names of special tokens as those tokens."""
    special = type(self._tokenizer).from_str(self._tokenizer.to_str())
    special.encode_special_tokens = False
    return special

  def _mark(self, id_):
    # Special tokens have a text of their own, which is what is shown.
    if id_ in self._ids:
      return None
    return super()._mark(id_) or "[UNUSED]"

  def _decode(self, ids):
    if not self._verbatim.keys().isdisjoint(ids):
      runs = itertools.groupby(ids, key=self._verbatim.get)
      return "".join(
        "".join(text for _ in run) if text else self._decode(list(run))
        for text, run in runs
      )
    with clear_library_errors("the tokenizer cannot decode these ids", _COPY):
      return self._tokenizer.decode(ids, skip_special_tokens=False)

  def _save(self, folder):
    # As they were read, whatever has become of the folder since.
    for name, content in self._files.items():
      (folder / name).write_text(content, encoding="utf-8")
    return {"kind": "folder"}


def has_folder_tokenizer(folder: str | os.PathLike) -> bool:
  """Tells whether `FolderTokenizer` has files to read in a folder."""
  folder = pathlib.Path(folder)
  names = ("tokenizer.json", "vocab.json")
  return any((folder / name).exists() for name in names)


# Where Qwen 2 cuts a text before its merges: contractions; letters, with one
# sign before them; digits one by one; signs; ends of lines; spaces.
_QWEN2_CUTS = "|".join(
  (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)",
    r"[^\r\n\p{L}\p{N}]?\p{L}+",
    r"\p{N}",
    r" ?[^\s\p{L}\p{N}]+[\r\n]*",
    r"\s*[\r\n]+",
    r"\s+(?!\S)",
    r"\s+",
  )
)
_QWEN2_CLASSES = ("Qwen2Tokenizer", "Qwen2TokenizerFast", "DreamTokenizer")


def _qwen2_content(folder: pathlib.Path) -> dict[str, Any]:
  """Makes the tokenizer.json of a folder that has Qwen 2's files instead.

  Dream's are such: its own class reads them, and a Qwen 2 tokenizer's rules
  stand in code alone.
  """
  path = folder / "tokenizer_config.json"
  told = read_json(path, fix=_COPY) if path.exists() else {}
  if told.get("tokenizer_class") not in _QWEN2_CLASSES:
    raise InputError(
      f"{folder} holds no tokenizer.json: set data.tokenizer_folder to the"
      " folder of a Hugging Face model."
    )
  ids, merges = _read_bpe(folder)
  added = []
  listed = told.get("added_tokens_decoder")
  with clear_read_errors(path, _COPY):
    for number, token in listed.items() if isinstance(listed, dict) else ():
      require_keys(token, {"content": str})
      flags = ("special", "lstrip", "rstrip", "single_word", "normalized")
      added.append(
        {
          "id": int(number),
          "content": token["content"],
          **{flag: bool(token.get(flag, False)) for flag in flags},
        }
      )
  byte_level = {
    "type": "ByteLevel",
    "add_prefix_space": False,
    "trim_offsets": False,
    "use_regex": False,
  }
  split = {
    "type": "Split",
    "pattern": {"Regex": _QWEN2_CUTS},
    "behavior": "Isolated",
    "invert": False,
  }
  return {
    "version": "1.0",
    "added_tokens": sorted(added, key=lambda token: token["id"]),
    "normalizer": {"type": "NFC"},
    "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, byte_level]},
    "decoder": byte_level,
    "model": {
      "type": "BPE",
      "vocab": ids,
      "merges": [f"{a} {b}" for a, b in merges],
    },
  }


def load_tokenizer(data: Mapping[str, Any]) -> Tokenizer:
  """Loads the tokenizer of the files that a config names.

  Args:
    data: the config's section `data`; "tokenizer" is "gpt2" or "folder",
      `TextTask` explains the others.

  Raises:
    InputError: no folder is given, or the tokenizer refuses it.
  """
  folder = data["tokenizer_folder"]
  if folder is None:
    raise InputError(
      "data.tokenizer_folder is not set: give the folder of GPT-2's"
      " encoder.json and vocab.bpe; with data.tokenizer=folder, of a model's"
      " tokenizer.json; or set data.tokenizer=char, where the data allow it."
    )
  if data["tokenizer"] == "gpt2":
    return GPT2Tokenizer(folder, data["merges"])
  return FolderTokenizer(
    folder,
    mask=data.get("mask_id"),
    pad=data.get("pad_id"),
    size=data.get("vocab_size"),
  )


def load_saved(
  folder: pathlib.Path, description: Mapping[str, Any], vocab: Vocab
) -> Tokenizer:
  """Loads the tokenizer that `Tokenizer.save` wrote.

  Args:
    folder: the folder.
    description: what `save` returned.
    vocab: the id space of the model.

  Raises:
    InputError: the files are missing or damaged, or the description is none.
  """
  kind = description.get("kind")
  if kind == "char" and isinstance(description.get("characters"), str):
    return CharTokenizer(description["characters"])
  if kind == "gpt2":
    return GPT2Tokenizer(folder)
  if kind == "folder":
    return FolderTokenizer(
      folder, mask=vocab.mask, pad=vocab.pad, size=vocab.size
    )
  raise InputError(
    f"the tokenizer of {folder} is of no kind that is known"
    f" ({str(dict(description))[:80]}): {_COPY}."
  )


def import_tokenizers() -> Any:
  """Imports the package; InputError if it is not installed."""
  try:
    import tokenizers
  except ImportError as error:
    raise InputError(
      "this tokenizer needs the package tokenizers: pip install"
      " 'flexmdm_jax[text]'."
    ) from error
  return tokenizers


def _load(tokenizers, content: dict[str, Any], path: pathlib.Path) -> Any:
  """Makes the tokenizer of a parsed tokenizer.json."""
  with clear_library_errors(f"{path} is no tokenizer", _COPY):
    return tokenizers.Tokenizer.from_str(json.dumps(content))


def _encode_batch(tokenizer, texts: Sequence[str]) -> list[list[int]]:
  """Encodes texts; InputError names one that the tokenizer cannot take."""
  with clear_library_errors("the tokenizer cannot encode these texts", _COPY):
    encodings = tokenizer.encode_batch(list(texts), add_special_tokens=False)
  rows = [encoding.ids for encoding in encodings]
  for text, ids in zip(texts, rows, strict=True):
    # Nearly all are told by their characters, which take no encoding.
    if len(ids) > _MOST_TOKENS * (len(text) + 1):
      most = _MOST_TOKENS * (len(text.encode()) + 1)
      if len(ids) > most:
        raise InputError(
          f"the tokenizer makes {len(ids)} tokens of the text that begins"
          f" {text[:40]!r}, more than {_MOST_TOKENS} for each of its bytes:"
          " remove that text, or take another tokenizer."
        )
  return rows


def _require_modest(content: Mapping[str, Any], path: pathlib.Path) -> None:
  """Refuses a tokenizer that makes texts many times as long.

  Replacements that follow each other multiply: ten of them can fill any
  memory, and the package cannot be stopped.
  """
  for part in ("normalizer", "decoder"):
    growth = _growth(content.get(part))
    if growth > _MOST_GROWTH:
      raise InputError(
        f"the {part} in {path} may make a text {growth:.3g} times as long, more"
        f" than {_MOST_GROWTH} times: take another tokenizer."
      )


def _growth(part: Any) -> float:
  """Bounds how many times as long the replacements of a part make a text."""
  if isinstance(part, list):
    return math.prod(map(_growth, part))
  if not isinstance(part, dict):
    return 1
  growth = math.prod(_growth(x) for x in part.values() if isinstance(x, list))
  new = part.get("content")
  if part.get("type") != "Replace" or not isinstance(new, str):
    return growth
  old = part.get("pattern")
  old = old.get("String") if isinstance(old, dict) else old
  # A regular expression may match nothing, beside each character.
  old = len(old) if isinstance(old, str) and old else 0
  return max(1, len(new) / old if old else len(new) + 1)


def _read_object(path: pathlib.Path) -> dict[str, Any]:
  """Reads the object in a file of JSON; empty if there is no file."""
  return read_json(path, fix=_COPY) if path.exists() else {}


def _vocab(n: int) -> Vocab:
  """Makes the id space of n ids of text, a mask and a pad."""
  return Vocab(size=n + 2, mask=n, pad=n + 1)


def content_hash(*content: object) -> str:
  """Hashes JSON values."""
  return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def _read_bpe(
  folder: pathlib.Path,
) -> tuple[dict[str, int], list[tuple[str, str]]]:
  """Reads the ids of the tokens, and the merges in order."""
  pairs_of_files = (("encoder.json", "vocab.bpe"), ("vocab.json", "merges.txt"))
  for vocab_name, merges_name in pairs_of_files:
    path = folder / vocab_name
    if path.exists():
      ids = read_json(path, fix=_COPY)
      lines = read_text(folder / merges_name, _COPY).split("\n")
      # The first line is the version; a merge may begin with "#" too.
      merges = [line for line in lines if not line.startswith("#version")]
      break
  else:
    path = folder / "tokenizer.json"
    if not path.exists():
      raise InputError(
        f"{folder} holds no tokenizer: it needs encoder.json and vocab.bpe,"
        " vocab.json and merges.txt, or tokenizer.json."
      )
    model = read_json(path, {"model": dict}, _COPY)["model"]
    with clear_read_errors(path, _COPY):
      require_keys(model, {"vocab": dict, "merges": list})
    ids, merges = model["vocab"], model["merges"]
  merges = [m.split(" ") if isinstance(m, str) else m for m in merges if m]
  with clear_read_errors(path, _COPY):
    for merge in merges:
      if type(merge) is not list or [*map(type, merge)] != [str, str]:
        raise ValueError(f"the merge {merge!r:.60} is not of two tokens")
    if any(type(id_) is not int for id_ in ids.values()) or sorted(
      ids.values()
    ) != list(range(len(ids))):
      raise ValueError("its ids are not 0, 1, 2, ...")
  return ids, [(a, b) for a, b in merges]


def _require_bytes(ids, tokenizers, folder) -> None:
  """Raises InputError unless every byte has an id."""
  missing = set(tokenizers.pre_tokenizers.ByteLevel.alphabet()) - ids.keys()
  if missing:
    raise InputError(
      f"the tokenizer in {folder} has no token for {len(missing)} of the 256"
      " bytes: it is no byte-level BPE such as GPT-2's."
    )
