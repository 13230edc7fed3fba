"""The page that plays a sample: its alignment, its data and its safety."""

import dataclasses
import html.parser
import itertools
import json
import re

import numpy as np
import pytest

from flexmdm_jax.errors import InputError
from flexmdm_jax.pictures.trace_html import (
  Frames,
  Render,
  token_status,
  trace_document,
  write_trace_html,
)

M = 99
PAD = 98


def make_frames(rows, frozen=()):
  """Frames from rows of tokens, padded with what must not be read."""
  size = max(len(row) for row in rows) + 1
  tokens = np.full((len(rows), size), PAD, np.int32)
  for padded, row in zip(tokens, rows, strict=True):
    padded[: len(row)] = row
  return Frames(
    tokens=tokens,
    length=np.array([len(row) for row in rows], np.int32),
    frozen=np.isin(np.arange(size), frozen),
    mask_id=M,
  )


def replay(document):
  """Rebuilds the rows of every frame from the page's data."""
  row = list(document["start"])
  rows = [list(row)]
  for change in document["frames"]:
    if change:
      for position in change["n"]:
        row.insert(position, document["mask"])
      for position, token in zip(change["r"], change["x"], strict=True):
        assert row[position] == document["mask"]
        row[position] = token
    rows.append(list(row))
  return rows


class Page(html.parser.HTMLParser):
  """Tags, attributes and the data of a page."""

  def __init__(self, text):
    super().__init__()
    self.stack, self.tags, self.data, self.title = [], [], "", ""
    self.feed(text)
    self.close()

  def handle_starttag(self, tag, attrs):
    self.tags.append((tag, dict(attrs)))
    if tag not in ("meta", "input"):
      self.stack.append((tag, dict(attrs)))

  def handle_startendtag(self, tag, attrs):
    self.tags.append((tag, dict(attrs)))

  def handle_endtag(self, tag):
    assert self.stack.pop()[0] == tag

  def handle_data(self, data):
    tag, attrs = self.stack[-1] if self.stack else ("", {})
    if attrs.get("id") == "trace":
      self.data += data
    if tag == "title":
      self.title += data


def write(tmp_path, frames, title="A sample", render=None):
  """Writes a page and reads it back: its text, and what is in it."""
  path = tmp_path / "new" / "trace.html"
  first = frames if isinstance(frames, Frames) else frames[0]
  times = np.linspace(0, 1, len(first.tokens))
  write_trace_html(path, title, frames, times, render)
  text = path.read_text(encoding="utf-8")
  return text, Page(text)


@pytest.mark.parametrize(
  ("previous", "current", "status", "origin"),
  [
    ([], [], "", []),
    ([], [M, M], "ii", [-1, -1]),
    ([1, 2], [1, 2], "kk", [0, 1]),
    ([1, 2], [1, M, 2], "kik", [0, -1, 1]),
    ([M], [5], "r", [0]),
    ([M], [M], "m", [0]),
    # Old masks of a run are taken to come first.
    ([M], [M, M], "mi", [0, -1]),
    ([1, M, M, 2], [1, M, M, M, 2], "kmmik", [0, 1, 2, -1, 3]),
    # A reveal and an insertion in one step, on both sides of each other.
    ([M], [5, M], "ri", [0, -1]),
    ([M], [M, 5], "ir", [-1, 0]),
    ([1, M, M], [1, 7, M, M], "krmi", [0, 1, 2, -1]),
    # The first mask that fits is the wrong one here.
    ([M, 1], [M, 2, 1], "irk", [-1, 0, 1]),
    ([M, 1, M], [M, 1, 1, M, M], "mkrii", [0, 1, 2, -1, -1]),
    ([M, 1, M, 3], [M, 2, 1, M, M, 3], "irkmik", [-1, 0, 1, 2, -1, 3]),
    # A mask may become a token that stands beside it.
    ([M, 1], [1, 1], "rk", [0, 1]),
  ],
)
def test_token_status_worked_by_hand(previous, current, status, origin):
  names = {"i": "inserted", "k": "kept", "r": "revealed", "m": "mask"}
  got = token_status(
    np.array(previous, int),
    np.array(current, int),
    np.zeros(len(previous), bool),
    M,
  )
  assert got[0] == [names[letter] for letter in status]
  np.testing.assert_array_equal(got[1], origin)


