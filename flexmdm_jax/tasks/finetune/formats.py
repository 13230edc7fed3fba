r"""Formats of rows: how one becomes the text of a prefix, a hole and a suffix.

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

With a chat template (`data.chat`) the question is a message of the user, and
the prefix is what the model reads before it answers. A row {"messages"} is an
example too, whose hole is the last message, the assistant's.

Source: arXiv 2509.01025, experiments "GSM8K" and "code infilling".
"""

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from flexmdm_jax.data.chat import as_messages
from flexmdm_jax.data.documents import check_text
from flexmdm_jax.errors import InputError

BOUNDARY = "<infill-boundary>"


class Parts(NamedTuple):
  """An example as text."""

  prefix: str
  hole: str
  suffix: str


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
  return [Parts(question + "\n", hole, "")]


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
      return [Parts(render(before), hole, "")]
    return [
      Parts(render([{"role": "user", "content": prefix[:-1]}]), hole, suffix)
      for prefix, hole, suffix in gsm8k_parts(row)
    ]
  except InputError:  # the row's own: a wrong template was refused before
    return []


def boxed(text: str) -> str | None:
  r"""Finds the last \boxed{...} of an answer, cleaned; None without one."""
  found = re.findall(r"\\boxed\{([^{}]*)\}", text)
  return clean_number(found[-1]) if found else None


def clean_number(text: str) -> str:
  """Strips a result of white space, commas, dollar signs and a full stop."""
  return text.replace(",", "").replace("$", "").strip().rstrip(".")


def code_parts(
  row: Mapping[str, Any], text_key: str = "code", holes: int = 1
) -> list[Parts]:
  """Makes the examples of a row of code; none if it has neither form.

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
