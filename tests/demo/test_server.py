"""What the demo's server lets through, around an application that notes it."""

import asyncio
import socket

import pytest

from flexmdm_jax.demo import server
from flexmdm_jax.errors import InputError

LOCAL = (b"host", b"127.0.0.1:7860")


def ask(method, path, *headers, body=(b"",)):
  """Sends a request; returns (status, whether the application saw its end)."""
  sent, seen = [], []

  async def app(scope, receive, send):
    while True:
      message = await receive()
      if message["type"] == "http.disconnect":
        return
      if not message["more_body"]:
        break
    seen.append(path)
    await send({"type": "http.response.start", "status": 200, "headers": []})

  parts = [
    {"type": "http.request", "body": part, "more_body": i + 1 < len(body)}
    for i, part in enumerate(body)
  ]

  async def receive():
    return parts.pop(0)

  async def send(message):
    sent.append(message)

  scope = dict(type="http", method=method, path=path, headers=[*headers])
  asyncio.run(server.guarded(app)(scope, receive, send))
  if sent:
    assert (
      b"default-src 'self'"
      in dict(sent[0]["headers"])[b"content-security-policy"]
    )
  return sent[0]["status"] if sent else None, bool(seen)


@pytest.mark.parametrize(
  "path", ["/", "/config", "/assets/a.js", "/gradio_api/queue/data"]
)
def test_what_the_page_needs_passes(path):
  assert ask("GET", path, LOCAL) == (200, True)


@pytest.mark.parametrize(
  "path",
  [
    "/file=/etc/passwd",
    "/gradio_api/file=/etc/passwd",
    "/gradio_api/file/etc/passwd",
    "/gradio_api/proxy=http://example.com",
    "/gradio_api/stream/a/b/c/playlist-file",
    "/gradio_api/vibe-code",
    "/assets/../../etc/passwd",
    "/static/..\\..\\etc\\passwd",
    "/docs",
    "/openapi.json",
    "/monitoring",
  ],
)
def test_files_and_all_else_are_refused(path):
  assert ask("GET", path, LOCAL) == (404, False)


def test_nothing_is_written_but_requests_of_the_page():
  length = (b"content-length", b"2")
  join = "/gradio_api/queue/join"
  assert ask("POST", join, LOCAL, length, body=[b"{}"]) == (200, True)
  for path in ("/gradio_api/upload", "/gradio_api/run/prompt", "/"):
    assert ask("POST", path, LOCAL, length) == (404, False)
  assert ask("PUT", join, LOCAL, length) == (404, False)
  assert ask("DELETE", "/", LOCAL) == (404, False)


def test_requests_are_bounded():
  join, many = "/gradio_api/queue/join", b"%d" % 2**20
  assert ask("POST", join, LOCAL) == (411, False)
  assert ask("POST", join, LOCAL, (b"content-length", many)) == (413, False)
  lie = (b"content-length", b"5")
  long = [b"x" * 40_000] * 3
  assert ask("POST", join, LOCAL, lie, body=long) == (None, False)


def test_other_names_of_this_machine_are_refused():
  assert ask("GET", "/", (b"host", b"evil.example:7860")) == (403, False)
  assert ask("GET", "/") == (403, False)
  assert ask("GET", "/", (b"host", b"localhost:7860")) == (200, True)


def test_a_port_in_use_is_told():
  with server.listen(0) as taken:
    port = taken.getsockname()[1]
    assert taken.getsockname()[0] == "127.0.0.1"
    with pytest.raises(InputError, match=f"port={port} cannot be taken"):
      server.listen(port)
  with server.listen(port):
    pass
  with socket.socket() as probe:
    assert probe.connect_ex(("127.0.0.1", port))