def test_frozen_tokens_stay_and_may_even_be_masks():
  frozen = np.array([True, False, True])
  status, origin = token_status(
    np.array([1, M, M]), np.array([1, M, 4, M]), frozen, M
  )
  assert status == ["frozen", "inserted", "revealed", "frozen"]
  np.testing.assert_array_equal(origin, [0, -1, 1, 2])


@pytest.mark.parametrize(
  ("previous", "current"),
  [
    ([1], []),
    ([1], [2]),
    ([1], [M]),
    ([1, 2], [2, 1]),
    ([1], [1, 1]),
    ([], [1]),
    ([M], [4, 4]),
  ],
)
def test_token_status_rejects_what_no_step_can_do(previous, current):
  with pytest.raises(ValueError, match=r"^The frame[^\n]*\.$"):
    token_status(
      np.array(previous, int),
      np.array(current, int),
      np.zeros(len(previous), bool),
      M,
    )


def explanations(previous, current):
  """Every alignment, by trying all of them."""
  for origin in itertools.combinations(range(len(current)), len(previous)):
    rest = set(range(len(current))) - set(origin)
    if all(current[j] == M for j in rest) and all(
      old in (current[j], M) for old, j in zip(previous, origin, strict=True)
    ):
      yield origin


def test_token_status_agrees_with_trying_everything():
  rows = [
    row
    for size in range(5)
    for row in itertools.product((1, 2, M), repeat=size)
  ]
  rng = np.random.default_rng(0)
  found = 0
  for i, j in rng.integers(0, len(rows), (2000, 2)):
    previous, current = rows[i][:3], rows[j]
    frozen = np.zeros(len(previous), bool)
    choices = list(explanations(previous, current))
    if not choices:
      with pytest.raises(ValueError, match="frame"):
        token_status(np.array(previous), np.array(current), frozen, M)
      continue
    _, origin = token_status(np.array(previous), np.array(current), frozen, M)
    assert tuple(np.flatnonzero(origin >= 0)) in choices
    found += 1
  assert found > 100


ROWS = [[7, 8], [7, M, 8], [7, M, 8], [7, 5, M, 8, M], [7, 5, 6, 8, 7]]


def test_document_holds_only_changes():
  document = trace_document(
    make_frames(ROWS, frozen=(0, 1)), [0, 0.25, 0.5, 0.75, 1]
  )
  assert document == {
    "mask": M,
    "times": [0, 0.25, 0.5, 0.75, 1],
    "labels": {"5": "5", "6": "6", "7": "7", "8": "8"},
    "start": [7, 8],
    "frozen": [0, 1],
    "running": False,
    "grid": None,
    "frames": [
      {"n": [1], "r": [], "x": []},
      0,
      {"n": [2, 4], "r": [1], "x": [5]},
      {"n": [], "r": [2, 4], "x": [6, 7]},
    ],
  }


def test_frames_round_trip_through_the_page(tmp_path):
  rng = np.random.default_rng(0)
  clean = rng.integers(0, 9, 40)
  inserted = rng.integers(1, 12, 40)
  revealed = inserted + rng.integers(1, 9, 40)
  rows = [
    np.where(revealed <= step, clean, M)[inserted <= step].tolist()
    for step in range(21)
  ]
  _, page = write(tmp_path, make_frames(rows))
  assert replay(json.loads(page.data)) == rows


def test_frames_without_a_step_or_a_token(tmp_path):
  _, page = write(tmp_path, make_frames([[]]))
  assert replay(json.loads(page.data)) == [[]]


def test_grid_is_embedded(tmp_path):
  walls = np.array([[0, 1, 0], [0, 0, 1]], bool)
  _, page = write(tmp_path, make_frames(ROWS), render=Render(walls=walls))
  assert json.loads(page.data)["grid"] == [".#.", "..#"]


def test_page_is_self_contained(tmp_path):
  text, page = write(tmp_path, make_frames(ROWS))
  assert not page.stack
  assert "http://" not in text
  assert "https://" not in text
  assert not re.search(r"@import|url\(|fetch\(|XMLHttpRequest|import\(", text)
  assert not [t for t, attrs in page.tags if {"src", "href"} & set(attrs)]
  policy = next(a for _, a in page.tags if "http-equiv" in a)["content"]
  assert "default-src 'none'" in policy


def test_every_control_has_a_name_and_every_id_is_used_once(tmp_path):
  text, page = write(tmp_path, make_frames(ROWS))
  ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
  assert len(ids) == len(set(ids))
  # What the script looks up is there, apart from the legend it makes.
  assert set(re.findall(r'\bel\("([\w-]+)"\)', text)) <= set(ids)
  for tag, attrs in page.tags:
    if tag == "button" or attrs.get("type") == "range":
      assert attrs["aria-label"]
  assert "prefers-color-scheme: dark" in text
  assert "prefers-reduced-motion" in text


