"""The page that plays a sample, in a browser: what it shows, and its safety."""

import dataclasses
import itertools

import numpy as np
import pytest

from flexmdm_jax.pictures.trace_html import Frames, Render, write_trace_html
from tests.browser import watched_page
from tests.pictures.test_trace_html import M, make_frames

pytestmark = pytest.mark.slow

WORDS = {1: " one", 2: " two", 3: " three", 4: "\n"}
EVIL = "</script><script>broken=1</script><img src=x onerror=broken=1>&amp;"
SIZES = [(1280, 800), (2560, 1440), (400, 800)]
TEXT = [[3], [3, M], [3, 1, M], [M, 3, 1, 2], [4, 3, 1, 2]]


def open_trace(page, path, *args, step=None):
  """Writes a page, opens it, and waits for its scripts."""
  write_trace_html(path, *args)
  page.goto(path.as_uri() + ("" if step is None else f"#step={step}"))


def text_frames(name=""):
  frames = make_frames(TEXT, frozen=(0,))
  chance = np.full(frames.tokens.shape, 0.25)
  return dataclasses.replace(frames, chance=chance, name=name)


def maze_frames():
  """A path of 9 cells that grows around the middle of a 5x5 maze."""
  path = [6, 7, 8, 13, 18, 17, 16, 11, 6]
  frozen = (0, 4, 8)
  state = [path[i] for i in frozen]
  rows, at = [list(state)], list(frozen)
  for i in range(9):
    if i not in frozen:
      place = sum(x < i for x in at)
      state.insert(place, M)
      at.insert(place, i)
      rows.append(list(state))
      state[place] = path[i]
      rows.append(list(state))
  walls = np.ones((5, 5), bool)
  walls.flat[path] = False
  return make_frames(rows, frozen=(0, 1, 2)), Render(walls=walls)


def times(frames):
  return np.linspace(0, 1, len(frames.tokens))


def text_page(page, path, num=2, step=None):
  frames = [text_frames(f"sample {i}") for i in range(num)]
  render = Render(labels=WORDS.get, running=True)
  open_trace(page, path, "A text", frames, times(frames[0]), render, step=step)


def test_keys_links_and_probabilities(browser, tmp_path):
  path = tmp_path / "trace.html"
  with watched_page(browser, viewport={"width": 1280, "height": 800}) as page:
    text_page(page, path, step=2)
    first = page.locator(".tokens").first
    step = page.locator("#step")
    assert step.inner_text() == "2"
    assert first.inner_text() == " three one"
    page.keyboard.press("ArrowRight")
    assert step.inner_text() == "3"
    page.wait_for_timeout(500)
    assert page.evaluate("location.hash") == "#step=3"
    assert page.locator("#link").get_attribute("href") == "#step=3"
    kinds = first.locator("li").evaluate_all("x => x.map(y => y.className)")
    assert [kind.split()[1] for kind in kinds] == [
      "inserted",
      "frozen",
      "kept",
      "revealed",
    ]
    for key, expected in (
      ("ArrowLeft", "2"),
      ("Home", "0"),
      ("ArrowLeft", "0"),
      ("End", "4"),
      ("ArrowRight", "4"),
    ):
      page.keyboard.press(key)
      assert step.inner_text() == expected
    # Text is set as text, and its new lines are seen.
    assert first.inner_text().startswith("↵\n three one two")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    told = page.locator("#tip").inner_text()
    for words in ("one", "position 3 of 4", "step 1", "step 2", "ity 0.25"):
      assert words in told
    said = page.evaluate("document.activeElement.ariaLabel")
    assert "probability 0.25" in said
    page.mouse.move(*middle(page.locator(".tokens").nth(1).locator("li").last))
    assert "two" in page.locator("#tip").inner_text()
    page.mouse.move(2, 2)
    page.mouse.move(*middle(page.locator(".history rect.row").first))
    assert "revealed at step 4" in page.locator("#tip").inner_text()
    page.evaluate("location.hash = '#step=1'")
    wait_for(page, 1)
    page.select_option("#speed", "50")
    page.locator("h1").click()
    page.keyboard.press(" ")
    wait_for(page, 4)
    assert page.locator("#play").get_attribute("aria-label") == "Play"


def wait_for(page, step):
  # The page's policy forbids playwright's own way to wait, which evaluates.
  page.locator(f"#step:text-is('{step}')").wait_for()


def middle(node):
  box = node.bounding_box()
  return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2


