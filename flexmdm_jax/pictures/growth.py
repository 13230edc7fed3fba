"""A film strip: how a text grows, from a trace of its sample."""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.patches import FancyBboxPatch

from flexmdm_jax.pictures.style import (
  INK,
  MUTED,
  make_figure,
  require,
  save,
)
from flexmdm_jax.pictures.trace_html import (
  FROZEN,
  INSERTED,
  KEPT,
  MASK,
  REVEALED,
)

# Fill, ink and edge; in grey the edges and weights tell them apart.
_LOOKS = {
  FROZEN: ("#2b303b", "white", "-"),
  KEPT: ("#dcebf5", INK, "none"),
  REVEALED: ("#0072b2", "white", "none"),
  INSERTED: ("#fdecc4", "#6b4500", "--"),
  MASK: ("white", MUTED, "--"),
}
_WORDS = {
  INSERTED: "inserted",
  MASK: "mask",
  REVEALED: "revealed",
  KEPT: "kept",
  FROZEN: "given",
}
_LETTER = 0.085  # width of a letter of 9 points, in inches
_GAP = 0.035
_HIGH = 0.22


def growth_rows(document: dict[str, Any]) -> list[list[tuple[str, str]]]:
  """Replays a sample from what `trace_html.trace_document` packed.

  Args:
    document: the packed sample.

  Returns:
    Each state, the start and that after every step: (status, text) a token.
  """
  mask, frozen = document["mask"], set(document["frozen"])
  state = [
    [token, FROZEN if i in frozen else MASK if token == mask else KEPT]
    for i, token in enumerate(document["start"])
  ]
  rows = []
  for change in [0, *document["frames"]]:
    for token in state:
      if token[1] != FROZEN:
        token[1] = MASK if token[0] == mask else KEPT
    if change:
      for at in change["n"]:
        state.insert(at, [mask, INSERTED])
      for at, token in zip(change["r"], change["x"], strict=True):
        state[at] = [token, REVEALED]
    rows.append(
      [
        (kind, "" if token == mask else document["labels"][str(token)])
        for token, kind in state
      ]
    )
  return rows


def plot_growth(
  path: str | os.PathLike,
  document: dict[str, Any],
  num: int = 9,
  steps: Sequence[int] | None = None,
) -> None:
  """Draws states of a sample under each other, with what each step changed.

  Args:
    path: file to write.
    document: the sample, as `trace_html.trace_document` packs it.
    num: number of states, evenly taken among those that a step changed.
    steps: the steps to show instead.

  Raises:
    InputError: nothing ever changes, or a step that is none.
  """
  rows = growth_rows(document)
  changed = [
    i for i, change in enumerate(document["frames"], start=1) if change
  ]
  require(changed, "plot_growth needs a sample that changes.")
  if steps is None:
    at = np.linspace(0, len(changed) - 1, min(num, len(changed)))
    steps = [changed[round(float(i))] for i in at]
  require(
    steps and all(0 <= step < len(rows) for step in steps),
    f"steps={list(steps)} must be in [0, {len(rows) - 1}].",
  )
  texts = [[(kind, _shown(text)) for kind, text in rows[i]] for i in steps]
  left = 1.15  # inches, for the step and the time
  width = left + max(sum(map(_wide, row)) for row in texts) + 0.1
  width = max(width, 6.4)
  pitch = _HIGH + 0.11
  height = pitch * (len(texts) + 1) + 0.25
  figure, (axes,) = make_figure(width, height, columns=1)
  figure.set_layout_engine("none")
  axes.set_position((0, 0, 1, 1))
  axes.set_xlim(0, width)
  axes.set_ylim(height, 0)
  axes.axis("off")
  for number, (step, row) in enumerate(zip(steps, texts, strict=True)):
    y = 0.12 + pitch * number
    note = f"step {step}" if number == 0 else f"{step}"
    time = f"t = {document['times'][step]:.2f}"
    look = {"va": "center_baseline", "fontsize": 8.5, "color": MUTED}
    axes.text(0.48, y + _HIGH / 2, note, ha="right", **look)
    axes.text(0.58, y + _HIGH / 2, time, **look)
    x = left
    for kind, text in row:
      _token(axes, x, y, kind, text)
      x += _wide((kind, text))
  _key(axes, left, 0.12 + pitch * len(texts) + 0.06, texts)
  save(figure, path)


def _shown(text: str) -> str:
  """Writes what cannot be seen as signs."""
  return text.replace("\n", "↵").replace("\t", "⇥").replace(" ", "·")


def _wide(token: tuple[str, str]) -> float:
  """Measures a token and the gap after it, in inches."""
  return 0.07 + _LETTER * max(1, len(token[1])) + _GAP


def _token(axes, x: float, y: float, kind: str, text: str) -> None:
  """Draws one token."""
  fill, ink, edge = _LOOKS[kind]
  wide = _wide((kind, text)) - _GAP
  axes.add_patch(
    FancyBboxPatch(
      (x, y),
      wide,
      _HIGH,
      boxstyle="round,pad=0,rounding_size=0.045",
      facecolor=fill,
      edgecolor="none"
      if edge == "none"
      else "#b87700"
      if kind == INSERTED
      else MUTED,
      ls="-" if edge == "none" else edge,
      lw=0.9,
    )
  )
  axes.text(
    x + wide / 2,
    y + _HIGH / 2,
    "+" if kind == INSERTED else text,
    ha="center",
    va="center_baseline",
    color=ink,
    fontsize=9,
    family="monospace",
    weight="bold" if kind in (REVEALED, FROZEN) else "normal",
  )


def _key(axes, x: float, y: float, texts) -> None:
  """Draws what the looks mean, of those that are there."""
  seen = {kind for row in texts for kind, _ in row}
  for kind, word in _WORDS.items():
    if kind not in seen:
      continue
    _token(axes, x, y, kind, "" if kind in (MASK, INSERTED) else "a")
    axes.text(
      x + 0.22,
      y + _HIGH / 2,
      word,
      va="center_baseline",
      fontsize=8.5,
      color=MUTED,
    )
    x += 0.42 + 0.075 * len(word)
