"""A page that plays samples step by step: one HTML file, no network.

Between two frames of a sample some masks are revealed and then new masks are
inserted. The frames do not say which tokens are the same, so the alignment is
found here; the page only replays it, and a token keeps its identity while it
moves.
"""

import dataclasses
import html
import importlib.resources
import json
import os
import pathlib
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from flexmdm_jax.errors import InputError

_TEMPLATE = (
  importlib.resources.files("flexmdm_jax.pictures")
  .joinpath("trace_page.html")
  .read_text(encoding="utf-8")
)

FROZEN, KEPT, REVEALED, INSERTED, MASK = (
  "frozen",
  "kept",
  "revealed",
  "inserted",
  "mask",
)


@dataclasses.dataclass(frozen=True)
class Frames:
  """The states of one sample, from its start to its end.

  Attributes:
    tokens: int[steps+1, L], left-aligned; what lies beyond the length is
      ignored.
    length: int[steps+1], number of tokens of each frame.
    frozen: bool[L], tokens of frame 0 that never change.
    mask_id: id of the mask token.
    chance: f[steps+1, L], of each mask that the next step reveals the
      probability of the token that it becomes; None if it is not known.
    name: heading of the sample, plain text; none if empty.

  Raises:
    InputError: shapes disagree, or a length is not in [0, L].
  """

  tokens: np.ndarray
  length: np.ndarray
  frozen: np.ndarray
  mask_id: int
  chance: np.ndarray | None = None
  name: str = ""

  def __post_init__(self):
    shapes = [np.shape(a) for a in (self.tokens, self.length, self.frozen)]
    _require(
      len(shapes[0]) == 2 and shapes[1:] == [shapes[0][:1], shapes[0][1:]],
      f"Frames has tokens {shapes[0]}, length {shapes[1]} and frozen"
      f" {shapes[2]}: their shapes must be [steps+1, L], [steps+1] and [L].",
    )
    _require(
      self.chance is None or np.shape(self.chance) == shapes[0],
      f"Frames has tokens {shapes[0]} and chance {np.shape(self.chance)}: give"
      " one chance a token.",
    )
    _require(shapes[0][0], "Frames needs at least the frame of the start.")
    low, high = np.min(self.length), np.max(self.length)
    _require(
      low >= 0 and high <= shapes[0][1],
      f"Frames.length spans [{low}, {high}]: it must lie in"
      f" [0, {shapes[0][1]}].",
    )

  def row(self, step: int) -> np.ndarray:
    """The tokens of one frame, int[length[step]]."""
    return np.asarray(self.tokens)[step, : self.length[step]]

  def steps(self) -> Iterator[tuple[np.ndarray, list[str], np.ndarray]]:
    """Yields the tokens after each step, and `token_status` of the step.

    Raises:
      InputError: frames cannot be aligned; it names the step.
    """
    before = self.row(0)
    fixed = np.asarray(self.frozen, bool)[: len(before)]
    for step in range(1, len(self.tokens)):
      after = self.row(step)
      try:
        status, origin = token_status(before, after, fixed, self.mask_id)
      except InputError as error:
        raise InputError(f"Step {step}: {error}") from error
      yield after, status, origin
      before, fixed = after, np.append(fixed, False)[origin]


@dataclasses.dataclass(frozen=True)
class Render:
  """How tokens are shown.

  Attributes:
    labels: text of a token; masks are drawn, not labelled.
    walls: bool[rows, columns], True where there is a wall, or None. With a
      grid, a token is the cell row * columns + column, and the path is drawn
      in a second panel; tokens that are no cell are left out there.
    running: whether the labels make one text, and are set as one; else each
      has a box of its own.
  """

  labels: Callable[[int], str] = str
  walls: np.ndarray | None = None
  running: bool = False


def token_status(
  previous: np.ndarray, current: np.ndarray, frozen: np.ndarray, mask_id: int
) -> tuple[list[str], np.ndarray]:
  """Says what one step did to each token of a frame.

  Every token of the previous frame is still there, in the same order; a mask
  may have become any token; and every new token is a mask. Which mask of a
  run is the new one cannot be known: old ones are then taken to come first.

  Args:
    previous: int[n], the frame before the step.
    current: int[m], the frame after it.
    frozen: bool[n], tokens of the previous frame that may not change, not
      even where they are masks.
    mask_id: id of the mask token.

  Returns:
    status: of each of the m tokens, "frozen", "kept" (clean before and after),
      "revealed", "inserted" or "mask" (before and after).
    origin: int[m], index in the previous frame; -1 for inserted tokens.

  Raises:
    InputError: the frames cannot be aligned.
  """
  previous, current = np.asarray(previous), np.asarray(current)
  frozen = np.asarray(frozen, bool)
  origin = _align(
    current == mask_id,
    may_become=(previous[:, None] == current)
    | ((previous == mask_id) & ~frozen)[:, None],
  )
  return [
    _status(token == mask_id, source, previous, frozen, mask_id)
    for token, source in zip(current, origin, strict=True)
  ], origin


def _status(
  masked: bool,
  source: int,
  previous: np.ndarray,
  frozen: np.ndarray,
  mask_id: int,
) -> str:
  """Status of a token that came from `previous[source]`, or is new if < 0."""
  if source < 0:
    return INSERTED
  if frozen[source]:
    return FROZEN
  if masked:
    return MASK
  return REVEALED if previous[source] == mask_id else KEPT


