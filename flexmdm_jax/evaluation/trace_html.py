"""A page that plays one sample step by step: one HTML file, no network.

Between two frames of a sample some masks are revealed and then new masks are
inserted. The frames do not say which tokens are the same, so the alignment is
found here; the page only replays it, and a token keeps its identity while it
moves.
"""

import dataclasses
import html
import json
import os
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from flexmdm_jax.errors import InputError

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

  Raises:
    InputError: shapes disagree, or a length is not in [0, L].
  """

  tokens: np.ndarray
  length: np.ndarray
  frozen: np.ndarray
  mask_id: int

  def __post_init__(self):
    shapes = [np.shape(a) for a in (self.tokens, self.length, self.frozen)]
    _require(
      len(shapes[0]) == 2 and shapes[1:] == [shapes[0][:1], shapes[0][1:]],
      f"Frames has tokens {shapes[0]}, length {shapes[1]} and frozen"
      f" {shapes[2]}: their shapes must be [steps+1, L], [steps+1] and [L].",
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


@dataclasses.dataclass(frozen=True)
class Render:
  """How tokens are shown.

  Attributes:
    labels: text of a token; masks are drawn, not labelled.
    walls: bool[rows, columns], True where there is a wall, or None. With a
      grid, a token is the cell row * columns + column, and the path is drawn
      in a second panel; tokens that are no cell are left out there.
  """

  labels: Callable[[int], str] = str
  walls: np.ndarray | None = None


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
    [token]; "frozen" [position]; "grid" (rows of "#" and ".") or None; and
    "frames", for each step 0 where nothing changed, else {"n": positions of
    new masks, "r": positions of revealed tokens, "x": these tokens}. Positions
    are those of the frame after the step, ascending.

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
  changes: list[dict[str, list[int]] | int] = []
  before, fixed = start, frozen
  for step in range(1, steps + 1):
    after = frames.row(step)
    try:
      status, origin = token_status(before, after, fixed, frames.mask_id)
    except InputError as error:
      raise InputError(f"Step {step}: {error}") from error
    new = [j for j, s in enumerate(status) if s == INSERTED]
    revealed = [j for j, s in enumerate(status) if s == REVEALED]
    changes.append(
      {"n": new, "r": revealed, "x": after[revealed].tolist()}
      if new or revealed
      else 0
    )
    before, fixed = after, np.append(fixed, False)[origin]
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
    "grid": walls
    if walls is None
    else ["".join(".#"[int(wall)] for wall in row) for row in walls],
    "frames": changes,
  }


def write_trace_html(
  path: str | os.PathLike,
  title: str,
  frames: Frames,
  times: Sequence[float],
  render: Render | None = None,
) -> None:
  """Writes a page that plays a sample; `#step=12` opens it at step 12.

  Args:
    path: HTML file to write.
    title: heading of the page, plain text.
    frames: the sample.
    times: f[steps+1], the time of each frame, in [0, 1].
    render: how tokens are shown; by default as their numbers.

  Raises:
    InputError: frames that cannot be aligned, or times of another shape.
  """
  document = trace_document(frames, times, render)
  path = pathlib.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(_page(title, document), encoding="utf-8", newline="\n")


def _page(title: str, document: dict[str, Any]) -> str:
  """The HTML of a document from `trace_document`."""
  heading = html.escape(title)
  # Within a script element only "<" can end the data early, and it occurs in
  # JSON strings alone, where the escape means the same.
  data = json.dumps(document, separators=(",", ":"), allow_nan=False)
  data = data.replace("<", "\\u003c")
  return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; \
style-src 'unsafe-inline'; script-src 'unsafe-inline'; base-uri 'none'; \
form-action 'none'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{heading}</title>
<style>{_STYLE}</style>
</head>
<body>
<header>
<h1>{heading}</h1>
{_FACTS}
</header>
{_BODY}
<script type="application/json" id="trace">{data}</script>
<script>{_SCRIPT}</script>
</body>
</html>
"""