def test_hostile_labels_and_titles_are_harmless(tmp_path):
  evil = "</script><script>alert(1)</script><!--\u2028\\'\"&amp;]]>"
  text, page = write(
    tmp_path, make_frames(ROWS), evil, Render(labels=lambda _: evil)
  )
  assert "alert(1)</script>" not in text
  assert [tag for tag, _ in page.tags].count("script") == 2
  assert not page.stack
  assert page.title == evil
  assert set(json.loads(page.data)["labels"].values()) == {evil}
  # Labels reach the page as text only.
  assert "innerHTML" not in text


def test_several_samples_play_together(tmp_path):
  chance = np.full((5, 6), 0.25)
  first = make_frames(ROWS, frozen=(0, 1))
  second = dataclasses.replace(
    make_frames([[], [M], [M], [4], [4]]), chance=chance[:, :2], name="two"
  )
  _, page = write(tmp_path, [first, second])
  found = json.loads(page.data)["samples"]
  assert [x["name"] for x in found] == ["", "two"]
  assert replay(found[0]) == ROWS
  assert replay(found[1]) == [[], [M], [M], [4], [4]]
  assert found[1]["frames"][2] == {"n": [], "r": [0], "x": [4], "p": [0.25]}
  assert "p" not in found[0]["frames"][2]


def test_a_chance_follows_its_mask(tmp_path):
  # The mask at 0 of the frame before is revealed at 1 of the frame after it.
  chance = np.array([[0.5, 0.75, 0.0, 0.0], np.zeros(4)])
  rows = [[M, 1], [M, 2, 1]]
  frames = dataclasses.replace(make_frames(rows), chance=chance)
  document = trace_document(frames, [0, 1])
  assert document["frames"] == [{"n": [0], "r": [1], "x": [2], "p": [0.5]}]


def test_hostile_samples_are_harmless(tmp_path):
  evil = "</script><img src=x onerror=alert(1)><!--<script>"
  frames = dataclasses.replace(make_frames(ROWS), name=evil)
  text, page = write(
    tmp_path, [frames, frames], evil, Render(labels=lambda _: evil)
  )
  assert "<img" not in text
  assert [tag for tag, _ in page.tags].count("script") == 2
  assert not page.stack
  found = json.loads(page.data)["samples"]
  assert found[0]["name"] == evil
  assert set(found[1]["labels"].values()) == {evil}


def test_what_cannot_be_played_together(tmp_path):
  frames = make_frames(ROWS)
  walls = Render(walls=np.zeros((2, 2), bool))
  for given, render, says in (
    ([], None, "no sample"),
    ([frames, frames], walls, "one sample"),
    ([frames, make_frames(ROWS[:3])], None, "one time a frame"),
  ):
    with pytest.raises(InputError, match=says):
      write_trace_html(
        tmp_path / "x.html", "", given, np.linspace(0, 1, 5), render
      )
  assert not list(tmp_path.iterdir())


def test_bad_steps_are_named_and_leave_no_file(tmp_path):
  frames = make_frames([[1], [1, M], [2, M]])
  with pytest.raises(InputError, match=r"^Step 2: The frames cannot[^\n]*$"):
    write(tmp_path, frames)
  with pytest.raises(InputError, match=r"3 frames and times of shape \(2,\)"):
    trace_document(frames, [0, 1])
  assert not list(tmp_path.iterdir())


def test_frames_are_validated():
  tokens = np.zeros((3, 4), int)
  with pytest.raises(InputError, match="shapes must be"):
    Frames(tokens, np.zeros(2, int), np.zeros(4, bool), M)
  with pytest.raises(InputError, match="shapes must be"):
    Frames(tokens, np.zeros(3, int), np.zeros(5, bool), M)
  with pytest.raises(InputError, match=r"spans \[0, 5\]"):
    Frames(tokens, np.array([0, 5, 1]), np.zeros(4, bool), M)
  with pytest.raises(InputError, match="at least the frame"):
    Frames(tokens[:0], np.zeros(0, int), np.zeros(4, bool), M)
  with pytest.raises(InputError, match="one chance a token"):
    Frames(tokens, np.zeros(3, int), np.zeros(4, bool), M, np.zeros(3))