def _align(may_be_new: np.ndarray, may_become: np.ndarray) -> np.ndarray:
  """Finds where each token came from.

  Taking the first partner that fits is not enough: in `M a -> M b a` the old
  mask became b, although it also fits the mask. So what can still be completed
  is tabulated from the right before anything is chosen.

  Args:
    may_be_new: bool[m].
    may_become: bool[n, m], whether old token i can be token j.

  Returns:
    int[m], increasing apart from its -1s, which stand for new tokens.

  Raises:
    InputError: there is no alignment.
  """
  n, m = may_become.shape
  new = m - n
  _require(new >= 0, f"The frame shrinks from {n} to {m} tokens.")
  # Position j, with k new tokens before it, is old token j - k.
  old = np.arange(m)[:, None] - np.arange(new + 1)
  fits = (old >= 0) & (old < n)
  if n:
    fits &= may_become[np.clip(old, 0, n - 1), np.arange(m)[:, None]]
  # possible[j, k]: the tokens from j on can be explained. The last column is
  # the impossible case of one new token too many.
  possible = np.zeros((m + 1, new + 2), bool)
  possible[m, new] = True
  for j in reversed(range(m)):
    possible[j, :-1] = fits[j] & possible[j + 1, :-1]
    possible[j, :-1] |= may_be_new[j] & possible[j + 1, 1:]
  _require(
    possible[0, 0],
    "The frames cannot be aligned: a token vanished or changed, or a new token"
    " is no mask.",
  )
  origin, k = np.full(m, -1), 0
  for j in range(m):
    if fits[j, k] and possible[j + 1, k]:
      origin[j] = j - k
    else:
      k += 1
  return origin


def trace_document(
  frames: Frames, times: Sequence[float], render: Render | None = None
) -> dict[str, Any]:
  """Packs a sample for the page: the start, then only what each step changed.

  Args:
    frames: the sample.
    times: f[steps+1], the time of each frame, in [0, 1].
    render: how tokens are shown; by default as their numbers.

  Returns:
    JSON data: "mask" int; "times" [f]; "labels" {token: text}; "start"
    [token]; "frozen" [position]; "running" bool; "grid" (rows of "#" and ".")
    or None; and "frames", for each step 0 where nothing changed, else {"n":
    positions of new masks, "r": positions of revealed tokens, "x": these
    tokens, and "p": their chances if they are known}. Positions are those of
    the frame after the step, ascending.

  Raises:
    InputError: frames that cannot be aligned, or times of another shape.
  """
  render = render or Render()
  steps = len(frames.tokens) - 1
  _require(
    np.shape(times) == (steps + 1,),
    f"The trace has {steps + 1} frames and times of shape {np.shape(times)}:"
    " give one time a frame.",
  )
  start = frames.row(0)
  frozen = np.asarray(frames.frozen, bool)[: len(start)]
  changes: list[dict[str, list[Any]] | int] = []
  for step, (after, status, origin) in enumerate(frames.steps()):
    new = [j for j, s in enumerate(status) if s == INSERTED]
    revealed = [j for j, s in enumerate(status) if s == REVEALED]
    change: dict[str, list[Any]] = {"n": new, "r": revealed}
    change["x"] = after[revealed].tolist()
    if frames.chance is not None:
      chance = np.asarray(frames.chance)[step, origin[revealed]]
      change["p"] = [round(float(p), 4) for p in chance]
    changes.append(change if new or revealed else 0)
  used = {*start.tolist(), *(x for c in changes if c for x in c["x"])}
  walls = None if render.walls is None else np.asarray(render.walls, bool)
  return {
    "mask": int(frames.mask_id),
    "times": [round(float(t), 6) for t in times],
    "labels": {
      str(t): str(render.labels(t)) for t in sorted(used - {frames.mask_id})
    },
    "start": start.tolist(),
    "frozen": np.flatnonzero(frozen).tolist(),
    "running": bool(render.running),
    "grid": walls
    if walls is None
    else ["".join(".#"[int(wall)] for wall in row) for row in walls],
    "frames": changes,
  }


def write_trace_html(
  path: str | os.PathLike,
  title: str,
  frames: Frames | Sequence[Frames],
  times: Sequence[float],
  render: Render | None = None,
) -> None:
  """Writes a page that plays samples; `#step=12` opens it at step 12.

  The page needs no network. Its tokens take the room that the window has, and
  under them each has a row: thin from its insertion, thick from its reveal.

  Args:
    path: HTML file to write.
    title: heading of the page, plain text.
    frames: the sample, or several that are played together.
    times: f[steps+1], the time of each frame, in [0, 1].
    render: how tokens are shown; by default as their numbers.

  Raises:
    InputError: frames that cannot be aligned, times of another shape, no
      sample, or several in a maze.
  """
  if isinstance(frames, Frames):
    document = trace_document(frames, times, render)
  else:
    _require(frames, "There is no sample to play: give at least one.")
    _require(
      render is None or render.walls is None,
      "A maze is drawn of one sample: give one Frames, or no walls.",
    )
    document = {
      "samples": [
        {"name": x.name, **trace_document(x, times, render)} for x in frames
      ]
    }
  path = pathlib.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(_page(title, document), encoding="utf-8", newline="\n")


def _page(title: str, document: dict[str, Any]) -> str:
  """The HTML of a document from `trace_document`, or of several."""
  heading = html.escape(title)
  # Within a script element only "<" can end the data early, and it occurs in
  # JSON strings alone, where the escape means the same.
  data = json.dumps(document, separators=(",", ":"), allow_nan=False)
  data = data.replace("<", "\\u003c")
  parts = {"@TITLE@": heading, "@DATA@": data}
  # In one pass, so that a title cannot name the data's place.
  return re.sub("@TITLE@|@DATA@", lambda place: parts[place[0]], _TEMPLATE)


def _require(condition: object, message: str) -> None:
  if not condition:
    raise InputError(message)
