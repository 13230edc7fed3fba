"""A small byte-level tokenizer, trained on a text of one's own."""

import os
import pathlib
from collections.abc import Iterable, Sequence

from flexmdm_jax import files, schema
from flexmdm_jax.data.tokenizers import import_tokenizers
from flexmdm_jax.errors import InputError

MASK, PAD = "<|mask|>", "<|pad|>"
_BYTES = 256
# A line break stands alone; a word may have a space before it, and other
# spaces, as an indentation, are together. A number is the same token after a
# space as without one: a small model is to copy it.
_PIECES = r"\n| +(?= )| ?[A-Za-z_]+|\d{1,%d}| ?[^\sA-Za-z_\d]+|\s"


def train_tokenizer(
  texts: Iterable[str],
  folder: str | os.PathLike,
  *,
  size: int,
  words: Sequence[str] = (),
  digits: int = 1,
) -> None:
  """Trains byte-pair merges, and writes a folder for `FolderTokenizer`.

  The folder has the form of Hugging Face's. Every text of bytes has tokens, and
  comes back from them to the byte.

  Args:
    texts: texts to learn from.
    folder: folder to make; it must not exist.
    size: ids in all, the mask and the pad included.
    words: markers of a format that are one token each.
    digits: digits that a token of a number has at most.

  Raises:
    InputError: the package `tokenizers` is not installed, the folder exists, or
      `size` leaves no room for merges.
  """
  tokenizers = import_tokenizers()
  least = _BYTES + 2 + len(words)
  schema.require_value("size", size, int, schema.Range(least=least))
  schema.require_value("digits", digits, int, schema.Range(least=1, most=9))
  folder = pathlib.Path(folder)
  if folder.exists():
    raise InputError(f"{folder} exists: name another folder for a tokenizer.")
  made = tokenizers.Tokenizer(tokenizers.models.BPE())
  made.pre_tokenizer = tokenizers.pre_tokenizers.Sequence(
    [
      tokenizers.pre_tokenizers.Split(
        tokenizers.Regex(_PIECES % digits), "isolated"
      ),
      tokenizers.pre_tokenizers.ByteLevel(
        add_prefix_space=False, use_regex=False
      ),
    ]
  )
  made.decoder = tokenizers.decoders.ByteLevel()
  trainer = tokenizers.trainers.BpeTrainer(
    vocab_size=size - len(words),
    special_tokens=[MASK, PAD],
    initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
    show_progress=False,
  )
  made.train_from_iterator(texts, trainer)
  made.add_tokens(list(words))
  folder.mkdir(parents=True)
  files.write_text(folder / "tokenizer.json", made.to_str())
  files.write_json(
    folder / "special_tokens_map.json", {"mask_token": MASK, "pad_token": PAD}
  )
