"""Small stories by rules, to train a model on within minutes.

Who finds what comes back later: a pronoun follows the name, and a thing is the
same in each sentence. So a text is right or wrong as a whole, however its parts
were filled.
"""

import itertools
import json
import os
import pathlib
from collections.abc import Sequence

import numpy as np

from flexmdm_jax import files

PEOPLE = {
  "Anna": "She",
  "Ben": "He",
  "Clara": "She",
  "David": "He",
  "Emma": "She",
  "Felix": "He",
  "Greta": "She",
  "Hugo": "He",
}
THINGS = (
  *("book", "boat", "clock", "coin", "hat", "key", "kite", "lamp", "letter"),
  *("map", "ring", "shell"),
)
LOOKS = ("small", "old", "red", "blue", "round", "heavy", "bright", "strange")
PLACES = (
  *("under the bridge", "near the river", "in the garden", "at the market"),
  *("behind the house", "on the hill", "beside the road", "by the sea"),
)
OPENINGS = ("One day", "At night", "In the morning", "After the rain")
FINDS = ("finds", "sees", "buys", "draws", "loses", "wants")
_MORE = "a an the gives shows takes hides to home is happy likes thanks"


def story(rng: np.random.Generator) -> str:
  """Makes one story of one to three sentences.

  Args:
    rng: what chooses.
  """
  one, other = (str(x) for x in rng.choice([*PEOPLE], 2, replace=False))
  thing, place, later = _any(rng, THINGS), _any(rng, PLACES), _any(rng, PLACES)
  opening = f"{_any(rng, OPENINGS)}, " if rng.random() < 0.3 else ""
  look = f"{_any(rng, LOOKS)} " if rng.random() < 0.7 else ""
  where = f" {place}" if rng.random() < 0.6 else ""
  article = "an" if look.startswith("old") else "a"
  verb = _any(rng, FINDS)
  sentences = [f"{opening}{one} {verb} {article} {look}{thing}{where}."]
  if rng.random() < 0.75:
    second = _any(
      rng,
      (
        f"gives the {thing} to {other}",
        f"shows {other} the {thing}",
        f"takes the {thing} home",
        f"hides the {thing} {later}",
      ),
    )
    sentences.append(f"{PEOPLE[one]} {second}.")
    if other in second and rng.random() < 0.6:
      third = _any(rng, ("is happy", f"likes the {thing}", f"thanks {one}"))
      sentences.append(f"{other} {third}.")
  return " ".join(sentences)


def write_stories(path: str | os.PathLike, num: int, seed: int) -> None:
  """Writes stories, a row {"text": ...} a line.

  Args:
    path: file to write, JSON lines.
    num: number of stories.
    seed: seed of all choices.
  """
  rng = np.random.default_rng(seed)
  lines = (json.dumps({"text": story(rng)}) for _ in range(num))
  files.write_text(path, "".join(f"{line}\n" for line in lines))


def write_tokenizer(folder: str | os.PathLike) -> None:
  """Writes a byte-level BPE in GPT-2's format, with a token for each word.

  It writes every other text too, in pieces and bytes.

  Args:
    folder: folder that gets encoder.json and vocab.bpe; made if missing.
  """
  letters = _letters()
  space = letters[ord(" ")]
  told = " ".join((*OPENINGS, *PLACES, *LOOKS, *THINGS, *FINDS, _MORE))
  words = {*told.split(), *PEOPLE, *PEOPLE.values()}
  capital = {word for word in words if word[0].isupper()}
  pairs = [
    (word[:end], word[end])
    for word in sorted(capital | {space + x for x in words - capital})
    for end in range(1, len(word))
  ]
  # A text is cut before its spaces, which belong to the word after them.
  pairs += [(space, word) for word in sorted(capital)]
  merges = [*dict.fromkeys(pairs)]
  tokens = [*letters, *(a + b for a, b in merges)]
  ids = {token: i for i, token in enumerate(tokens)}
  files.write_json(pathlib.Path(folder) / "encoder.json", ids)
  lines = ["#version: 0.2", *(f"{a} {b}" for a, b in merges)]
  text = "".join(f"{line}\n" for line in lines)
  files.write_text(pathlib.Path(folder) / "vocab.bpe", text)


def _letters() -> list[str]:
  """Lists the letters that stand for bytes in GPT-2's files."""
  shown = {*range(33, 127), *range(161, 173), *range(174, 256)}
  others = itertools.count(256)
  return [chr(i) if i in shown else chr(next(others)) for i in range(256)]


def _any(rng: np.random.Generator, words: Sequence[str]) -> str:
  """Chooses one of some words."""
  return words[rng.integers(len(words))]
