"""Samples that grow in the terminal."""

import importlib.util
import sys
import time
import unicodedata
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from flexmdm_jax.errors import InputError
from flexmdm_jax.inference.replay import Replay
from flexmdm_jax.pictures.trace_html import (
  FROZEN,
  INSERTED,
  KEPT,
  MASK,
  REVEALED,
  Frames,
)

# A replay takes some seconds, and no picture is shorter than an eye needs.
_SECONDS = 12.0
_SHORTEST, _LONGEST = 0.04, 0.5
_STYLES = {
  FROZEN: "bold",
  KEPT: "",
  REVEALED: "bold green",
  INSERTED: "bold yellow",
  MASK: "dim",
}
# Categories of characters that are no picture: controls, formats such as a
# change of direction, halves of pairs, separators of lines.
_ORDERS = ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")
_MASKS = {INSERTED: "▒", MASK: "░"}

# The tokens of a state, with their status.
_State = list[tuple[str, str]]


def require_watch() -> None:
  """Refuses to watch in a terminal without the package rich."""
  if sys.stdout.isatty() and importlib.util.find_spec("rich") is None:
    raise InputError(
      "--watch needs the package rich: pip install 'flexmdm_jax[watch]'."
    )


def watch(played: Replay) -> None:
  """Plays samples in the terminal; elsewhere prints a line a state."""
  if sys.stdout.isatty():
    _play(played)
  else:
    for line in plain_lines(played):
      print(line)


def plain_lines(played: Replay) -> Iterator[str]:
  """Yields a line for each state of each sample that differs from the last."""
  steps = len(played.times) - 1
  for frames in played.samples:
    before = None
    for step, state in enumerate(_states(frames, played.label)):
      words = ["_" if kind in _MASKS else x for kind, x in state]
      text = played.between.join(words)
      text = text.replace("\n", "↵").replace("\t", "⇥")
      if text != before or step == steps:
        name = f"{frames.name}, " if frames.name else ""
        yield f"{name}step {step}/{steps}: {text}"
      before = text


def _play(played: Replay, console: Any = None) -> None:
  """Plays samples with rich, on a console of its own unless one is given."""
  from rich.console import Console, Group
  from rich.live import Live
  from rich.panel import Panel
  from rich.text import Text

  states = [list(_states(x, played.label)) for x in played.samples]
  steps = len(played.times) - 1
  moves = [i for i in range(steps + 1) if any(_moved(x, i) for x in states)]
  pause = min(max(_SECONDS / max(len(moves), 1), _SHORTEST), _LONGEST)

  def picture(step):
    panels = []
    for frames, sample in zip(played.samples, states, strict=True):
      text = Text()
      for kind, word in sample[step]:
        text.append(_MASKS.get(kind, word), _STYLES[kind])
        text.append(played.between)
      title = Text(_printable(frames.name)) if frames.name else None
      panels.append(Panel(text, title=title, title_align="left"))
    return Group(*panels, Text(f"step {step} of {steps}", "dim"))

  console = console or Console()
  with Live(picture(0), console=console, auto_refresh=False) as live:
    for step in moves:
      time.sleep(pause)
      live.update(picture(step), refresh=True)
    # The end is left on the screen, without marks of the last step.
    live.update(picture(steps), refresh=True)


def _moved(states: list[_State], step: int) -> bool:
  """Tells whether a step changed a sample."""
  return any(kind in (REVEALED, INSERTED) for kind, _ in states[step])


def _states(frames: Frames, label: Callable[[int], str]) -> Iterator[_State]:
  """Yields each state of a sample: its tokens' status and text."""
  first = frames.row(0)
  frozen = np.asarray(frames.frozen, bool)[: len(first)]
  masked = first == frames.mask_id
  status = np.where(frozen, FROZEN, np.where(masked, MASK, KEPT)).tolist()
  yield _state(first, status, label)
  for tokens, status, _ in frames.steps():
    yield _state(tokens, status, label)


def _state(tokens, status, label) -> _State:
  return [
    (kind, "" if kind in _MASKS else _printable(label(int(token))))
    for token, kind in zip(tokens, status, strict=True)
  ]


def _printable(text: str) -> str:
  """Replaces what would move the cursor or give the terminal orders."""
  return "".join(
    "\N{REPLACEMENT CHARACTER}"
    if c not in "\n\t" and unicodedata.category(c) in _ORDERS
    else c
    for c in text
  )
