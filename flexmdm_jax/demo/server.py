"""Serves the page to this machine, and nothing else.

The package that draws the page brings dozens of routes with it: uploads, files,
proxies, histories. A visitor gets those that the page needs.
"""

import socket
from collections.abc import Awaitable, Callable
from typing import Any

from flexmdm_jax.errors import InputError

HOST = "127.0.0.1"
# What the page asks for, as seen from a browser.
_READ = frozenset(
  (
    *("/", "/config", "/theme.css", "/gradio_api/theme.css", "/favicon.ico"),
    *("/gradio_api/app_id", "/gradio_api/info", "/gradio_api/queue/data"),
    *("/gradio_api/startup-events", "/manifest.json"),
  )
)
_READ_UNDER = ("/assets/", "/static/", "/gradio_api/heartbeat/")
_WRITE = frozenset(
  ("/gradio_api/queue/join", "/gradio_api/cancel", "/gradio_api/reset")
)
# A text of 4000 characters, each of them escaped, takes 24 kB.
_MOST_BYTES = 64 * 1024
# The browser itself refuses what would leave this host.
_HEADERS = (
  (
    b"content-security-policy",
    b"default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:;"
    b" base-uri 'self'; form-action 'self'; frame-ancestors 'none';"
    b" object-src 'none'",
  ),
  (b"x-content-type-options", b"nosniff"),
  (b"referrer-policy", b"no-referrer"),
)

App = Callable[[dict, Callable, Callable], Awaitable[None]]


def listen(port: int) -> socket.socket:
  """Takes a port of this machine.

  Args:
    port: number of the port; 0 for any that is free.

  Raises:
    InputError: it is in use, or not for us.
  """
  taken = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
  # A server that just ended leaves its port waiting for a minute.
  taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
  try:
    taken.bind((HOST, port))
    taken.listen()
  except OSError as error:
    taken.close()
    raise InputError(
      f"port={port} cannot be taken ({error.strerror}): give another, or 0 for"
      " any that is free."
    ) from error
  return taken


def guarded(app: App) -> App:
  """Makes an ASGI application that passes on what the page needs alone."""

  async def guard(scope: dict[str, Any], receive, send) -> None:
    if scope["type"] == "lifespan":
      await app(scope, receive, send)
    elif scope["type"] != "http":
      await send({"type": "websocket.close", "code": 1008})
    elif status := _refusal(scope):
      await _answer(send, status)
    else:
      await app(scope, _counted(receive), _with_headers(send))

  return guard


def _refusal(scope: dict[str, Any]) -> int:
  """Finds the status with which a request is refused; 0 for none."""
  path, method = scope["path"], scope["method"]
  headers = dict(scope["headers"])
  # A page elsewhere may give this machine a name of its own.
  host = headers.get(b"host", b"").rpartition(b":")[0]
  if host not in (HOST.encode(), b"localhost"):
    return 403
  if method in ("GET", "HEAD"):
    plain = ".." not in path and "\\" not in path
    known = path in _READ or (plain and path.startswith(_READ_UNDER))
    return 0 if known else 404
  if method != "POST" or path not in _WRITE:
    return 404
  length = headers.get(b"content-length", b"")
  if not length.isdigit():
    return 411
  return 413 if int(length) > _MOST_BYTES else 0


def _counted(receive):
  """Makes a request's body end where it is longer than it may be."""
  seen = 0

  async def counted():
    nonlocal seen
    message = await receive()
    seen += len(message.get("body", b""))
    return {"type": "http.disconnect"} if seen > _MOST_BYTES else message

  return counted


def _with_headers(send):
  async def with_headers(message):
    if message["type"] == "http.response.start":
      message = {**message, "headers": [*message["headers"], *_HEADERS]}
    await send(message)

  return with_headers


async def _answer(send, status: int) -> None:
  headers = [(b"content-type", b"text/plain"), *_HEADERS]
  await send(
    {"type": "http.response.start", "status": status, "headers": headers}
  )
  await send({"type": "http.response.body", "body": b"refused\n"})


def serve(app: App, port: socket.socket) -> None:
  """Serves a guarded application until it is interrupted.

  Args:
    app: an ASGI application.
    port: where, from `listen`.
  """
  import uvicorn  # of the extra

  config = uvicorn.Config(
    guarded(app),
    log_level="warning",
    ws="none",
    server_header=False,
    timeout_graceful_shutdown=2,
  )
  try:
    uvicorn.Server(config).run(sockets=[port])
  except KeyboardInterrupt:
    pass
