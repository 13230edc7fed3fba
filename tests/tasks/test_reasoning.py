"""Small data of code and of word problems."""

import json

import pytest

from flexmdm_jax.data.splits import SPLITS
from flexmdm_jax.data.tokenizers import FolderTokenizer
from flexmdm_jax.errors import InputError
from flexmdm_jax.tasks.finetune.formats import code_parts, gsm8k_parts
from flexmdm_jax.tasks.reasoning import make_code, make_problems


def rows(folder, split):
  lines = (folder / f"{split}.jsonl").read_text().splitlines()
  return [json.loads(line) for line in lines]


def test_problems_are_rows_of_gsm8k(tmp_path):
  folder = tmp_path / "problems"
  counts = make_problems(folder, 60)
  assert sum(counts.values()) == 60 and min(counts.values()) > 0
  tokenizer = FolderTokenizer(folder / "tokenizer")
  for split in SPLITS:
    found = rows(folder, split)
    assert len(found) == counts[split]
    for row in found:
      (parts,) = gsm8k_parts(row)
      assert row["text"] == parts.given[0] + parts.holes[0]
      assert tokenizer.decode(tokenizer.encode(row["text"])) == row["text"]
  with pytest.raises(InputError, match="exists: name another"):
    make_problems(folder, 60)


def test_functions_are_rows_of_code(tmp_path):
  source = tmp_path / "source"
  source.mkdir()
  text = "".join(f"def f{i}(x):\n  return x + {i}\n\n" for i in range(60))
  (source / "a.py").write_text(text)
  counts = make_code(tmp_path / "code", source)
  assert sum(counts.values()) == 60
  for row in rows(tmp_path / "code", "test"):
    assert code_parts(row)
