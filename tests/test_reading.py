"""Files that are not what they should be: one line, and no waiting."""

import io
import json
import os
import pickle
import zipfile

import numpy as np
import pytest

from flexmdm_jax import reading
from flexmdm_jax.errors import InputError, clear_library_errors
from tests import fuzz

KEYS = {"a": int, "b": (list, type(None))}


@pytest.mark.parametrize(
  ("content", "says"),
  [
    (b"", "line 1: Expecting value"),
    (b"[1]", "no object but a list"),
    (b"null", "no object but null"),
    (b'{"a": 1,\n "b": }', "line 2: Expecting value"),
    (b'{"b": []}', "the key 'a' is missing"),
    (b'{"a": "1"}', "'a' must be a whole number, not a text"),
    (b'{"a": true}', "'a' must be a whole number, not true or false"),
    (b'{"a": 1, "b": 2}', "'b' must be a list or null, not a whole number"),
    (b'{"a": 1, "a": 2}', "the key 'a' comes twice"),
    (b'{"a": 1, "c": NaN}', "NaN is no finite number"),
    (b'{"a": 1, "c": -1e999}', "-1e999 is no finite number"),
    (b'{"a": 1, "c": "\xff"}', "codec can't decode byte 0xff"),
    (b'{"a": 1, "c": ' + b"[" * 64 + b"]" * 64 + b"}", "deeper than 64"),
    (b"[" * 10**6, "deeper than 64 levels"),
    (b'{"a": ' + b"1" * 5000 + b"}", "4300 digits"),
  ],
)
def test_what_is_wrong_is_said(tmp_path, content, says):
  path = tmp_path / "x.json"
  path.write_bytes(content)
  with pytest.raises(InputError) as error:
    reading.read_json(path, KEYS, "mend it")
  assert str(error.value).startswith(f"cannot read {path} (")
  assert says in str(error.value) and str(error.value).endswith("): mend it.")


def test_what_is_right_is_read(tmp_path):
  path = tmp_path / "x.json"
  text = '{"a": 1, "c": ' + "[" * 63 + '"[[[["' + "]" * 63 + "}"
  path.write_bytes(b"\xef\xbb\xbf" + text.encode())
  assert reading.read_json(path, KEYS) == json.loads(text)
  # A text may have as many brackets as it likes.
  assert reading.parse_json(json.dumps("[" * 200)) == "[" * 200
  assert np.isnan(reading.parse_json("NaN", strict=False))
  path.write_bytes(b"a\r\nb\n")
  assert reading.read_text(path) == "a\nb\n"


def test_lines_are_named(tmp_path, monkeypatch):
  path = tmp_path / "x.jsonl"
  path.write_text('{"a": 1}\n{"a": 2}\n{"a"\n')
  rows = reading.read_json_lines(path, KEYS)
  assert [next(rows), next(rows)] == [(1, {"a": 1}), (2, {"a": 2})]
  with pytest.raises(InputError, match=r"x\.jsonl \(line 3: .*good copy"):
    next(rows)
  monkeypatch.setattr(reading, "_LINE_BYTES", 10)
  long = io.BytesIO(b"123456789\n" + b"x" * 11 + b"\n" + b"y" * 10)
  assert [*reading.lines(long)] == [b"123456789\n", None, b"y" * 10]
  path.write_text('{"a": 1, "c": 2}\n')
  with pytest.raises(InputError, match="line 1: longer than"):
    next(reading.read_json_lines(path, KEYS))
  monkeypatch.setattr(reading, "_FILE_BYTES", 10)
  with pytest.raises(InputError, match="larger than"):
    reading.read_text(path)


def test_only_regular_files_are_opened(tmp_path):
  os.mkfifo(tmp_path / "pipe")
  for path in (tmp_path, tmp_path / "pipe", "/dev/zero"):
    with pytest.raises(InputError, match="not a regular file"):
      reading.read_text(path)
  for path in (tmp_path / "none", "nul\0", tmp_path / "pipe" / "x"):
    with pytest.raises(InputError, match="cannot read"):
      reading.read_text(path)


def test_arrays_are_no_pickles_and_take_no_memory(tmp_path):
  path = tmp_path / "x.npy"
  np.save(path, np.arange(3, dtype=np.int32))
  np.testing.assert_array_equal(reading.read_array(path), [0, 1, 2])
  content = path.read_bytes()
  archive = io.BytesIO()
  with zipfile.ZipFile(archive, "w") as file:
    file.writestr("x.npy", pickle.dumps([1]))
  for odd in (
    content.replace(b"(3,)", b"(9" + b"9" * 15 + b",)")[: len(content)],
    content.replace(b"<i4", b"<f4"),
    content.replace(b"(3,)", b"(3,1)")[: len(content)],
    pickle.dumps([1]),
    archive.getvalue(),
    b"",
  ):
    path.write_bytes(odd)
    with pytest.raises(InputError, match=r"cannot read .*x\.npy"):
      reading.read_array(path)


def test_a_panic_is_one_line_and_an_interrupt_is_none():
  panic = type("PanicException", (BaseException,), {})
  panic.__module__ = "pyo3_runtime"
  for error in (panic("a\nb"), KeyError("a")):
    with pytest.raises(InputError, match=r"^no x \(.*a.*\): mend it\.$"):
      with clear_library_errors("no x", "mend it"):
        raise error
  with pytest.raises(KeyboardInterrupt):
    with clear_library_errors("no x", "mend it"):
      raise KeyboardInterrupt


@pytest.mark.parametrize("examples", fuzz.EXAMPLES)
def test_any_bytes(tmp_path, examples):
  path = tmp_path / "x"

  def act(content):
    path.write_bytes(content)
    for read in (
      lambda: reading.read_json(path, KEYS),
      lambda: [*reading.read_json_lines(path, KEYS)],
      lambda: reading.read_array(path),
      lambda: reading.read_text(path),
    ):
      try:
        read()
      except InputError as error:
        assert len(str(error).splitlines()) == 1

  fuzz.each(examples, fuzz.contents({"a": 1, "b": [1, {"c": 2}]}), act)
  np.save(tmp_path / "a.npy", np.arange(3, dtype=np.int32))
  fuzz.each(examples, fuzz.spoiled((tmp_path / "a.npy").read_bytes()), act)