def _require(condition: object, message: str) -> None:
  if not condition:
    raise InputError(message)


_STYLE = """
:root {
  --page: #f6f5f2; --panel: #ffffff; --ink: #20242c; --muted: #626a78;
  --line: #e2e0da; --focus: #0072b2;
  --frozen: #2b303b; --on-frozen: #ffffff;
  --kept: #dcebf5; --on-kept: #16384d; --trail: #86bbdc;
  --revealed: #0072b2; --on-revealed: #ffffff;
  --inserted: #fdecc4; --on-inserted: #6b4500; --inserted-edge: #d98e00;
  --mask-edge: #a3aab6; --mask-fill: #f3f3f1;
  --wall: #3a404a; --floor: #f8f7f4; --fault: #d4003c;
  font: 15px/1.45 system-ui, -apple-system, "Segoe UI", Roboto, Helvetica,
    Arial, sans-serif;
  color: var(--ink); background: var(--page);
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #121419; --panel: #1a1d24; --ink: #e7e9ee; --muted: #9aa2b1;
    --line: #2c313b; --focus: #6cbdf0;
    --frozen: #e4e7ee; --on-frozen: #15171c;
    --kept: #1f3a4d; --on-kept: #d5eaf7; --trail: #2f6f99;
    --revealed: #5bb5ec; --on-revealed: #06202f;
    --inserted: #46350d; --on-inserted: #ffdf9b; --inserted-edge: #e6a92a;
    --mask-edge: #667080; --mask-fill: #20242c;
    --wall: #090a0d; --floor: #2b303a; --fault: #ff5c7f;
  }
}
* { box-sizing: border-box; }
[hidden] { display: none !important; }
body {
  margin: 0 auto; min-height: 100vh; max-width: 1280px; padding: 0 24px;
  display: flex; flex-direction: column;
}
header {
  display: flex; flex-wrap: wrap; align-items: baseline; gap: 4px 32px;
  justify-content: space-between; padding: 22px 0 14px;
}
h1 { font-size: 20px; font-weight: 650; margin: 0; overflow-wrap: anywhere; }
.facts { display: flex; gap: 26px; margin: 0; }
.facts div { display: flex; align-items: baseline; gap: 7px; }
.facts dt { color: var(--muted); font-size: 13px; }
.facts dd {
  margin: 0; font-weight: 650; font-size: 17px;
  font-variant-numeric: tabular-nums;
}
.facts small { color: var(--muted); font-weight: 400; font-size: 13px; }

.stage {
  flex: 1; display: grid; gap: 16px; align-items: stretch;
  grid-template-columns: minmax(0, 1fr);
}
.stage.two { grid-template-columns: minmax(0, 1fr) minmax(0, 1fr); }
.panel {
  background: var(--panel); border: 1px solid var(--line);
  border-radius: 14px; padding: 18px; margin: 0;
}
#tokens {
  list-style: none; margin: 0; padding: 0; display: flex; flex-wrap: wrap;
  align-content: flex-start; gap: 6px;
}
#tokens:empty::before {
  content: "empty string"; color: var(--muted); font-style: italic;
}
.chip {
  display: inline-flex; align-items: center; justify-content: center;
  height: 28px; min-width: 26px; padding: 0 7px; border-radius: 7px;
  border: 1.5px solid transparent; white-space: pre; max-width: 100%;
  overflow: hidden;
  font: 13px/1 ui-monospace, SFMono-Regular, Menlo, Consolas,
    "DejaVu Sans Mono", monospace;
}
.dense .chip { height: 22px; min-width: 20px; padding: 0 5px; font-size: 11px; }
.dense #tokens { gap: 4px; }
.frozen {
  background: var(--frozen); color: var(--on-frozen); font-weight: 700;
}
.kept { background: var(--kept); color: var(--on-kept); }
.revealed { background: var(--revealed); color: var(--on-revealed); }
.inserted {
  background: var(--inserted); color: var(--on-inserted);
  border: 1.5px dashed var(--inserted-edge);
}
.mask { background: var(--mask-fill); border: 1.5px dashed var(--mask-edge); }
.inserted::before { content: "+"; font-weight: 700; }
.mask::before {
  content: ""; width: 4px; height: 4px; border-radius: 2px;
  background: var(--mask-edge);
}

.maze { display: flex; align-items: flex-start; justify-content: center; }
.maze svg {
  width: 100%; max-height: calc(100vh - 300px); min-height: 240px;
  position: sticky; top: 18px;
}
.maze rect { fill: var(--floor); }
.maze .walls { fill: var(--wall); }
.maze line { stroke-linecap: round; stroke: var(--trail); stroke-width: .36; }
.maze line.thread {
  stroke: var(--muted); stroke-width: .1; stroke-dasharray: .01 .32;
}
.maze line.fault {
  stroke: var(--fault); stroke-width: .16; stroke-dasharray: .4 .35;
  stroke-linecap: butt;
}
.maze circle.kept { fill: var(--trail); }
.maze circle.revealed { fill: var(--revealed); }
.maze circle.frozen { fill: var(--frozen); stroke: var(--floor);
  stroke-width: .12; }
.maze circle.wall { fill: var(--fault); }
.maze text {
  fill: var(--on-frozen); font-weight: 700; text-anchor: middle;
  dominant-baseline: central;
}
.maze .ring { fill: none; stroke: var(--inserted-edge); stroke-width: .2; }

.deck {
  position: sticky; bottom: 0; padding: 18px 0;
  background: linear-gradient(transparent, var(--page) 16px);
}
.timeline { position: relative; padding: 0 9px; height: 54px; }
.timeline svg { width: 100%; height: 100%; display: block; overflow: visible; }
.timeline .masks { fill: var(--mask-edge); opacity: .35; }
.timeline .clean { fill: var(--trail); }
.timeline line {
  stroke: var(--ink); stroke-width: 1.5; vector-effect: non-scaling-stroke;
}
.timeline p {
  position: absolute; left: 17px; top: 0; margin: 0; font-size: 12px;
  color: var(--muted); pointer-events: none; line-height: 1.2;
}
input[type=range] {
  appearance: none; width: 100%; height: 20px; margin: 0; display: block;
  background: transparent; cursor: pointer;
}
input[type=range]::-webkit-slider-runnable-track {
  height: 4px; border-radius: 2px; background: var(--line);
}
input[type=range]::-moz-range-track {
  height: 4px; border-radius: 2px; background: var(--line);
}
input[type=range]::-webkit-slider-thumb {
  appearance: none; width: 18px; height: 18px; margin-top: -7px;
  border-radius: 50%; background: var(--ink); border: 3px solid var(--page);
}
input[type=range]::-moz-range-thumb {
  width: 12px; height: 12px; border-radius: 50%; background: var(--ink);
  border: 3px solid var(--page);
}
.controls {
  display: flex; flex-wrap: wrap; align-items: center; gap: 10px 22px;
  padding: 8px 9px 0;
}
.buttons { display: flex; gap: 8px; align-items: center; }
button {
  width: 40px; height: 40px; border-radius: 50%; cursor: pointer;
  border: 1px solid var(--line); background: var(--panel); color: var(--ink);
  display: grid; place-items: center; padding: 0;
}
button:hover { border-color: var(--muted); }
button.main {
  width: 48px; height: 48px; background: var(--ink); color: var(--page);
  border-color: var(--ink);
}
button svg { width: 18px; height: 18px; fill: currentColor; }
[data-playing] .i-play, :not([data-playing]) > .i-pause { display: none; }
label { color: var(--muted); font-size: 13px; }
label input { vertical-align: -2px; margin: 0 4px 0 0; }
select {
  font: inherit; color: var(--ink); background: var(--panel);
  border: 1px solid var(--line); border-radius: 8px; padding: 4px 8px;
  margin-left: 6px;
}
:focus-visible { outline: 2.5px solid var(--focus); outline-offset: 2px; }
.legend {
  list-style: none; display: flex; flex-wrap: wrap; gap: 6px 18px;
  margin: 0 0 0 auto; padding: 0; font-size: 13px; color: var(--muted);
}
.legend li { display: flex; align-items: center; gap: 7px; }
.legend .chip { height: 20px; min-width: 20px; padding: 0; font-size: 12px; }
.legend b {
  color: var(--ink); font-weight: 650; min-width: 3ch;
  font-variant-numeric: tabular-nums;
}
.hidden {
  position: absolute; width: 1px; height: 1px; overflow: hidden;
  clip-path: inset(50%);
}
@media (max-width: 760px) {
  body { padding: 0 14px; }
  .stage.two { grid-template-columns: minmax(0, 1fr); }
  .maze { order: -1; }
  .maze svg { position: static; max-height: 46vh; }
  .legend { margin-left: 0; }
}
"""

