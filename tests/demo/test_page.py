"""The demo as a visitor has it: clicked through in Chromium, and attacked."""

import dataclasses
import json
import re
import socket
import subprocess
import sys
import urllib.error
import urllib.request

import pytest

from flexmdm_jax.data.tokenizers import CharTokenizer
from flexmdm_jax.demo import page as demo_page
from flexmdm_jax.demo.writer import OWN, Writer
from tests.browser import watched_page
from tests.experiments.tools import ROOT, run
from tests.inference.tiny import model, network

pytest.importorskip("gradio", reason="pip install 'flexmdm_jax[demo]'")
pytestmark = pytest.mark.slow

HOSTILE = (
  "<script>window.hit=1</script><img src=x onerror=window.hit=2>"
  "${window.hit=3}{{hit}}"
)
# A busy machine compiles for minutes.
PATIENCE = 300_000


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """A model whose own samples are of markup's characters."""
  tokenizer = CharTokenizer(HOSTILE + "abc ")
  denoiser = network(vocab=tokenizer.vocab, L=160)
  found = tmp_path_factory.mktemp("demo") / "model <b>"
  made = dataclasses.replace(
    model(),
    denoiser=denoiser,
    vocab=tokenizer.vocab,
    max_length=160,
    tokenizer=tokenizer,
  )
  made.export(found)
  return found


@pytest.fixture(scope="module")
def url(folder):
  """The page's address, of a process of its own as a user starts it."""
  command = [sys.executable, "-m", "experiments.demo", f"--model={folder}"]
  with subprocess.Popen(
    [*command, "--port=0"], cwd=ROOT, stdout=subprocess.PIPE, text=True
  ) as process:
    line = process.stdout.readline()
    assert "shows the model" in line
    yield line.split()[0]
    process.terminate()


@pytest.fixture
def page(browser, url):
  with watched_page(browser, viewport=dict(width=1100, height=900)) as page:
    page.set_default_timeout(PATIENCE)
    page.goto(url)
    yield page
    assert page.evaluate("window.hit") is None


def watch(page):
  """Waits for a sample to grow, and to be complete."""
  step = page.get_by_text(re.compile(r"step \d+ of 8")).first
  step.wait_for()
  step.wait_for(state="detached")


def test_a_prompt_is_continued(page):
  page.get_by_label("The beginning").fill(HOSTILE)
  page.get_by_role("button", name="Write").click()
  watch(page)
  assert page.locator(".fx-text").count() == 2
  for text in page.locator(".fx-text").all_text_contents():
    assert text.startswith(HOSTILE)
  assert page.locator(".fx-sample .fx-frozen").count() == 2 * len(HOSTILE)
  assert page.locator(".fx-sample script, .fx-sample img").count() == 0


def test_holes_are_filled_and_wrong_texts_told(page):
  page.get_by_role("tab", name="Infilling").click()
  text = page.get_by_label("A text with holes")
  go = page.get_by_role("button", name="Fill the holes")
  for wrong, told in (
    (HOSTILE, "no hole"),
    ("[...]" * 17, "17 holes, more than 16"),
    ("a" * 161 + "[...]", "more than the model"),
  ):
    text.fill(wrong)
    go.click()
    page.get_by_role("alert").filter(has_text=told).wait_for()
  text.fill(f"ab[...]{HOSTILE}[...]c")
  go.click()
  watch(page)
  found = page.locator(".fx-text:visible").first.text_content()
  assert found.startswith("ab") and HOSTILE in found and found.endswith("c")


def test_texts_are_scored(page):
  page.get_by_role("tab", name="Likelihood").click()
  page.get_by_label("Texts, one on").fill(f"ab\n{HOSTILE}")
  page.get_by_role("button", name="Score").click()
  page.locator("td").first.wait_for()
  cells = page.locator("tr td:first-child").all_text_contents()
  assert [cell.strip() for cell in cells] == ["ab", HOSTILE]
  assert page.locator("td", has_text="±").count() == 4


def ask(url, path, data=None, **headers):
  request = urllib.request.Request(url + path, data, headers)
  try:
    with urllib.request.urlopen(request, timeout=60) as answer:
      return answer.status, answer.read()
  except urllib.error.HTTPError as error:
    return error.code, error.read()


def test_no_file_leaves_the_machine(url, folder):
  assert ask(url, "/")[0] == 200
  quoted = urllib.request.pathname2url(str(folder / "config.json"))
  for file in ("/etc/passwd", quoted):
    for route in ("/file=", "/gradio_api/file=", "/gradio_api/file"):
      status, body = ask(url, route + file)
      assert status == 404 and body == b"refused\n"
  for path in ("/assets/..%2f..%2f..%2fetc/passwd", "/static/%2e%2e/x"):
    assert ask(url, path)[0] == 404
  form = {"Content-Type": "multipart/form-data; boundary=x"}
  assert ask(url, "/gradio_api/upload", b"--x--", **form)[0] == 404
  # A file's description in place of a text.
  data = {"path": "/etc/passwd", "meta": {"_type": "gradio.FileData"}}
  data = [data, False, 1, 8, OWN, 1, 160, 0, 0]
  body = json.dumps({"data": data, "fn_index": 0, "session_hash": "x"})
  as_json = {"Content-Type": "application/json"}
  ask(url, "/gradio_api/queue/join", body.encode(), **as_json)
  _, answer = ask(url, "/gradio_api/queue/data?session_hash=x")
  assert b"process_completed" in answer
  assert b"root:" not in answer


def test_files_are_closed_without_the_guard_too(folder):
  from starlette.testclient import TestClient

  client = TestClient(demo_page.application(Writer(model()), "a model"))
  assert client.get("/").status_code == 200
  for file in ("/etc/passwd", str(folder / "config.json")):
    assert client.get(f"/gradio_api/file={file}").status_code in (403, 404)


@pytest.mark.parametrize("name", ["missing", "empty"])
def test_a_folder_without_a_model_is_told(tmp_path, name):
  (tmp_path / "empty").mkdir()
  status, _, err = run("demo", f"--model={tmp_path / name}", "--port=0")
  assert status == 2
  assert err.startswith("error: ") and err.count("\n") == 1
  assert str(tmp_path / name) in err


def test_a_port_in_use_is_told():
  with socket.create_server(("127.0.0.1", 0)) as taken:
    port = taken.getsockname()[1]
    status, _, err = run("demo", "--model=missing", f"--port={port}")
  assert status == 2
  assert f"port={port} cannot be taken" in err
