r"""Fine-tuning: what is given stays as it is, an answer or a hole is learned.

Every example is a prefix, a hole and a suffix, each tokenised by itself as a
reader of the prefix alone would: the prefix and the suffix are frozen, and only
the gaps of the hole are open. Formats of rows:

  gsm8k  {"question", "answer"}, as GSM8K is published. The prefix is the
         question and a line break; the hole is

           <reasoning>
           the answer's steps, without calculator marks such as <<6*7=42>>
           </reasoning>
           <answer>
           \boxed{42}
           </answer>

  code   a row with a text. The hole is between two of its characters' edges,
         all pairs alike; where there are several holes of a text, each is an
         example. Or a row {"prompt", "canonical_solution", "suffix"}, as
         HumanEval-Infilling is published, whose hole is the solution. On both
         sides of the hole stands the plain text <infill-boundary>, given.

What is longer than the model is left out: a cut would take away the end.

Source: arXiv 2509.01025, experiments "GSM8K" and "code infilling".
"""

import array
import collections
import functools
import hashlib
import itertools
import json
import logging
import pathlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from flexmdm_jax.data.cache import cached_folder, damaged, writable
from flexmdm_jax.data.documents import Files, Skipped, check_text
from flexmdm_jax.data.loader import require_buckets
from flexmdm_jax.data.splits import SPLITS, content_split, require_split
from flexmdm_jax.data.tokenizers import Tokenizer, load_tokenizer
from flexmdm_jax.errors import InputError
from flexmdm_jax.rows import HoleLayout, stack
from flexmdm_jax.tasks.task import Task, data_folder, require_method

BOUNDARY = "<infill-boundary>"
_FORMAT = 1
_CHUNK = 1000


class Parts(NamedTuple):
  """An example as text."""

  prefix: str
  hole: str
  suffix: str


def gsm8k_parts(row: Mapping[str, Any]) -> list[Parts]:
  """The example of a row of GSM8K; none if it is no such row."""
  question, fault = check_text(row.get("question"))
  answer, other = check_text(row.get("answer"))
  steps, mark, result = answer.rpartition("####")
  if fault or other or not mark:
    return []
  steps = re.sub(r"<<[^<>]*>>", "", steps).strip()
  hole = (
    f"<reasoning>\n{steps}\n</reasoning>\n"
    f"<answer>\n\\boxed{{{clean_number(result)}}}\n</answer>"
  )
  return [Parts(question + "\n", hole, "")]


def boxed(text: str) -> str | None:
  r"""The last \boxed{...} of an answer, cleaned; None if there is none."""
  found = re.findall(r"\\boxed\{([^{}]*)\}", text)
  return clean_number(found[-1]) if found else None


def clean_number(text: str) -> str:
  """A result without white space, commas, dollar signs or a full stop."""
  return text.replace(",", "").replace("$", "").strip().rstrip(".")


def code_parts(
  row: Mapping[str, Any], text_key: str = "code", holes: int = 1
) -> list[Parts]:
  """The examples of a row of code; none if it has neither form.

  Args:
    row: the row.
    text_key: the key of a text.
    holes: how many examples to make of a text; the k-th hole depends on the
      text and k alone.
  """
  published = [
    row.get(key) for key in ("prompt", "canonical_solution", "suffix")
  ]
  if all(isinstance(text, str) for text in published):
    pieces = [published]
  else:
    text, fault = check_text(row.get(text_key))
    if fault:
      return []
    digest = hashlib.sha256(text.encode()).digest()
    seed = int.from_bytes(digest[:8], "big")
    pieces = []
    for k in range(holes):
      rng = np.random.default_rng([seed, k])
      edges = rng.choice(len(text) + 1, size=2, replace=False)
      begin, end = sorted(map(int, edges))
      pieces.append((text[:begin], text[begin:end], text[end:]))
  return [
    Parts(prefix + BOUNDARY, hole, BOUNDARY + suffix)
    for prefix, hole, suffix in pieces
  ]


class HoleRecords(Sequence):
  """The records of a split, by index.

  Each is a dict of `tokens` int32[n], `hole` (begin, end), where in them the
  hole is, and `row`, the number of its row among those of the files.

  Attributes:
    lengths: int32[N], the tokens of each record.
  """

  def __init__(self, folder: pathlib.Path, split: str):
    """Opens a split; InputError if it is damaged."""
    try:
      self._tokens = np.load(folder / f"{split}.tokens.npy", mmap_mode="r")
      self._spans = np.load(folder / f"{split}.spans.npy")
      self._begins = np.cumsum([0, *self._spans[:, 2]])
      if self._begins[-1] != len(self._tokens):
        raise ValueError
    except (OSError, ValueError, IndexError) as error:
      raise damaged(folder) from error
    self.lengths = self._spans[:, 2]

  def __len__(self) -> int:
    return len(self._spans)

  def __getitem__(self, index: int) -> dict[str, Any]:
    index = range(len(self))[index]
    first, last = self._begins[index : index + 2]
    begin, end, _, row = map(int, self._spans[index])
    return {
      "tokens": np.array(self._tokens[first:last]),
      "hole": (begin, end),
      "row": row,
    }