_FACTS = """<dl class="facts">
<div><dt>step</dt><dd><span id="step"></span> <small id="of"></small></dd></div>
<div><dt>time</dt><dd id="time"></dd></div>
<div><dt>length</dt><dd id="length"></dd></div>
</dl>"""

_BODY = """<main class="stage" id="stage">
<section class="panel" aria-label="Tokens"><ol id="tokens"></ol></section>
<figure class="panel maze" id="maze" hidden>
<svg role="img" aria-label="Maze with the path so far">
<rect></rect><path class="walls"></path><g></g>
<circle class="ring" r=".75" visibility="hidden"></circle>
</svg>
</figure>
</main>
<section class="deck" aria-label="Playback">
<div class="timeline">
<svg id="chart" preserveAspectRatio="none" aria-hidden="true">
<path class="masks"></path><path class="clean"></path><line y1="0"></line>
</svg>
<p id="peak"></p>
</div>
<input type="range" id="slider" min="0" step="1" value="0" aria-label="Step">
<div class="controls">
<div class="buttons">
<button id="back" aria-label="Step back" title="Step back (left arrow)">
<svg viewBox="0 0 18 18" aria-hidden="true"><path d="M3 3h2.5v12H3zM15 3v12
L6.5 9z"/></svg></button>
<button id="play" class="main" aria-label="Play" title="Play or pause (space)">
<svg class="i-play" viewBox="0 0 18 18" aria-hidden="true"><path
d="M5 2.5v13L15.5 9z"/></svg>
<svg class="i-pause" viewBox="0 0 18 18" aria-hidden="true"><path
d="M4 3h3.5v12H4zM10.5 3H14v12h-3.5z"/></svg></button>
<button id="forward" aria-label="Step forward"
title="Step forward (right arrow)">
<svg viewBox="0 0 18 18" aria-hidden="true"><path d="M12.500 3H15v12h-2.5zM3 3
v12l8.500-6z"/></svg></button>
</div>
<label>Speed<select id="speed" title="Steps a second"></select></label>
<label><input type="checkbox" id="skip">skip idle steps</label>
<ul class="legend" id="legend" aria-label="Tokens by status"></ul>
</div>
</section>
<p class="hidden" id="said" aria-live="polite"></p>
<noscript><p>This page plays a sample with JavaScript.</p></noscript>"""

