r"""Formats of rows: how one becomes the text of a prefix, a hole and a suffix.

  gsm8k  {"question", "answer"}, as GSM8K is published. The prefix is the
         question and a line break; the hole is

           <reasoning>
           the answer's steps, without calculator marks such as <<6*7=42>>
           </reasoning>
           <answer>
           \boxed{42}
           </answer>

  code   a row with a text, into which holes are cut; see `Cut`. Or a row
         {"prompt", "canonical_solution", "suffix"}, as HumanEval-Infilling is
         published, whose hole is the solution. On both sides of a hole stands
         the plain text <infill-boundary>, given.

With a chat template (`data.chat`) the question is a message of the user, and
the prefix is what the model reads before it answers. A row {"messages"} is an
example too, whose hole is the last message, the assistant's.

Source: arXiv 2509.01025, experiments "GSM8K" and "code infilling".
"""

import dataclasses
import hashlib
import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from flexmdm_jax.data.chat import as_messages
from flexmdm_jax.data.documents import check_text
from flexmdm_jax.errors import InputError

BOUNDARY = "<infill-boundary>"


CUTS = ("span", "lines")
_BOX = re.compile(r"\\boxed\s*\{")


class Parts(NamedTuple):
  """An example as text.

  Attributes:
    given: what stands around the holes, one text more than there are holes.
    holes: what is in them.
  """

  given: tuple[str, ...]
  holes: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Cut:
  """How holes are cut into a text.

  Attributes:
    examples: examples that are made of a text.
    most_holes: holes of an example, at most; all numbers from one on are alike.
    at: "span", where a hole is between two edges of characters, all pairs
      alike; or "lines", where it is one or more whole lines, each line the last
      of its hole with probability 1/2. It begins with a line that is not blank,
      and not the first, which names a function, where there is such a line.
  """

  examples: int = 1
  most_holes: int = 1
  at: str = "span"


def gsm8k_parts(row: Mapping[str, Any]) -> list[Parts]:
  """Makes the example of a row of GSM8K; none if it is no such row."""
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
  return [Parts((question + "\n", ""), (hole,))]


def chat_parts(
  row: Mapping[str, Any], render: Callable[[Sequence[Any]], str]
) -> list[Parts]:
  """Makes the example of a row of GSM8K, or of {"messages"}; none of others.

  Args:
    row: the row.
    render: function that makes the prefix of the messages before the answer.
  """
  try:
    if "messages" in row:
      *before, last = as_messages(row["messages"])
      hole, fault = check_text(last.get("content"))
      if fault or last["role"] != "assistant":
        return []
      return [Parts((render(before), ""), (hole,))]
    return [
      Parts((render([{"role": "user", "content": prefix[:-1]}]), ""), holes)
      for (prefix, _), holes in gsm8k_parts(row)
    ]
  except InputError:  # the row's own: a wrong template was refused before
    return []


def last_box(text: str) -> str | None:
  r"""Finds the content of the last \boxed{...} whose braces are closed."""
  for match in reversed(list(_BOX.finditer(text))):
    depth = 1
    for i in range(match.end(), len(text)):
      depth += {"{": 1, "}": -1}.get(text[i], 0)
      if not depth:
        return text[match.end() : i]
  return None


def clean_number(text: str) -> str:
  """Strips a result of white space, commas, dollar signs and a full stop."""
  return text.replace(",", "").replace("$", "").strip().rstrip(".")


def code_parts(
  row: Mapping[str, Any], text_key: str = "code", cut: Cut = Cut()
) -> list[Parts]:
  """Makes the examples of a row of code; none if it has neither form.

  Args:
    row: the row.
    text_key: the key of a text.
    cut: how holes are cut into a text; those of the k-th example depend on the
      text and k alone.
  """
  published = [
    row.get(key) for key in ("prompt", "canonical_solution", "suffix")
  ]
  if all(isinstance(text, str) for text in published):
    prefix, hole, suffix = published
    return [_bounded((prefix, suffix), (hole,))]
  text, fault = check_text(row.get(text_key))
  if fault:
    return []
  digest = hashlib.sha256(text.encode()).digest()
  seed = int.from_bytes(digest[:8], "big")
  made = []
  for k in range(cut.examples):
    rng = np.random.default_rng([seed, k])
    num = 1
    if cut.most_holes > 1:
      num = int(rng.integers(1, cut.most_holes + 1))
    edges = (_lines if cut.at == "lines" else _spans)(rng, text, num)
    ends = [0, *edges, len(text)]
    pieces = [text[a:b] for a, b in itertools.pairwise(ends)]
    made.append(_bounded(tuple(pieces[::2]), tuple(pieces[1::2])))
  return made


def _spans(rng: np.random.Generator, text: str, num: int) -> list[int]:
  """Draws the edges of holes between characters; fewer in a short text."""
  num = min(num, (len(text) + 1) // 2)
  edges = rng.choice(len(text) + 1, size=2 * num, replace=False)
  return sorted(map(int, edges))


def _lines(rng: np.random.Generator, text: str, num: int) -> list[int]:
  """Draws the edges of holes of whole lines; a line is between two holes."""
  lines = text.splitlines(keepends=True)
  ends = np.cumsum([0, *map(len, lines)])
  firsts = [i for i, line in enumerate(lines) if i and line.strip()] or [0]
  edges: list[int] = []
  for begin in sorted(rng.permutation(firsts)[:num].tolist()):
    if edges and begin <= edges[-1]:
      continue
    end = min(begin + int(rng.geometric(0.5)), len(lines))
    edges += [begin, end]
  return [int(ends[i]) for i in edges]


def _bounded(given: tuple[str, ...], holes: tuple[str, ...]) -> Parts:
  """Marks both sides of every hole."""
  last = len(given) - 1
  return Parts(
    tuple(
      BOUNDARY * (i > 0) + text + BOUNDARY * (i < last)
      for i, text in enumerate(given)
    ),
    holes,
  )
