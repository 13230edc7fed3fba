"""Headless Chromium for tests of pages.

A test takes the fixture `browser`, is marked slow, and opens its pages with
`watched_page`. Without Chromium (`apt-get install chromium`) or the extra
`[browser]` it is skipped.
"""

import contextlib
import shutil
import urllib.parse

import pytest

_NAMES = ("chromium", "chromium-browser", "google-chrome")
_FLAGS = (
  "--no-sandbox",  # root, as in containers, has none
  "--disable-gpu",
  "--disable-background-networking",
  # Names resolve to nothing: a page that needs a network breaks here.
  "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
)
_HERE = ("127.0.0.1", "localhost")


@contextlib.contextmanager
def open_browser():
  """Yields Chromium, driven by playwright.

  Raises:
    RuntimeError: Chromium or the extra is missing, or it does not start; the
      message says which.
  """
  try:
    from playwright import sync_api
  except ImportError as error:
    raise RuntimeError("pip install 'flexmdm_jax[browser]'") from error
  path = next(filter(None, map(shutil.which, _NAMES)), None)
  if path is None:
    raise RuntimeError("no Chromium: apt-get install chromium")
  with sync_api.sync_playwright() as driver:
    try:
      browser = driver.chromium.launch(executable_path=path, args=[*_FLAGS])
    except sync_api.Error as error:
      first = str(error).splitlines()[0]
      raise RuntimeError(f"{path} does not start: {first}") from error
    with contextlib.closing(browser):
      yield browser


@pytest.fixture(scope="module")
def browser():
  """Yields Chromium, or skips the test.

  It has an event loop of its own in this thread until the file's tests are
  done: what saves or restores checkpoints here comes before, or in a process
  of its own.
  """
  with contextlib.ExitStack() as stack:
    try:
      found = stack.enter_context(open_browser())
    except RuntimeError as error:
      pytest.skip(str(error))
    yield found


@contextlib.contextmanager
def watched_page(browser, **options):
  """Yields a page, and asserts at its end that it kept to this host.

  Args:
    browser: from the fixture.
    **options: of playwright's `new_page`, as `viewport` or `color_scheme`.

  Raises:
    AssertionError: the page asked another host for something, or one of its
      scripts failed.
  """
  page = browser.new_page(**options)
  left, failed = [], []

  def note(url):
    parts = urllib.parse.urlsplit(url)
    if parts.hostname and parts.hostname not in _HERE:
      left.append(url)

  page.on("request", lambda request: note(request.url))
  page.on("websocket", lambda socket: note(socket.url))
  page.on("pageerror", lambda error: failed.append(str(error)))
  with contextlib.closing(page):
    yield page
    assert not left, f"requests left this host: {left}"
    assert not failed, f"scripts failed: {failed}"
