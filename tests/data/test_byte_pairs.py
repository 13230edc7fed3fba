"""A tokenizer trained on a few texts."""

import pytest

from flexmdm_jax.data.byte_pairs import train_tokenizer
from flexmdm_jax.data.tokenizers import FolderTokenizer
from flexmdm_jax.errors import InputError

TEXTS = ["def f(x):\n    return x + 12\n", "é\t☃ <here>\n\n"] * 9


def test_texts_come_back_to_the_byte(tmp_path):
  train_tokenizer(TEXTS, tmp_path / "made", size=300, words=["<here>"])
  tokenizer = FolderTokenizer(tmp_path / "made")
  assert tokenizer.vocab.size <= 300
  for text in (*TEXTS, "", "  never seen: \x00\u4e2d"):
    assert tokenizer.decode(tokenizer.encode(text)) == text
  assert len(tokenizer.encode("<here>")) == 1
  assert len(tokenizer.encode("12")) == 2
  train_tokenizer(TEXTS, tmp_path / "numbers", size=300, digits=3)
  numbers = FolderTokenizer(tmp_path / "numbers")
  (twelve,) = numbers.encode("12")
  assert numbers.encode(" 12")[1:] == [twelve]
  # A hole of whole lines has the tokens that it has in the whole.
  first, second = "def f(x):\n", "    return x + 12\n"
  assert tokenizer.encode(first) + tokenizer.encode(second) == tokenizer.encode(
    first + second
  )


def test_wrong_sizes_and_folders_are_named(tmp_path):
  with pytest.raises(InputError, match="size=258 must be at least 259"):
    train_tokenizer(TEXTS, tmp_path / "made", size=258, words=["a"])
  with pytest.raises(InputError, match="exists: name another"):
    train_tokenizer(TEXTS, tmp_path, size=300)