class FineTuneTask(Task):
  """Answers after a question, or code in a hole; see the module.

  Its settings, the `data` of a config:

    name: "gsm8k" or "code".
    folder: where the tokenised examples are kept.
    train, validation, test: JSONL files, paths or patterns separated by commas.
      With "train" alone, a hash of each row decides its split.
    text_key: the key of a text of code.
    holes: examples of a text of code.
    tokenizer, tokenizer_folder, merges, mask_id, pad_id, vocab_size: as
      `TextTask` has them, but for "char".
    max_length: L; what is longer is left out.
    buckets: lengths of batches, ascending to max_length; empty for none.
  """

  methods = ("flexmdm",)

  def __init__(self, method: str, data: Mapping[str, Any]):
    self.method = require_method(method, self.methods)
    self._data = dict(data)
    if data["tokenizer"] not in ("gpt2", "folder"):
      raise InputError(
        f"data.tokenizer={data['tokenizer']!r} is unknown: choose gpt2 or"
        " folder."
      )
    if data["holes"] < 1:
      raise InputError(f"data.holes={data['holes']} must be at least 1.")
    if data["max_length"] < 1:
      raise InputError(
        f"data.max_length={data['max_length']} must be at least 1."
      )
    self.buckets = tuple(data["buckets"])
    if self.buckets:
      require_buckets(self.buckets, data["max_length"])
    self.vocab = self.tokenizer.vocab
    self.max_length = data["max_length"]

  @functools.cached_property
  def tokenizer(self) -> Tokenizer:
    """The tokenizer of the text."""
    return load_tokenizer(self._data)

  @functools.cached_property
  def layout(self):
    return HoleLayout(self.vocab, self.max_length)

  def parts(self, row: Mapping[str, Any]) -> list[Parts]:
    """The examples of a row, as text."""
    if self._data["name"] == "gsm8k":
      return gsm8k_parts(row)
    return code_parts(row, self._data["text_key"], self._data["holes"])

  def rows(self, split: str) -> list[dict[str, Any]]:
    """The rows of a split's files, which a record's `row` counts.

    Raises:
      InputError: they cannot be read.
    """
    files = self._files()
    found = files.get(split) or files.get("train")
    return list(found.rows(Skipped())) if found else []

  def records(self, split):
    """The records of a split; prepared on first use."""
    require_split(split)
    records = HoleRecords(self._folder, split)
    if not len(records):
      raise InputError(
        f"these data have no {split} examples of at most max_length="
        f"{self.max_length} tokens: set data.{split}, or give more rows."
      )
    return records

  def encode(self, record):
    tokens, (begin, end) = record["tokens"], record["hole"]
    return self.layout.encode(tokens[:begin], tokens[begin:end], tokens[end:])

  def start(self, records):
    return stack(
      self.layout.start(
        record["tokens"][: record["hole"][0]],
        record["tokens"][record["hole"][1] :],
      )
      for record in records
    )

  def filled(
    self, records: Sequence[Mapping[str, Any]], sequences: Sequence[list[int]]
  ) -> list[str]:
    """The text that samples put into the holes of the records.

    Args:
      records: what `start` was given.
      sequences: the samples, as `decode` returns them.
    """
    return [
      self.to_text(
        sequence[
          record["hole"][0] : len(sequence)
          - (len(record["tokens"]) - record["hole"][1])
        ]
      )
      for record, sequence in zip(records, sequences, strict=True)
    ]

  def encode_text(self, text: str) -> list[int]:
    """The tokens of a text."""
    return self.tokenizer.encode(text)

  def to_text(self, tokens: Iterable[int]) -> str:
    """The text of a sequence; masks show."""
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
      _FORMAT,
      self._data["name"],
      {split: found.fingerprint() for split, found in files.items()},
      self.tokenizer.fingerprint,
      self._data["holes"],
      self.max_length,
    ]
    return cached_folder(
      data_folder(self._data["folder"]),
      "finetune",
      recipe,
      lambda folder: self._write(folder, files),
    )

  def _write(self, folder: pathlib.Path, files: Mapping[str, Files]) -> None:
    """Writes the files of `HoleRecords` for all splits."""
    tokens = {split: array.array("i") for split in SPLITS}
    spans = {split: array.array("i") for split in SPLITS}
    skipped = Skipped()
    examples = self._examples(files, skipped)
    while chunk := list(itertools.islice(examples, _CHUNK)):
      texts = itertools.chain.from_iterable(parts for _, _, parts in chunk)
      encoded = self.tokenizer.encode_batch(list(texts))
      for i, (split, row, _) in enumerate(chunk):
        prefix, hole, suffix = encoded[3 * i : 3 * i + 3]
        begin, end = len(prefix), len(prefix) + len(hole)
        length = end + len(suffix)
        if length > self.max_length:
          skipped["too_long"] += 1
          continue
        tokens[split].extend([*prefix, *hole, *suffix])
        spans[split].extend([begin, end, length, row])
    if skipped:
      logging.warning("skipped rows: %s", dict(skipped))
    if not spans["train"]:
      raise InputError(
        f"data.train has no row that can be used ({dict(skipped)}): it needs"
        f" the format of {self._data['name']!r}, see flexmdm_jax/data/"
        "finetune.py, and data.max_length tokens at most."
      )
    for split in SPLITS:
      with writable(folder.parent):
        flat = np.array(tokens[split], np.int32)
        np.save(folder / f"{split}.tokens.npy", flat)
        table = np.array(spans[split], np.int32).reshape(-1, 4)
        np.save(folder / f"{split}.spans.npy", table)

  def _examples(
    self, files: Mapping[str, Files], skipped: collections.Counter
  ) -> Iterator[tuple[str, int, Parts]]:
    """Split, number of the row and text of every example."""
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
