"""Sources of text: what is read, and what is skipped."""

import collections
import gzip
import json

import pytest
import tensorflow_datasets as tfds

from flexmdm_jax import reading
from flexmdm_jax.data import documents
from flexmdm_jax.data.cache import Remaining
from flexmdm_jax.data.documents import Files, Skipped, Tfds, zstd
from flexmdm_jax.errors import InputError
from tests import fuzz
from tests.data.tiny_text import write_jsonl

BAD_LINES = {
  b"{": "not_json",
  b"nan nan": "not_json",
  b"[" * 100_000: "not_json",
  b"[1]": "no_text",
  b'{"words": "a"}': "no_text",
  b'{"text": 3}': "not_string",
  b'{"text": null}': "not_string",
  b'{"text": " \\n"}': "empty",
  b'{"text": "\\ud800"}': "not_utf8",
  b'{"text": "\xff"}': "not_utf8",
}


def read(source):
  skipped = collections.Counter()
  return list(source.documents(skipped)), skipped


def test_files_are_read_in_order(tmp_path):
  write_jsonl(tmp_path / "b.jsonl", ["three"])
  write_jsonl(tmp_path / "a.jsonl.gz", ["one", "two\n\nmore"])
  write_jsonl(tmp_path / "other.jsonl", ["é"])
  patterns = f"{tmp_path}/?.jsonl*, {tmp_path}/other.jsonl"
  texts, skipped = read(Files.find(patterns))
  assert texts == ["one", "two\n\nmore", "three", "é"]
  assert not skipped


def test_bad_rows_are_counted_by_kind(tmp_path):
  lines = [b'\xef\xbb\xbf{"text": "first"}', *BAD_LINES, b'{"text": "last"}']
  path = tmp_path / "a.jsonl"
  path.write_bytes(b"\n".join([*lines, b"", b"  ", b""]))
  texts, skipped = read(Files((path,)))
  assert texts == ["first", "last"]
  assert skipped == collections.Counter(BAD_LINES.values())


def test_text_key(tmp_path):
  path = tmp_path / "a.jsonl"
  path.write_text(json.dumps({"text": "no", "answer": "yes"}))
  assert read(Files.find(str(path), "answer"))[0] == ["yes"]


@pytest.mark.parametrize("pattern", ["", "nope.jsonl", "*.none", "tests"])
def test_no_file(pattern):
  with pytest.raises(InputError, match="no file matches"):
    Files.find(pattern)


@pytest.mark.parametrize(
  "content",
  [gzip.compress(b'{"text": "a"}' * 1000)[:-20], b"plain", b"\x1f\x8b\x08"],
  ids=["truncated", "plain", "header only"],
)
def test_damaged_gzip(tmp_path, content):
  path = tmp_path / "a.jsonl.gz"
  path.write_bytes(content)
  with pytest.raises(InputError, match=r"cannot read .*a\.jsonl\.gz"):
    read(Files((path,)))


def test_zstd_of_several_frames(tmp_path, monkeypatch):
  frames = [b'{"text": "one"}\n', b'{"text": "two"}\n' * 1000]
  path = tmp_path / "a.jsonl.zst"
  content = b"".join(map(zstd.compress, frames))
  path.write_bytes(content)
  assert read(Files((path,)))[0] == ["one", *["two"] * 1000]
  for damaged in (content[:-4], b"plain"):
    path.write_bytes(damaged)
    with pytest.raises(InputError, match=r"cannot read .*a\.jsonl\.zst"):
      read(Files((path,)))
  monkeypatch.setattr(documents, "zstd", None)
  with pytest.raises(InputError, match=r"pip install 'flexmdm_jax\[text\]'"):
    read(Files((path,)))


def test_fingerprint_is_of_the_content(tmp_path):
  a, b, c = (
    Files((write_jsonl(tmp_path / name, [text]),)).fingerprint()
    for name, text in (("a", "one"), ("b", "one"), ("c", "two"))
  )
  assert a == b != c
  assert Files((tmp_path / "a",), "body").fingerprint() != a


