"""Balanced brackets of several kinds: a law of sequences that is known.

Kind k opens with token `2k` and closes with `2k + 1`. Lengths follow the
bracket task of the public code of arXiv 2509.01025; its generator emits one
symbol, ours emits words of which every prefix constrains the rest.
"""

from collections.abc import Iterable, Iterator

import numpy as np

from flexmdm_jax.data.splits import content_split, require_split
from flexmdm_jax.errors import InputError
from flexmdm_jax.vocab import Vocab

LENGTHS = (4, 16, 32, 64)
PROBABILITIES = (0.1, 0.4, 0.4, 0.1)
SYMBOLS = "()[]{}<>"
MAX_KINDS = len(SYMBOLS) // 2


def require_kinds(kinds: int) -> None:
  """Raises InputError unless there are 2 to 4 kinds of bracket."""
  # One kind has two words of length 4, too few for three splits.
  if not 2 <= kinds <= MAX_KINDS:
    raise InputError(f"bracket kinds={kinds} must be 2, 3 or {MAX_KINDS}.")


def bracket_vocab(kinds: int = MAX_KINDS) -> Vocab:
  """Makes the ids: `2 * kinds` brackets, then the mask, then the pad.

  Raises:
    InputError: there are not 2 to 4 kinds.
  """
  require_kinds(kinds)
  return Vocab(size=2 * kinds + 2, mask=2 * kinds, pad=2 * kinds + 1)


def draw_word(
  rng: np.random.Generator, length: int, kinds: int = MAX_KINDS
) -> np.ndarray:
  """Draws a balanced word, uniform among all of its length and kinds.

  By the cycle lemma: of the rotations of a sequence with one more step up
  than down, exactly one has positive partial sums only; without its first
  step it is a balanced word, and every such word arises equally often.

  Args:
    rng: source of randomness.
    length: number of tokens; even, at least 2.
    kinds: number of kinds of bracket.

  Returns:
    int32[length] tokens.
  """
  half = length // 2
  steps = rng.permutation(np.repeat([1, -1], [half + 1, half]))
  # Only sums after the last minimum stay above it for a whole turn.
  last_minimum = length - int(np.argmin(np.cumsum(steps)[::-1]))
  word = np.roll(steps, -(last_minimum + 1))[1:]
  tokens = np.empty(length, np.int32)
  kind_of_next = iter(rng.integers(kinds, size=half).tolist())
  open_kinds = []
  for i, step in enumerate(word.tolist()):
    if step > 0:
      open_kinds.append(next(kind_of_next))
      tokens[i] = 2 * open_kinds[-1]
    else:
      tokens[i] = 2 * open_kinds.pop() + 1
  return tokens


def word_split(tokens: np.ndarray) -> str:
  """Assigns a word to a split, by a hash of its tokens."""
  # The salt is one with which each split owns words of length 4, of two kinds
  # of bracket as of four.
  return content_split(b"brackets" + np.asarray(tokens, "<i4").tobytes())


def words(
  split: str, seed: int, kinds: int = MAX_KINDS
) -> Iterator[np.ndarray]:
  """Draws words of a split, without end, with lengths of `PROBABILITIES`.

  The length is drawn first and the word redrawn until it is the split's, so
  the law of lengths is exact in each. No word is in two splits; short words
  are few (32 of length 4 and four kinds), so they come again within theirs.

  Args:
    split: "train", "validation" or "test".
    seed: seed of the draws; at least 0.
    kinds: number of kinds of bracket, 2 to 4.

  Returns:
    An iterator over int32[length] tokens.

  Raises:
    InputError: at once, if an argument is out of range.
  """
  require_split(split)
  require_kinds(kinds)
  if seed < 0:
    raise InputError(f"bracket seed={seed} must be at least 0.")
  return _words(split, np.random.default_rng(seed), kinds)


def _words(split, rng, kinds):
  while True:
    length = int(rng.choice(LENGTHS, p=PROBABILITIES))
    word = draw_word(rng, length, kinds)
    while word_split(word) != split:
      word = draw_word(rng, length, kinds)
    yield word


def is_balanced(tokens: Iterable[int], kinds: int = MAX_KINDS) -> bool:
  """Tells whether every bracket closes the last open one; true if empty.

  Ids that are no brackets (mask, pad, any other int) make it unbalanced.
  """
  open_kinds = []
  for token in tokens:
    if not 0 <= token < 2 * kinds:
      return False
    kind, closes = divmod(int(token), 2)
    if not closes:
      open_kinds.append(kind)
    elif not open_kinds or open_kinds.pop() != kind:
      return False
  return not open_kinds


def to_text(tokens: Iterable[int], kinds: int = MAX_KINDS) -> str:
  """Writes tokens as text: brackets, `_` for mask, `.` for pad, else `?`."""
  vocab = bracket_vocab(kinds)
  marks = dict(enumerate(SYMBOLS[: 2 * kinds]))
  marks |= {vocab.mask: "_", vocab.pad: "."}
  return "".join(marks.get(int(token), "?") for token in tokens)