_SCRIPT = """
"use strict";
const data = JSON.parse(document.getElementById("trace").textContent);
const last = data.frames.length;
const el = (id) => document.getElementById(id);
const list = el("tokens"), slider = el("slider"), play = el("play");
const still = matchMedia("(prefers-reduced-motion: reduce)");
const statuses = ["frozen", "kept", "revealed", "inserted", "mask"];

// The state is a list of tokens. A token's key follows from its birth, so that
// it is the same in every replay.
function begin() {
  const frozen = new Set(data.frozen);
  return data.start.map((token, i) => (
    {key: "0." + i, token, frozen: frozen.has(i), born: 0, shown: 0}));
}

function advance(tokens, step) {
  const change = data.frames[step - 1];
  if (!change) return;
  change.n.forEach((at, i) => tokens.splice(at, 0, {
    key: step + "." + i, token: data.mask, frozen: false, born: step, shown: 0,
  }));
  change.r.forEach((at, i) => {
    tokens[at].token = change.x[i];
    tokens[at].shown = step;
  });
}

function status(it) {
  if (it.frozen) return "frozen";
  const fresh = (step) => step > 0 && step === now;
  if (it.token === data.mask) return fresh(it.born) ? "inserted" : "mask";
  return fresh(it.shown) ? "revealed" : "kept";
}

// Chips.
const chips = new Map();
const visible = (text) => text.replace(/\\n/g, "\\u21b5")
  .replace(/\\t/g, "\\u21e5") || "\\u2205";

function label(it) {
  return it.token === data.mask ? "" : visible(data.labels[it.token]);
}

function paint(it, position) {
  const chip = chips.get(it.key) || document.createElement("li");
  chips.set(it.key, chip);
  const kind = status(it), text = label(it);
  chip.className = "chip " + kind;
  if (chip.textContent !== text) chip.textContent = text;
  chip.setAttribute("aria-label", (kind + " " + text).trim());
  chip.title = "position " + position + (it.frozen ? ", frozen" : "")
    + (it.born > 0 ? ", inserted at step " + it.born : "")
    + (it.shown > 0 ? ", revealed at step " + it.shown : "");
  chip.dataset.token = it.token;
  return chip;
}

function spot(chip) {
  return {x: chip.offsetLeft, y: chip.offsetTop};
}

function drawTokens(duration) {
  const before = new Map();
  if (duration) for (const [key, chip] of chips) before.set(key, spot(chip));
  list.replaceChildren(...tokens.map(paint));
  const alive = new Set(tokens.map((it) => it.key));
  for (const key of chips.keys()) if (!alive.has(key)) chips.delete(key);
  if (!duration) return;
  const places = tokens.map((it) => spot(chips.get(it.key)));
  tokens.forEach((it, i) => {
    const from = before.get(it.key), to = places[i], chip = chips.get(it.key);
    const kind = status(it);
    if (!from) {
      chip.animate({opacity: [0, 1], transform: ["scale(.3)", "none"]},
        {duration, easing: "cubic-bezier(.3, 1.5, .6, 1)"});
    } else if (from.x !== to.x || from.y !== to.y) {
      chip.animate({transform: [
        `translate(${from.x - to.x}px, ${from.y - to.y}px)`, "none"]},
        {duration, easing: "ease-out"});
    } else if (kind === "revealed") {
      chip.animate({transform: ["scale(1.25)", "none"]},
        {duration, easing: "ease-out"});
    }
  });
}

// Maze. Elements inherit the namespace of the page's own svg.
const figure = el("maze"), svg = figure.querySelector("svg");
const rows = data.grid ? data.grid.length : 0;
const columns = rows ? data.grid[0].length : 0;

function shape(name, attributes, text) {
  const node = document.createElementNS(svg.namespaceURI, name);
  for (const key in attributes) node.setAttribute(key, attributes[key]);
  if (text) node.textContent = text;
  return node;
}

function cellOf(token) {
  if (!(token >= 0 && token < rows * columns) || token === data.mask) {
    return null;
  }
  const y = Math.floor(token / columns), x = token % columns;
  return {x: x + .5, y: y + .5, wall: data.grid[y][x] === "#"};
}

function drawWalls() {
  if (!rows) return;
  figure.hidden = false;
  el("stage").classList.add("two");
  svg.setAttribute("viewBox", `0 0 ${columns} ${rows}`);
  const floor = svg.querySelector("rect");
  floor.setAttribute("width", columns);
  floor.setAttribute("height", rows);
  const walls = [];
  data.grid.forEach((row, y) => {
    for (const run of row.matchAll(/#+/g)) {
      const wide = run[0].length;
      walls.push(`M${run.index} ${y}h${wide}v1h${-wide}z`);
    }
  });
  svg.querySelector(".walls").setAttribute("d", walls.join(""));
}

function drawPath() {
  if (!rows) return;
  const lines = [], dots = [], goals = [];
  const add = (group, node, top) =>
    top ? group.push(node) : group.unshift(node);
  let from = null, joined = false, number = 0;
  for (const it of tokens) {
    const cell = cellOf(it.token);
    if (!cell) { joined = false; continue; }
    if (from) {
      const near = Math.abs(cell.x - from.x) + Math.abs(cell.y - from.y) === 1;
      const legal = joined && near && !cell.wall && !from.wall;
      // Before the end a missing link may still be filled in.
      const kind = legal ? "" : now === last ? "fault" : "thread";
      const line = shape("line", {
        class: kind, x1: from.x, y1: from.y, x2: cell.x, y2: cell.y});
      add(lines, line, kind);
    }
    const kind = status(it), at = {cx: cell.x, cy: cell.y};
    const radius = {frozen: .62, revealed: .34}[kind] || .18;
    add(it.frozen ? goals : dots, shape("circle", {
      class: cell.wall ? "wall" : kind, r: radius, ...at}), kind !== "kept");
    if (it.frozen) {
      number += 1;
      goals.push(shape("text", {
        x: cell.x, y: cell.y, "font-size": number > 9 ? .66 : .84}, number));
    }
    from = cell;
    joined = true;
  }
  svg.querySelector("g").replaceChildren(...lines, ...dots, ...goals);
}

function point(event) {
  const chip = event.target.closest(".chip");
  const cell = chip && rows ? cellOf(Number(chip.dataset.token)) : null;
  const ring = svg.querySelector(".ring");
  ring.setAttribute("visibility", cell ? "visible" : "hidden");
  if (cell) {
    ring.setAttribute("cx", cell.x);
    ring.setAttribute("cy", cell.y);
  }
}

// Timeline: how many tokens there are, and how many are clean.
function drawChart() {
  let size = data.start.length;
  let clean = data.start.filter((token) => token !== data.mask).length;
  const sizes = [size], cleans = [clean];
  for (const change of data.frames) {
    if (change) {
      size += change.n.length;
      clean += change.r.length;
    }
    sizes.push(size);
    cleans.push(clean);
  }
  const peak = Math.max(1, ...sizes), wide = Math.max(1, last);
  const line = (ys) => ys.map((y, x) => `L${x} ${peak - y}`);
  const area = (top, base) =>
    "M" + [...line(top), ...line(base).reverse()].join("").slice(1) + "z";
  const chart = el("chart");
  chart.setAttribute("viewBox", `0 0 ${wide} ${peak}`);
  chart.querySelector(".masks").setAttribute("d", area(sizes, cleans));
  chart.querySelector(".clean").setAttribute(
    "d", area(cleans, cleans.map(() => 0)));
  chart.querySelector("line").setAttribute("y2", peak);
  el("peak").textContent = `clean and masked tokens, ${size} at the end`;
  if (peak > 160) el("stage").classList.add("dense");
}

// The legend counts the tokens of each status.
function makeLegend() {
  el("legend").replaceChildren(...statuses.map((kind) => {
    const item = document.createElement("li");
    const chip = document.createElement("span");
    const count = document.createElement("b");
    chip.className = "chip " + kind;
    chip.setAttribute("aria-hidden", "true");
    count.id = "count-" + kind;
    item.append(chip, kind, count);
    return item;
  }));
}

function drawFacts() {
  const counts = Object.fromEntries(statuses.map((kind) => [kind, 0]));
  for (const it of tokens) counts[status(it)] += 1;
  for (const kind of statuses) el("count-" + kind).textContent = counts[kind];
  const time = data.times[now].toFixed(3);
  el("step").textContent = now;
  el("of").textContent = "of " + last;
  el("time").textContent = time;
  el("length").textContent = tokens.length;
  slider.value = now;
  const words = `step ${now} of ${last}, time ${time}, `
    + `length ${tokens.length}, ${counts.revealed} revealed, `
    + `${counts.inserted} inserted`;
  slider.setAttribute("aria-valuetext", words);
  if (!timer) el("said").textContent = words;
  const playhead = el("chart").querySelector("line");
  playhead.setAttribute("x1", now);
  playhead.setAttribute("x2", now);
}

// Playback.
let now = 0, tokens = begin(), timer = 0, saving = 0;

function go(step) {
  step = Math.min(last, Math.max(0, step));
  const single = Math.abs(step - now) === 1;
  const pace = timer ? interval() : 400;
  if (step < now) {
    tokens = begin();
    now = 0;
  }
  while (now < step) advance(tokens, ++now);
  drawTokens(single && !still.matches && pace > 50
    ? Math.min(260, .8 * pace) : 0);
  drawPath();
  drawFacts();
  clearTimeout(saving);
  if (!timer) {
    // Browsers refuse frequent changes of the address.
    saving = setTimeout(() => history.replaceState(null, "", "#step=" + now),
      300);
  }
}

const interval = () => 1000 / Number(el("speed").value);

function pause() {
  clearTimeout(timer);
  timer = 0;
  delete play.dataset.playing;
  play.setAttribute("aria-label", "Play");
}

function tick() {
  let step = now + 1;
  if (el("skip").checked) {
    while (step < last && !data.frames[step - 1]) step += 1;
  }
  if (step >= last) pause();
  else timer = setTimeout(tick, interval());
  go(step);
}

function toggle() {
  if (timer) {
    pause();
    go(now);
    return;
  }
  play.dataset.playing = "";
  play.setAttribute("aria-label", "Pause");
  timer = -1;
  if (now === last) go(0);
  timer = setTimeout(tick, 150);
}

function seek(step) {
  pause();
  go(step);
}

function fromAddress() {
  const match = /step=(\\d+)/.exec(location.hash);
  if (match) seek(Number(match[1]));
}

function makeSpeeds() {
  const speeds = [1, 2, 5, 10, 20, 50];
  // By default a sample takes about a quarter of a minute.
  const usual = speeds.find((speed) => last / speed <= 16) || 50;
  el("speed").replaceChildren(...speeds.map((speed) => {
    const option = new Option(speed + " / s", speed);
    option.selected = speed === usual;
    return option;
  }));
}

const keys = {
  ArrowRight: () => seek(now + 1), ArrowLeft: () => seek(now - 1),
  ArrowUp: () => seek(now + 1), ArrowDown: () => seek(now - 1),
  Home: () => seek(0), End: () => seek(last), " ": toggle,
};
document.addEventListener("keydown", (event) => {
  const on = event.target.tagName, act = keys[event.key];
  if (!act || event.ctrlKey || event.metaKey || event.altKey) return;
  // These have their own use for the keys.
  if (on === "SELECT" || (event.key === " " && event.target.matches(
    "button, input[type=checkbox]"))) return;
  event.preventDefault();
  act();
});
play.addEventListener("click", toggle);
el("back").addEventListener("click", () => seek(now - 1));
el("forward").addEventListener("click", () => seek(now + 1));
slider.addEventListener("input", () => seek(Number(slider.value)));
list.addEventListener("pointerover", point);
list.addEventListener("pointerleave", point);
addEventListener("hashchange", fromAddress);

slider.max = last;
makeSpeeds();
makeLegend();
drawWalls();
drawChart();
go(0);
fromAddress();
"""