class Prose(tfds.core.GeneratorBasedBuilder):
  """Three texts, one blank."""

  VERSION = tfds.core.Version("1.0.0")
  url_infos = None

  def _info(self):
    features = {"text": tfds.features.Text()}
    return tfds.core.DatasetInfo(
      builder=self, features=tfds.features.FeaturesDict(features)
    )

  def _split_generators(self, dl_manager):
    return {"train": self._generate_examples()}

  def _generate_examples(self):
    for i, text in enumerate(["one", "zwölf", " "]):
      yield i, {"text": text}


@pytest.fixture(scope="module")
def prose(tmp_path_factory):
  builder = Prose(data_dir=tmp_path_factory.mktemp("tfds"))
  builder.download_and_prepare(file_format="array_record")
  return str(builder.data_dir)


def test_tfds(prose):
  source = Tfds.parse(f"{prose}:train")
  texts, skipped = read(source)
  assert sorted(texts) == ["one", "zwölf"]
  assert skipped == {"empty": 1}
  part = Tfds.parse(f"{prose}:train[:1]")
  assert len(read(part)[0]) + read(part)[1].total() == 1
  assert part.fingerprint() != source.fingerprint()


@pytest.mark.parametrize(
  ("text", "name", "split"),
  [
    ("openwebtext:train", "openwebtext", "train"),
    ("a/plain:1.0.0:train[:1%]", "a/plain:1.0.0", "train[:1%]"),
  ],
)
def test_tfds_names(text, name, split):
  source = Tfds.parse(text)
  assert (source.name, source.split) == (name, split)


def test_tfds_rejects(prose):
  with pytest.raises(InputError, match="names no TFDS split"):
    Tfds.parse("openwebtext")
  with pytest.raises(InputError, match=r"cannot prepare .*'no_such_set'"):
    read(Tfds.parse("no_such_set:train"))
  with pytest.raises(InputError, match="cannot read the split 'test'"):
    read(Tfds.parse(f"{prose}:test"))
  with pytest.raises(InputError, match="no feature 'body'"):
    read(Tfds(prose, "train", "body"))


def test_a_long_line_and_a_deep_one_are_counted(tmp_path, monkeypatch):
  monkeypatch.setattr(reading, "_LINE_BYTES", 10_000)
  deep = '{"text": ' + "[" * 2000 + "]" * 2000 + "}"
  texts = [json.dumps({"text": text}) for text in ("a" * 20_000, "good")]
  path = tmp_path / "a.jsonl.gz"
  path.write_bytes(gzip.compress("\n".join([deep, *texts]).encode()))
  skipped = Skipped()
  assert [*Files((path,)).documents(skipped)] == ["good"]
  assert skipped == {"too_large": 1, "not_json": 1}


def test_how_long_it_takes_is_told(tmp_path, caplog):
  with caplog.at_level("INFO"), Remaining("a.jsonl", 100, 0.0) as remaining:
    remaining.report(50)
  assert "a.jsonl: 50%, " in caplog.text and "minutes left" in caplog.text


@pytest.mark.parametrize("examples", fuzz.EXAMPLES)
@pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])
def test_any_bytes(tmp_path, suffix, examples):
  path = tmp_path / f"a.jsonl{suffix}"
  lines = b'{"text": "a"}\n{"text": ["b"]}\n[1, {"c": NaN}]\n' * 3
  pack = {"": bytes, ".gz": gzip.compress}
  if documents.zstd is not None:
    pack[".zst"] = documents.zstd.compress

  def act(content):
    path.write_bytes(content)
    files = Files((path,))
    files.fingerprint()
    assert all(isinstance(x, str) for x in files.documents(Skipped()))

  fuzz.each(examples, fuzz.spoiled(pack.get(suffix, bytes)(lines)), act)
