"""Samples and scores as HTML. All text in it is escaped: it is only text."""

import html
import itertools
import math
from collections.abc import Callable, Sequence

import numpy as np

from flexmdm_jax.errors import InputError
from flexmdm_jax.pictures.trace_html import (
  FROZEN,
  INSERTED,
  KEPT,
  MASK,
  REVEALED,
  token_status,
)

# What a mask looks like; others are words.
_SIGNS = {INSERTED: "+", MASK: "·"}
_LEGEND = {
  FROZEN: ("given", "was given, and stays"),
  INSERTED: (_SIGNS[INSERTED], "place just inserted"),
  MASK: (_SIGNS[MASK], "place that waits"),
  REVEALED: ("word", "just revealed"),
  KEPT: ("word", "revealed before"),
}
_BROKEN = "\N{REPLACEMENT CHARACTER}"

# Okabe and Ito's orange and blue. In grey they still differ: by weight, frame,
# sign and line.
CSS = """
.fx {--fx-paper: #fff; --fx-ink: #1b1f24; --fx-soft: #57606a;
  --fx-line: #c9d1d9; --fx-given: #e6e8eb; --fx-new: #fbe3b0;
  --fx-frame: #b87700; --fx-blue: #0067a3; --fx-word: #cfe8f7;
  color: var(--fx-ink); font-size: 1rem}
.dark .fx {--fx-paper: #161b22; --fx-ink: #e6edf3; --fx-soft: #9aa4af;
  --fx-line: #444c56; --fx-given: #343b45; --fx-new: #5b430f;
  --fx-frame: #e69f00; --fx-blue: #56b4e9; --fx-word: #12405c}
.fx * {color: inherit}
.fx-legend {display: flex; flex-wrap: wrap; gap: .3rem 1.4rem}
.fx-legend > span {white-space: nowrap}
.fx .fx-soft {color: var(--fx-soft); font-size: .875rem}
.fx-sample {border: 1px solid var(--fx-line); border-radius: 8px;
  background: var(--fx-paper); padding: .7rem 1rem; margin: 0 0 .7rem}
.fx-text {white-space: pre-wrap; overflow-wrap: anywhere; font-size: 1.25rem;
  line-height: 1.9; min-height: 1.9em; margin-top: .15rem}
.fx-text span, .fx-legend b {unicode-bidi: isolate; font-weight: 400;
  border-radius: 4px; padding: .08em .16em; margin: 0 .02em}
.fx .fx-frozen {font-weight: 700; background: var(--fx-given)}
.fx .fx-kept {border-bottom: 1px dotted var(--fx-blue); border-radius: 0}
.fx .fx-revealed {background: var(--fx-word); border-radius: 4px 4px 0 0;
  border-bottom: 3px solid var(--fx-blue)}
.fx .fx-inserted, .fx .fx-mask {display: inline-block; min-width: 1.3em;
  text-align: center; line-height: 1.25; padding: 0}
.fx .fx-inserted {background: var(--fx-new); font-weight: 700;
  border: 2px solid var(--fx-frame)}
.fx .fx-mask {border: 1px dashed var(--fx-soft); color: var(--fx-soft)}
.fx .fx-end {color: var(--fx-soft)}
.fx-bar {height: 10px; background: var(--fx-line); border-radius: 5px}
.fx-bar > div {height: 10px; border-radius: 5px; background: var(--fx-blue)}
.fx-error {border: 2px solid #b3261e; border-radius: 8px; padding: .7rem 1rem;
  overflow-wrap: anywhere}
.fx table {border-collapse: collapse; width: 100%}
.fx th, .fx td {border-bottom: 1px solid var(--fx-line); padding: .45rem .7rem;
  text-align: right; vertical-align: top; font-variant-numeric: tabular-nums}
.fx th:first-child, .fx td:first-child {text-align: left; width: 99%;
  white-space: pre-wrap; overflow-wrap: anywhere; unicode-bidi: isolate}
.fx th, .fx td {white-space: nowrap}
"""


