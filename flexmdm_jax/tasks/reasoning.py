"""Small data of code and of word problems, which every machine can make.

Each folder has train.jsonl, validation.jsonl and test.jsonl, split by a hash of
the row, and a tokenizer trained on the first.
"""

import json
import os
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

from flexmdm_jax.data.byte_pairs import train_tokenizer
from flexmdm_jax.data.python_functions import standard_library_functions
from flexmdm_jax.data.splits import SPLITS, content_split
from flexmdm_jax.data.word_problems import word_problems
from flexmdm_jax.errors import InputError
from flexmdm_jax.files import write_text
from flexmdm_jax.tasks.finetune.formats import BOUNDARY, gsm8k_parts

_CODE_IDS = 2048
_PROBLEM_IDS = 1024
_MARKERS = ("<reasoning>", "</reasoning>", "<answer>", "</answer>", "\\boxed{")


def make_code(
  folder: str | os.PathLike, source: str | os.PathLike | None = None
) -> dict[str, int]:
  """Writes the functions of Python's standard library as rows {"code"}.

  Docstrings are left out: the functions are to be short.

  Args:
    folder: folder to make.
    source: folder of Python files; None for the standard library's.

  Returns:
    The number of rows of each split.

  Raises:
    InputError: the folder exists, or cannot be written.
  """
  rows = [
    {"code": text}
    for text in standard_library_functions(source, docstrings=False)
  ]
  return _write(folder, rows, "code", "code", size=_CODE_IDS, words=[BOUNDARY])


def make_problems(
  folder: str | os.PathLike, num: int, seed: int = 0, **limits: int
) -> dict[str, int]:
  """Writes word problems as rows {"question", "answer", "text"}.

  The text is a question and its answer, in the form that a fine-tuning on GSM8K
  learns: what a parent is trained on.

  Args:
    folder: folder to make.
    num: number of problems in all splits.
    seed: seed of all that is random.
    **limits: limits of `word_problems`.

  Returns:
    The number of rows of each split.

  Raises:
    InputError: as `make_code`.
  """
  rows = []
  for row in word_problems(num, seed, **limits):
    (parts,) = gsm8k_parts(row)
    rows.append({**row, "text": parts.given[0] + parts.holes[0]})
  return _write(
    folder,
    rows,
    "question",
    "text",
    size=_PROBLEM_IDS,
    words=_MARKERS,
    digits=3,  # sums are learned of whole numbers
  )


def require_new(folder: pathlib.Path) -> None:
  """Raises an `InputError` if a folder exists."""
  if folder.exists():
    raise InputError(f"{folder} exists: name another folder, or remove it.")


def _write(
  folder: str | os.PathLike,
  rows: Iterable[Mapping[str, str]],
  hashed: str,
  learned: str,
  **tokenizer: Any,
) -> dict[str, int]:
  """Writes a folder of data.

  Args:
    folder: the folder.
    rows: the rows of all splits.
    hashed: key whose text decides the split.
    learned: key whose text the tokenizer learns from.
    **tokenizer: settings of `train_tokenizer`.
  """
  folder = pathlib.Path(folder)
  require_new(folder)
  by_split = {split: [] for split in SPLITS}
  for row in rows:
    by_split[content_split(row[hashed].encode())].append(row)
  texts = (row[learned] for row in by_split["train"])
  train_tokenizer(texts, folder / "tokenizer", **tokenizer)
  for split, found in by_split.items():
    lines = "".join(json.dumps(row) + "\n" for row in found)
    write_text(folder / f"{split}.jsonl", lines)
  return {split: len(found) for split, found in by_split.items()}
