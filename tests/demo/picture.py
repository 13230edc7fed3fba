"""Takes a picture of the demo: `make demo_picture`.

python -m tests.demo.picture http://127.0.0.1:7860 docs/images/demo.png

The demo of `experiments.demo_model` is to be running.
"""

import re
import sys

from tests.browser import open_browser, watched_page

_TEXT = "In the morning, [...] a red key [...]. She [...] to David. [...]"


def main(url, path):
  size = dict(width=1000, height=1000)
  with open_browser() as browser, watched_page(browser, viewport=size) as page:
    page.set_default_timeout(300_000)
    page.goto(url)
    page.get_by_role("tab", name="Infilling").click()
    page.get_by_label("A text with holes").fill(_TEXT)
    go = page.get_by_role("button", name="Fill the holes")
    go.click()  # compiles
    step = page.get_by_text(re.compile(r"step \d+ of")).first
    step.wait_for()
    step.wait_for(state="detached")
    go.click()
    page.get_by_text(re.compile(r"step (2[5-9]|3\d|4\d) of")).first.wait_for()
    page.screenshot(path=path, full_page=True)


if __name__ == "__main__":
  main(*sys.argv[1:])