@pytest.mark.parametrize("running", [False, True])
def test_text_is_never_markup(browser, tmp_path, running):
  frames = [dataclasses.replace(text_frames(), name=EVIL)] * 2
  with watched_page(browser) as page:
    page.on("dialog", lambda dialog: pytest.fail(dialog.message))
    open_trace(
      page,
      tmp_path / "trace.html",
      EVIL,
      frames,
      times(frames[0]),
      Render(labels=lambda _: EVIL, running=running),
      step="4<img src=x onerror=broken=1>",
    )
    page.keyboard.press("ArrowDown")
    assert EVIL in page.locator("#tip").inner_text()
    assert page.title() == page.locator("h1").inner_text() == EVIL
    assert page.locator("img").count() == 0
    assert page.locator("script").count() == 2
    assert page.evaluate("typeof broken") == "undefined"


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", ["maze", "text"])
def test_the_window_is_used(browser, tmp_path, size, kind):
  wide, high = size
  viewport = {"width": wide, "height": high}
  with watched_page(browser, viewport=viewport) as page:
    if kind == "maze":
      frames, render = maze_frames()
      path = tmp_path / "trace.html"
      open_trace(page, path, "A maze", frames, times(frames), render, step=7)
    else:
      text_page(page, tmp_path / "trace.html", num=4, step=2)
    page.evaluate("document.fonts.ready")
    scrolls = page.evaluate(
      "[document.documentElement.scrollWidth, innerWidth]"
    )
    assert scrolls[0] <= scrolls[1]
    boxes = [x.bounding_box() for x in page.locator("section.panel").all()]
    deck = page.locator(".deck").bounding_box()
    assert deck["y"] + deck["height"] <= high + 1
    if kind == "maze":
      maze = page.locator("#maze svg").bounding_box()
      assert maze["height"] == pytest.approx(maze["width"], rel=0.01)
      assert max(maze["width"] / wide, maze["height"] / high) > 0.65
    if wide < 760:
      assert all(box["width"] > 0.9 * wide for box in boxes)
      return
    # The panels stand side by side, and end where the controls begin.
    bottom = max(box["y"] + box["height"] for box in boxes)
    assert deck["y"] - 2 <= bottom <= deck["y"] + 1
    if kind == "text":
      assert len({round(box["x"]) for box in boxes}) >= 2
    if kind == "text" and wide > 2000:
      return  # four words
    # Their lower half holds something too.
    rows = page.locator("section.panel").first.locator("rect.row").all()
    ends = [x.bounding_box()["y"] for x in rows]
    assert max(ends) > boxes[0]["y"] + 0.5 * boxes[0]["height"]


def luminance(colour):
  values = [x / 255 for x in colour]
  linear = [
    x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in values
  ]
  return np.dot(linear, [0.2126, 0.7152, 0.0722])


# The look of the legend's marks, which have all kinds of tokens.
MARKS = """() => [...document.querySelectorAll('.legend .chip')].map((node) => {
  const style = getComputedStyle(node);
  const canvas = new OffscreenCanvas(1, 1).getContext("2d");
  const paint = (colour) => {
    canvas.fillStyle = getComputedStyle(document.body.parentElement)
      .backgroundColor;
    canvas.fillRect(0, 0, 1, 1);
    canvas.fillStyle = colour;
    canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3);
  };
  return {ink: paint(style.color), back: paint(style.backgroundColor),
    line: style.borderBottomStyle, weight: style.fontWeight,
    sign: getComputedStyle(node, "::before").content};
})"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("kind", ["maze", "text"])
def test_marks_are_told_apart_in_grey(browser, tmp_path, scheme, kind):
  with watched_page(browser, color_scheme=scheme) as page:
    if kind == "maze":
      frames, render = maze_frames()
      path = tmp_path / "trace.html"
      open_trace(page, path, "A maze", frames, times(frames), render)
    else:
      text_page(page, tmp_path / "trace.html")
    marks = page.evaluate(MARKS)
  assert len(marks) == 5
  for mark in marks[:4]:
    low, high = sorted([luminance(mark["ink"]), luminance(mark["back"])])
    assert (high + 0.05) / (low + 0.05) > 4.5
  for one, two in itertools.combinations(marks, 2):
    low, high = sorted([luminance(one["back"]), luminance(two["back"])])
    assert (high + 0.05) / (low + 0.05) > 1.5 or any(
      one[part] != two[part] for part in ("line", "weight", "sign")
    )


def test_dark_mode_follows_the_system_and_the_key(browser, tmp_path):
  back = "luminance => getComputedStyle(document.documentElement)"
  back += ".backgroundColor"
  with watched_page(browser, color_scheme="dark") as page:
    text_page(page, tmp_path / "trace.html")
    dark = page.evaluate(back)
    button = page.locator("#theme")
    assert button.get_attribute("aria-pressed") == "true"
    page.keyboard.press("d")
    assert page.evaluate(back) != dark
    assert button.get_attribute("aria-pressed") == "false"
    page.reload()
    assert page.evaluate(back) != dark
    button.click()
    assert page.evaluate(back) == dark


def test_it_plays_inside_another_page(browser, tmp_path):
  # As in a notebook, where it has no address of its own.
  path = tmp_path / "trace.html"
  frames, render = maze_frames()
  write_trace_html(path, "A maze", frames, times(frames), render)
  with watched_page(browser) as page:
    page.set_content("<iframe width=900 height=600></iframe>")
    page.evaluate(
      "text => document.querySelector('iframe').srcdoc = text",
      path.read_text("utf-8"),
    )
    inside = page.frame_locator("iframe")
    inside.locator("#forward").click()
    page.wait_for_timeout(400)
    assert inside.locator("#step").inner_text() == "1"


def test_no_token_and_no_step(browser, tmp_path):
  empty = Frames(np.zeros((1, 2), int), np.zeros(1, int), np.zeros(2, bool), M)
  with watched_page(browser) as page:
    open_trace(page, tmp_path / "trace.html", "Nothing", empty, [0.0])
    for key in ("ArrowRight", "ArrowDown", " ", "End"):
      page.keyboard.press(key)
    assert page.locator("#step").inner_text() == "0"