class Growth:
  """One sample as it grows, and what became of its tokens since it was shown.

  Attributes:
    tokens: its ids now, int[n].
  """

  def __init__(
    self,
    tokens: np.ndarray,
    given: np.ndarray,
    mask: int,
    hidden: Sequence[int] = (),
  ):
    """Begins with what is given.

    Args:
      tokens: the ids at time 0, int[n].
      given: those that were given, bool[n].
      mask: id of the mask.
      hidden: indices, among the given tokens, of those that are no text.
    """
    self._mask, self._hidden = mask, [*hidden]
    self.tokens, self._given = np.asarray(tokens), np.asarray(given, bool)
    self._news = self._plain()

  def update(self, tokens: np.ndarray, given: np.ndarray) -> None:
    """Notes the next state.

    Args:
      tokens: its ids, int[n].
      given: those that were given, bool[n].
    """
    before, news = self.tokens, self._news
    frozen = self._given
    self.tokens, self._given = np.asarray(tokens), np.asarray(given, bool)
    try:
      status, origin = token_status(before, self.tokens, frozen, self._mask)
    except InputError:
      # Corrections take tokens back: what became of which cannot be told.
      self._news = self._plain()
      return
    # What happened in steps that were not shown is still news.
    same = {(KEPT, REVEALED): REVEALED, (MASK, INSERTED): INSERTED}
    self._news = [
      same.get((now, news[source] if source >= 0 else None), now)
      for now, source in zip(status, origin, strict=True)
    ]

  def show(self) -> list[tuple[int, str]]:
    """Lists each token that is text with its status, and forgets the news."""
    hidden = np.flatnonzero(self._given)[self._hidden].tolist()
    pairs = zip(self.tokens.tolist(), self._news, strict=True)
    shown = [pair for i, pair in enumerate(pairs) if i not in hidden]
    self._news = self._plain()
    return shown

  def _plain(self) -> list[str]:
    """Lists the status of tokens to which nothing happened."""
    masked = self.tokens == self._mask
    plain = np.where(self._given, FROZEN, np.where(masked, MASK, KEPT))
    return plain.tolist()


def legend() -> str:
  """Makes the legend of the signs."""
  told = "".join(
    f'<span><b class="fx-{kind}">{sign}</b> {meaning}</span>'
    for kind, (sign, meaning) in _LEGEND.items()
  )
  return f'<div class="fx fx-legend">{told}</div>'


def sample(
  shown: Sequence[tuple[int, str]],
  label: Callable[[int], str],
  decode: Callable[[list[int]], str | None],
  pad: int,
  note: str,
  between: str = "",
) -> str:
  """Makes the card of one sample.

  Args:
    shown: tokens with their status, of `Growth.show`.
    label: text of a token.
    decode: text of several, or None; for characters of more than one token.
    pad: id that stands for no token.
    note: what is said above it.
    between: what parts tokens.
  """
  words = []
  # A character may be of several tokens, none of which is one.
  groups = itertools.groupby(
    shown, key=lambda x: (x[1], x[1] not in _SIGNS and _BROKEN in label(x[0]))
  )
  for (kind, broken), group in groups:
    ids = [token for token, _ in group]
    if broken:
      words.append(_word(kind, decode(ids) or _BROKEN))
      continue
    for token in ids:
      if kind in _SIGNS:
        words.append(_word(kind, _SIGNS[kind]))
      elif token == pad:
        words.append(_word("end", "∅"))
      else:
        words.append(_word(kind, label(token)))
  return (
    f'<div class="fx fx-sample"><div class="fx-soft">{html.escape(note)}</div>'
    f'<div class="fx-text" dir="auto">{between.join(words)}</div></div>'
  )


def _word(kind: str, text: str) -> str:
  """Makes one token; spaces before it are left outside of its frame."""
  bare = text.lstrip(" ") or text
  space = text[: len(text) - len(bare)]
  return f'{space}<span class="fx-{kind}">{html.escape(bare)}</span>'


def scores(
  texts: Sequence[str],
  tokens: Sequence[int],
  nats: Sequence[float],
  errors: Sequence[float],
  note: str,
) -> str:
  """Makes the table of what texts cost.

  Args:
    texts: the texts.
    tokens: their numbers of tokens.
    nats: `-log p` of each, or a bound on it.
    errors: standard error of each, nats.
    note: what is said below it.
  """
  bits = [
    (x / n / math.log(2), e / n / math.log(2)) if n else None
    for x, e, n in zip(nats, errors, tokens, strict=True)
  ]
  most = max((x[0] for x in bits if x), default=1.0) or 1.0
  rows = []
  for text, n, nat, error, bit in zip(
    texts, tokens, nats, errors, bits, strict=True
  ):
    share = 100 * max(bit[0], 0) / most if bit else 0
    rows.append(
      f"<tr><td>{html.escape(text)}"
      f'<div class="fx-bar"><div style="width: {share:.0f}%"></div></div></td>'
      f"<td>{n}</td><td>{_number(nat, error)}</td>"
      f"<td>{_number(*bit) if bit else 'none'}</td></tr>"
    )
  return (
    '<div class="fx fx-sample"><table><tr><th>text</th><th>tokens</th>'
    "<th>-log p, nats</th><th>bits per token</th></tr>"
    f"{''.join(rows)}</table>"
    f'<div class="fx-soft">{html.escape(note)}</div></div>'
  )


def _number(value: float, error: float) -> str:
  """Writes a number with its standard error."""
  return f"{value:.2f} ± {error:.2f}" if error else f"{value:.2f}"


def message(text: str) -> str:
  """Makes a line for one who waits."""
  return f'<div class="fx fx-sample fx-soft">{html.escape(text)}</div>'


def problem(text: str) -> str:
  """Makes a line that says what cannot be done."""
  return f'<div class="fx fx-error" role="alert">{html.escape(text)}</div>'
