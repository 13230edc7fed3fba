"""An exported folder goes to a hub and comes back, by the hub's own library.

The hub is a stub on this machine: the part of the HTTP interface that
`huggingface_hub` needs to send a folder and to take it back.
"""

import base64
import hashlib
import http.server
import json
import threading
import urllib.parse

import jax
import numpy as np
import pytest

import flexmdm_jax as fm
from flexmdm_jax.data.tokenizers import CharTokenizer
from tests.tiny_model import tiny_model

hub = pytest.importorskip("huggingface_hub")

NAME = "someone/tiny"
COMMIT = hashlib.sha1(b"commit").hexdigest()


class Stub(http.server.BaseHTTPRequestHandler):
  """A hub of one repository, whose files are in the server's memory."""

  protocol_version = "HTTP/1.1"

  def log_message(self, *_):
    """Prints nothing."""

  def reply(self, content=b"", status=200, **headers):
    """Sends bytes, or a JSON object."""
    if not isinstance(content, bytes):
      content = json.dumps(content).encode()
    self.send_response(status)
    for name, value in headers.items():
      self.send_header(name.replace("_", "-"), value)
    self.send_header("Content-Length", str(len(content)))
    self.end_headers()
    if self.command != "HEAD":
      self.wfile.write(content)

  def do_POST(self):
    body = self.rfile.read(int(self.headers["Content-Length"]))
    path = self.path.partition("?")[0]
    if path == "/api/validate-yaml":
      self.server.validated.append(json.loads(body)["content"])
      return self.reply({"errors": [], "warnings": []})
    if path == "/api/repos/create":
      return self.reply({"url": f"{self.server.url}/{NAME}", "name": NAME})
    if path == f"/api/models/{NAME}/preupload/main":
      asked = [file["path"] for file in json.loads(body)["files"]]
      return self.reply(
        {
          "files": [
            {"path": x, "uploadMode": "regular", "shouldIgnore": False}
            for x in asked
          ]
        }
      )
    if path == f"/api/models/{NAME}/commit/main":
      for line in body.decode().splitlines():
        entry = json.loads(line)
        if entry["key"] == "file":
          value = entry["value"]
          content = base64.b64decode(value["content"])
          self.server.files[value["path"]] = content
      url = f"{self.server.url}/{NAME}/commit/{COMMIT}"
      return self.reply(
        {"success": True, "commitUrl": url, "commitOid": COMMIT}
      )
    return self.reply({"error": path}, 404)

  def do_GET(self):
    path = urllib.parse.unquote(self.path.partition("?")[0])
    files = self.server.files
    if path in (
      f"/api/models/{NAME}",
      f"/api/models/{NAME}/revision/main",
      f"/api/models/{NAME}/revision/{COMMIT}",
    ):
      siblings = [{"rfilename": name} for name in files]
      return self.reply({"id": NAME, "sha": COMMIT, "siblings": siblings})
    if path.startswith(f"/api/models/{NAME}/tree/"):
      return self.reply(
        json.dumps(
          [
            {
              "type": "file",
              "path": name,
              "size": len(content),
              "oid": hashlib.sha1(content).hexdigest(),
            }
            for name, content in files.items()
          ]
        ).encode()
      )
    begin = f"/{NAME}/resolve/{COMMIT}/"
    name = path.removeprefix(begin)
    if path.startswith(begin) and name in files:
      tag = f'"{hashlib.sha1(files[name]).hexdigest()}"'
      return self.reply(files[name], X_Repo_Commit=COMMIT, ETag=tag)
    return self.reply({"error": path}, 404, X_Error_Code="EntryNotFound")

  do_HEAD = do_GET


@pytest.fixture
def server():
  server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Stub)
  server.url = f"http://127.0.0.1:{server.server_port}"
  # A hub adds a file of its own.
  server.files, server.validated = {".gitattributes": b"* text\n"}, []
  thread = threading.Thread(target=server.serve_forever, daemon=True)
  thread.start()
  yield server
  server.shutdown()
  server.server_close()
  thread.join()


def test_a_folder_comes_back_from_a_hub(server, tmp_path, monkeypatch):
  for name in ("http_proxy", "https_proxy", "all_proxy"):
    monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv(name.upper(), raising=False)
  model = tiny_model(CharTokenizer("abcdefgh "))
  model.export(tmp_path / "model")
  api = hub.HfApi(endpoint=server.url, token="hf_none")
  api.upload_folder(repo_id=NAME, folder_path=tmp_path / "model")
  sent = {path.name for path in (tmp_path / "model").iterdir()}
  assert set(server.files) == sent | {".gitattributes"}
  assert server.validated == [(tmp_path / "model/README.md").read_text()]
  # People write their licence into the card, on the hub too.
  server.files["README.md"] = b"---\nlicense: mit\n---\n"
  cached = api.snapshot_download(NAME, cache_dir=tmp_path / "cache")
  plain = api.snapshot_download(NAME, local_dir=tmp_path / "plain")
  for folder in (cached, plain):
    loaded = fm.load(folder)
    assert loaded.sampler == model.sampler and loaded.path == model.path
    assert loaded.tokenizer.fingerprint == model.tokenizer.fingerprint
    params = (x.denoiser.params for x in (loaded, model))
    jax.tree.map(np.testing.assert_array_equal, *params)
