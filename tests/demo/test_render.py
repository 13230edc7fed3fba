import html
import re

import numpy as np
import pytest

from flexmdm_jax.demo import render
from flexmdm_jax.pictures.trace_html import (
  FROZEN,
  INSERTED,
  KEPT,
  MASK,
  REVEALED,
)

M, PAD = 8, 9


def row(tokens, given):
  return np.array(tokens, np.int32), np.array(given, bool)


@pytest.fixture
def growth():
  return render.Growth(*row([1, 2], [1, 1]), mask=M)


def test_each_step_is_told(growth):
  assert growth.show() == [(1, FROZEN), (2, FROZEN)]
  growth.update(*row([1, M, 2, M], [1, 0, 1, 0]))
  assert growth.show() == [
    *((1, FROZEN), (M, INSERTED), (2, FROZEN), (M, INSERTED))
  ]
  growth.update(*row([1, 5, 2, M, M], [1, 0, 1, 0, 0]))
  assert [kind for _, kind in growth.show()] == [
    *(FROZEN, REVEALED, FROZEN, MASK, INSERTED)
  ]
  growth.update(*row([1, 5, 2, M, M], [1, 0, 1, 0, 0]))
  assert [kind for _, kind in growth.show()] == [
    *(FROZEN, KEPT, FROZEN, MASK, MASK)
  ]


def test_what_was_not_shown_is_still_news(growth):
  growth.update(*row([1, M, 2], [1, 0, 1]))
  growth.update(*row([1, M, M, 2], [1, 0, 0, 1]))
  growth.update(*row([1, 5, M, 2], [1, 0, 0, 1]))
  growth.update(*row([1, 5, M, 2], [1, 0, 0, 1]))
  assert growth.show() == [
    *((1, FROZEN), (5, REVEALED), (M, INSERTED), (2, FROZEN))
  ]


def test_tokens_that_are_taken_back_need_no_alignment(growth):
  growth.update(*row([1, 5, 6, 2], [1, 0, 0, 1]))
  growth.update(*row([1, M, 2], [1, 0, 1]))
  assert growth.show() == [(1, FROZEN), (M, MASK), (2, FROZEN)]


def test_what_is_no_text_is_hidden():
  growth = render.Growth(*row([3, 1, 4], [1, 1, 1]), mask=M, hidden=(0, 2))
  growth.update(*row([3, 1, 4, M], [1, 1, 1, 0]))
  assert growth.show() == [(1, FROZEN), (M, INSERTED)]


HOSTILE = "<script>x()</script><img src=x onerror='x()'>\"&amp;\u202e${1}{{1}}"


def test_markup_is_text():
  card = render.sample(
    [(1, FROZEN), (2, KEPT), (M, MASK), (PAD, KEPT)],
    {1: HOSTILE, 2: "  b", PAD: ""}.get,
    lambda ids: None,
    PAD,
    note=HOSTILE,
  )
  pages = [
    card,
    render.problem(HOSTILE),
    render.message(HOSTILE),
    render.scores([HOSTILE], [3], [2.0], [0.5], HOSTILE),
  ]
  for page in pages:
    tags = set(re.findall(r"<\s*([\w]*)", page))
    assert tags <= {"div", "span", "table", "tr", "th", "td", ""}
    assert HOSTILE in html.unescape(page)
  # Spaces stay outside of a token's frame, and each kind has its look.
  assert '  <span class="fx-kept">b</span>' in card
  assert '<span class="fx-mask">·</span><span class="fx-end">' in card
  for kind in (FROZEN, KEPT, REVEALED, INSERTED, MASK):
    assert f".fx-{kind} " in render.CSS
    assert f"fx-{kind}" in render.legend()


def test_a_character_of_several_tokens_is_one():
  def decode(ids):
    return bytes(ids).decode("utf-8", "replace")

  def label(token):
    return decode([token])

  shown = [(token, KEPT) for token in "aé".encode()]
  card = render.sample(shown, label, decode, PAD, "")
  assert '<span class="fx-kept">é</span>' in card


def test_scores_are_in_nats_and_bits():
  page = render.scores(
    ["a b", ""], [2, 0], [2 * np.log(2), 0.5], [np.log(2), 0.0], "note"
  )
  cells = re.findall(r"<td>([^<]*)</td>", page)
  assert cells == ["2", "1.39 ± 0.69", "1.00 ± 0.50", "0", "0.50", "none"]
