"""Tokenizers: text to ids and back, with a mask and a pad after the ids.

Source: arXiv 2509.01025, experiment "OpenWebText": GPT-2's byte-level BPE with
[PAD] and [MASK] added to it.
"""

import abc
import hashlib
import itertools
import json
import os
import pathlib
from collections.abc import Iterable, Sequence

from flexmdm_jax.errors import InputError
from flexmdm_jax.vocab import Vocab


class Tokenizer(abc.ABC):
  """Text to ids and back.

  Attributes:
    vocab: the id space: n ids of text, then the mask n and the pad n + 1.
    fingerprint: hash of all that decides what a text's ids are.
    unknown: the id of what cannot be written; None if everything can.
  """

  vocab: Vocab
  fingerprint: str
  unknown: int | None

  def encode(self, text: str) -> list[int]:
    """The ids of a text; never a mask or a pad, whatever the text says."""
    return self.encode_batch([text])[0]

  @abc.abstractmethod
  def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
    """The ids of each text."""

  def decode(self, ids: Iterable[int]) -> str:
    """The text of some ids.

    A mask is written as [MASK] and a pad as [PAD]: a finished sample has
    neither, so a reader should see them.

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
    marks = {self.vocab.mask: "[MASK]", self.vocab.pad: "[PAD]"}
    return "".join(
      "".join(mark for _ in run) if mark else self._decode(list(run))
      for mark, run in itertools.groupby(ids, key=marks.get)
    )

  @abc.abstractmethod
  def _decode(self, ids: list[int]) -> str:
    """The text of ids that are text."""


class CharTokenizer(Tokenizer):
  """One id a character; those it does not know share the id `unknown`."""

  def __init__(self, characters: Iterable[str]):
    """`characters` are those to know, in any order.

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
    self.fingerprint = _hash("char", self.characters)

  def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
    """The ids of each text."""
    return [[self._ids.get(c, self.unknown) for c in text] for text in texts]

  def _decode(self, ids):
    return "".join((*self.characters, "<unk>")[i] for i in ids)


class GPT2Tokenizer(Tokenizer):
  """GPT-2's byte-level BPE, or one in its format: it can write every text.

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
      merges: how many merges to keep; None for all.

    Raises:
      InputError: the package `tokenizers` is not installed, the files are
        missing or no byte-level BPE, or there are fewer merges.
    """
    try:
      import tokenizers
    except ImportError as error:
      raise InputError(
        "GPT-2's tokenizer needs the package tokenizers: pip install"
        " 'flexmdm_jax[text]'."
      ) from error
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
    try:
      bpe = tokenizers.Tokenizer(tokenizers.models.BPE(ids, pairs))
    except Exception as error:  # the package raises nothing narrower
      raise InputError(
        f"the merges in {folder} do not fit its vocabulary ({error}): take"
        " both files from one tokenizer."
      ) from error
    bpe.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(
      add_prefix_space=False
    )
    bpe.decoder = tokenizers.decoders.ByteLevel()
    self._bpe = bpe
    self.vocab = _vocab(len(ids))
    self.fingerprint = _hash("gpt2", sorted(ids, key=ids.get), pairs)

  def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
    """The ids of each text, on all cores."""
    return [encoding.ids for encoding in self._bpe.encode_batch(list(texts))]

  def _decode(self, ids):
    return self._bpe.decode(ids)


def _vocab(n: int) -> Vocab:
  """The id space of n ids of text."""
  return Vocab(size=n + 2, mask=n, pad=n + 1)


def _hash(*content: object) -> str:
  return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def _read_bpe(
  folder: pathlib.Path,
) -> tuple[dict[str, int], list[tuple[str, str]]]:
  """The ids of the tokens, and the merges in order."""
  pairs_of_files = (("encoder.json", "vocab.bpe"), ("vocab.json", "merges.txt"))
  try:
    for vocab_name, merges_name in pairs_of_files:
      if (folder / vocab_name).exists():
        ids = json.loads((folder / vocab_name).read_text("utf-8"))
        lines = (folder / merges_name).read_text("utf-8").split("\n")
        # The first line is the version; a merge may begin with "#" too.
        merges = [line for line in lines if not line.startswith("#version")]
        break
    else:
      model = json.loads((folder / "tokenizer.json").read_text("utf-8"))
      ids, merges = model["model"]["vocab"], model["model"]["merges"]
    merges = [m.split(" ") if isinstance(m, str) else m for m in merges if m]
    pairs = [(a, b) for a, b in merges]
    if sorted(ids.values()) != list(range(len(ids))):
      raise ValueError("its ids are not 0, 1, 2, ...")
  except OSError as error:
    raise InputError(
      f"{folder} holds no tokenizer ({error.strerror}: {error.filename}): it"
      " needs encoder.json and vocab.bpe, vocab.json and merges.txt, or"
      " tokenizer.json."
    ) from error
  except (ValueError, KeyError, TypeError, AttributeError) as error:
    raise InputError(
      f"the tokenizer in {folder} is damaged, or no BPE ({error}): take a good"
      " copy."
    ) from error
  return ids, pairs


def _require_bytes(ids, tokenizers, folder) -> None:
  """Raises InputError unless every byte has an id."""
  missing = set(tokenizers.pre_tokenizers.ByteLevel.alphabet()) - ids.keys()
  if missing:
    raise InputError(
      f"the tokenizer in {folder} has no token for {len(missing)} of the 256"
      " bytes: it is no byte-level BPE such as GPT-2's."
    )
