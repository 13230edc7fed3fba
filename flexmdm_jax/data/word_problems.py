"""Arithmetic word problems with their steps, from a seed, as rows of GSM8K."""

from collections.abc import Iterator

import numpy as np

from flexmdm_jax import schema

_NAMES = (
  *("Ada", "Ben", "Cleo", "Dan", "Eve", "Finn", "Gia", "Hugo", "Ida", "Jon"),
  *("Kim", "Leo", "Mia", "Ned", "Ola", "Pia", "Rob", "Sue", "Tom", "Una"),
)
_THINGS = (
  *("apples", "books", "cards", "coins", "eggs", "flowers", "keys", "marbles"),
  *("nuts", "pens", "plums", "shells", "stamps", "stones", "tickets", "toys"),
)


def word_problems(
  num: int, seed: int = 0, *, most_steps: int = 2, largest: int = 30
) -> Iterator[dict[str, str]]:
  """Makes problems of one to `most_steps` steps on whole numbers.

  A person has some things; every step changes how many, and the question is how
  many there are in the end. The k-th problem depends on the seed, k and the two
  limits alone.

  Args:
    num: number of problems.
    seed: seed of all that is random.
    most_steps: steps of the longest problem; all numbers of steps are alike.
    largest: largest number on the way; numbers are between 0 and it, and it is
      4 or more.

  Yields:
    {"question", "answer"}; the answer has a line for each step and ends with
    "#### " and the result.

  Raises:
    InputError: `largest` is below 4.
  """
  schema.require_value("largest", largest, int, schema.Range(least=4))
  for k in range(num):
    yield _problem(np.random.default_rng([seed, k]), most_steps, largest)


def _problem(
  rng: np.random.Generator, most_steps: int, largest: int
) -> dict[str, str]:
  name, thing = rng.choice(_NAMES), rng.choice(_THINGS)
  has = int(rng.integers(2, largest + 1))
  told, steps = [f"{name} has {has} {thing}."], []
  for _ in range(int(rng.integers(1, most_steps + 1))):
    sentence, step, has = _step(rng, str(name), str(thing), has, largest)
    told.append(sentence)
    steps.append(step)
  told.append(f"How many {thing} does {name} have now?")
  answer = "\n".join([*steps, f"#### {has}"])
  return {"question": " ".join(told), "answer": answer}


def _step(
  rng: np.random.Generator, name: str, thing: str, has: int, largest: int
) -> tuple[str, str, int]:
  """Draws a change: its sentence, its line of the answer and the new number."""
  other = str(rng.choice([x for x in _NAMES if x != name]))
  kinds = []
  if has < largest:
    kinds.append("gets")
  if has + 4 <= largest:
    kinds.append("boxes")
  if has >= 2:
    kinds.append("gives")
  if has and has % 2 == 0:
    kinds.append("half")
  if has and has * 3 <= largest:
    kinds.append("times")
  if has >= 2 and has % 3 == 0:
    kinds.append("shares")
  kind = rng.choice(kinds)
  if kind == "gets":
    n = int(rng.integers(1, largest - has + 1))
    told = (
      f"{other} gives {name} {n} more.",
      f"{name} finds {n} more {thing}.",
      f"Then {name} buys {n}.",
    )
    return str(rng.choice(told)), f"{has}+{n}={has + n}", has + n
  if kind == "gives":
    n = int(rng.integers(1, has + 1))
    told = (
      f"{name} gives {n} to {other}.",
      f"{name} loses {n} {thing}.",
      f"Then {name} sells {n}.",
    )
    return str(rng.choice(told)), f"{has}-{n}={has - n}", has - n
  if kind == "boxes":
    boxes, each = (int(x) for x in rng.integers(2, 7, size=2))
    n = boxes * each
    if has + n > largest:
      return _step(rng, name, thing, has, largest)
    told = f"{other} brings {boxes} boxes with {each} {thing} each."
    step = f"{boxes}*{each}={n}\n{has}+{n}={has + n}"
    return told, step, has + n
  if kind == "half":
    told = f"{name} gives half of the {thing} to {other}."
    return told, f"{has}/2={has // 2}", has // 2
  if kind == "shares":
    told = f"{name} puts the {thing} into 3 equal bags and keeps one."
    return told, f"{has}/3={has // 3}", has // 3
  n = int(rng.integers(2, 4))
  told = f"After a month {name} has {n} times as many."
  return told, f"{has}*{n}={has * n}", has * n
