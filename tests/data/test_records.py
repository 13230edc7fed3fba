"""Token records: where documents are cut, what is kept, and what is cached."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flexmdm_jax.data import records
from flexmdm_jax.data.documents import Files, Source
from flexmdm_jax.data.records import TextSet, prepare, split_text
from flexmdm_jax.data.splits import SPLITS
from flexmdm_jax.data.tokenizers import CharTokenizer
from flexmdm_jax.errors import InputError
from tests import fuzz
from tests.data.tiny_text import write_jsonl

LETTERS = CharTokenizer("abcdefghijklmnopqrstuvwxyz \n")


def cut(text, max_length, long="split"):
  """The pieces, by an encoder of one token a character."""
  pieces, dropped = split_text(text, list, max_length, long)
  assert all(list(piece) == ids for piece, ids in pieces)
  return [piece for piece, _ in pieces], dropped


@pytest.mark.parametrize(
  ("text", "pieces"),
  [
    ("abcd", ["abcd"]),
    # At the blank line nearest the middle, not at the first.
    ("a\n\nbc\n\nde", ["a\n\nbc", "de"]),
    # Again, until each half fits.
    ("aaaa\n\nbb\n\ncccc\n\ndd", ["aaaa", "bb", "cccc", "dd"]),
    ("aaaa\n \t\n\n\nbbbb", ["aaaa", "bbbb"]),  # a long blank line
    # No blank line: a line break, else a space, else between characters.
    ("aa bb\ncc dd", ["aa bb", "cc dd"]),
    ("aa bb cc dd", ["aa bb", "cc dd"]),
    ("abcdefghijkl", ["abc", "def", "ghi", "jkl"]),
    # A cut that parts white space alone from the text loses nothing.
    ("abcdefgh\n\n", ["abcd", "efgh"]),
    ("\n\nab cdefgh", ["ab", "cdefgh"]),
  ],
)
def test_cuts(text, pieces):
  assert cut(text, max(map(len, pieces))) == (pieces, 0)


def test_long_paragraphs_can_be_left_out():
  text = "ab\n\nabc def ghi\n\ncd"
  assert cut(text, 4, "drop") == (["ab", "cd"], 1)
  assert cut(text, 4) == (["ab", "abc", "def", "ghi", "cd"], 0)


def test_a_character_of_too_many_tokens_is_left_out():
  pieces, dropped = split_text("aéb", lambda t: list(t.encode()), 1)
  assert ([piece for piece, _ in pieces], dropped) == (["a", "b"], 1)


@given(
  text=st.text("ab \n", max_size=200),
  max_length=st.integers(1, 20),
  long=st.sampled_from(["split", "drop"]),
)
def test_pieces_fit_and_keep_the_text(text, max_length, long):
  pieces, dropped = cut(text, max_length, long)
  assert all(len(piece) <= max_length for piece in pieces)
  if long == "split":
    assert not dropped
    assert "".join("".join(pieces).split()) == "".join(text.split())


def given_files(folder, **texts):
  return {
    split: Files((write_jsonl(folder / f"{split}.jsonl", documents),))
    for split, documents in texts.items()
  }


def texts(text_set, split):
  records = text_set.records(split)
  return [LETTERS.decode(records[i]["tokens"]) for i in range(len(records))]


def test_given_splits(tmp_path):
  sources = given_files(
    tmp_path, train=["one", "two two", "three", "two two"], test=["three"]
  )
  made = prepare(tmp_path, sources, LETTERS, max_length=4)
  assert texts(made, "train") == ["one", "two", "two", "two", "two"]
  assert texts(made, "test") == ["th", "ree"]
  records = made.records("train")
  np.testing.assert_array_equal(records.lengths, [3] * 5)
  assert records[0]["tokens"].dtype == np.int32
  assert [record["characters"] for record in records] == [3] * 5
  assert made.metadata["splits"]["train"] == {
    "documents": 3,
    "records": 5,
    "tokens": 15,
    "characters": 15,
    "unknown": 0,
    # "three" is held out.
    "skipped": {"duplicate": 1},
  }
  with pytest.raises(InputError, match="text has no validation documents"):
    made.records("validation")
  with pytest.raises(InputError, match="split='dev' is unknown"):
    made.records("dev")


def word(i):
  return "".join(chr(97 + int(digit)) for digit in str(i))


def test_one_source_is_split_by_document(tmp_path):
  # The two halves of a document carry its number.
  documents = [f"{word(i)}\n\n{word(i)}" for i in range(1000, 1600)]
  sources = given_files(tmp_path, train=documents * 2)
  made = prepare(tmp_path, sources, LETTERS, max_length=4)
  owned = {split: set(texts(made, split)) for split in SPLITS}
  assert sum(map(len, owned.values())) == len(set.union(*owned.values())) == 600
  shares = [len(owned[split]) / 600 for split in SPLITS]
  assert shares == pytest.approx([0.8, 0.1, 0.1], abs=0.065)  # 4 sigma
  # Order and other documents do not matter.
  fewer = given_files(tmp_path, train=documents[:300:-1])
  again = prepare(tmp_path, fewer, LETTERS, max_length=4)
  assert set(texts(again, "train")) < owned["train"]


def test_characters_of_the_training_text(tmp_path):
  sources = given_files(tmp_path, train=["ab", "b c"], test=["abx", "xx"])
  made = prepare(tmp_path, sources, None, max_length=4)
  assert made.metadata["alphabet"] == [" ", "a", "b", "c"]
  assert made.metadata["splits"]["test"]["unknown"] == 3
  assert made.records("test")[0]["tokens"].tolist() == [1, 2, 4]


class Unread(Source):
  """Has another source's documents, and cannot be read."""

  def __init__(self, source):
    self.fingerprint = source.fingerprint

  def fingerprint(self):
    raise NotImplementedError

  def documents(self, skipped):
    raise AssertionError("the documents are read")


def test_second_use_reads_no_documents(tmp_path):
  sources = given_files(tmp_path, train=["one"], test=["two"])
  first = prepare(tmp_path, sources, LETTERS, max_length=4)
  unread = {split: Unread(source) for split, source in sources.items()}
  second = prepare(tmp_path, unread, LETTERS, max_length=4)
  assert second.folder == first.folder
  assert second.metadata == first.metadata
  assert texts(second, "train") == ["one"]


def test_whatever_changes_the_records_changes_the_folder(tmp_path):
  sources = given_files(tmp_path, train=["one"], test=["two"])
  other = given_files(tmp_path / "..", train=["one"], test=["three"])
  folders = {
    prepare(tmp_path, *arguments, **settings).folder
    for arguments, settings in [
      ((sources, LETTERS), {"max_length": 4}),
      ((sources, LETTERS), {"max_length": 5}),
      ((sources, LETTERS), {"max_length": 4, "long": "drop"}),
      ((sources, None), {"max_length": 4}),
      ((sources, CharTokenizer("one")), {"max_length": 4}),
      ((other, LETTERS), {"max_length": 4}),
    ]
  }
  assert len(folders) == 6


class During(Source):
  """Calls a function between two documents."""

  def __init__(self, call):
    self.call = call

  def fingerprint(self):
    return "during"

  def documents(self, skipped):
    yield "one"
    self.call()
    yield "two"


TEST = {"test": During(lambda: None)}


def test_interrupted_preparation_leaves_nothing(tmp_path):
  def interrupt():
    raise KeyboardInterrupt

  with pytest.raises(KeyboardInterrupt):
    sources = {"train": During(interrupt), **TEST}
    prepare(tmp_path, sources, LETTERS, max_length=4)
  assert not list((tmp_path / "text").iterdir())


def test_the_first_of_two_preparations_wins(tmp_path):
  def other():
    prepare(tmp_path, {"train": During(int)}, LETTERS, max_length=4)

  def race():
    sources["train"].call = int
    made.append(prepare(tmp_path, sources, LETTERS, max_length=4))

  made, sources = [], {"train": During(race)}
  made.append(prepare(tmp_path, sources, LETTERS, max_length=4))
  assert [path for path in (tmp_path / "text").iterdir()] == [made[0].folder]
  assert texts(made[0], "train") == texts(made[1], "train")


@pytest.mark.parametrize(
  "damage",
  [
    lambda folder: (folder / "metadata.json").write_text("{"),
    lambda folder: (folder / "metadata.json").unlink(),
    lambda folder: (folder / "train.lengths.npy").unlink(),
    lambda folder: (folder / "train.array_record").write_bytes(b"short"),
  ],
)
def test_damaged_folder_is_named(tmp_path, damage):
  sources = given_files(tmp_path, train=["one"], test=["two"])
  folder = prepare(tmp_path, sources, LETTERS, max_length=4).folder
  damage(folder)
  with pytest.raises(InputError, match=f"{folder} is damaged: remove"):
    prepare(tmp_path, sources, LETTERS, max_length=4)


def test_overwritten_records_are_noticed(tmp_path):
  sources = given_files(tmp_path, train=["one"] * 50, test=["two"])
  made = prepare(tmp_path, sources, LETTERS, max_length=4)
  path = made.folder / "train.array_record"
  content = bytearray(path.read_bytes())
  for i, byte in enumerate(content):
    content[i] = byte ^ 255
  path.write_bytes(content)
  with pytest.raises(InputError, match="is damaged: remove that folder"):
    made.records("train")[7]


def test_bad_rows_are_reported_in_one_line(tmp_path, caplog):
  path = write_jsonl(tmp_path / "a.jsonl", ["one", " ", "abcdef", "", "six"])
  with path.open("a") as file:
    file.write("{\n")
  sources = {"train": Files((path,)), **TEST}
  made = prepare(tmp_path, sources, LETTERS, max_length=4, long="drop")
  skipped = {"empty": 2, "not_json": 1, "too_long": 1, "duplicate": 1}
  assert made.metadata["splits"]["train"]["skipped"] == skipped
  lines = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
  assert len(lines) == 1
  assert all(f"{n} {kind}" in lines[0] for kind, n in skipped.items())


@pytest.mark.parametrize("tokenizer", [LETTERS, None])
@pytest.mark.parametrize("rows", [[], ["", " "]])
def test_no_document_at_all(tmp_path, rows, tokenizer):
  sources = given_files(tmp_path, train=rows)
  with pytest.raises(InputError, match=r"data.train has no document"):
    prepare(tmp_path, sources, tokenizer, max_length=4)
  assert not list((tmp_path / "text").iterdir())


def test_cannot_write(tmp_path):
  sources = given_files(tmp_path, train=["one"], test=["two"])
  (tmp_path / "text").write_text("in the way")
  with pytest.raises(InputError, match="cannot write the data set to"):
    prepare(tmp_path, sources, LETTERS, max_length=4)


@pytest.mark.parametrize(
  ("settings", "message"),
  [
    ({"max_length": 0}, "data.max_length=0"),
    ({"long": "cut"}, "data.long='cut' is unknown"),
    ({"sources": TEST}, "data.train is not set"),
  ],
)
def test_rejects(tmp_path, settings, message):
  settings = {"sources": {"train": During(int)}, "max_length": 4, **settings}
  with pytest.raises(InputError, match=message):
    prepare(tmp_path, tokenizer=LETTERS, **settings)


def test_metadata_is_json(tmp_path):
  sources = given_files(tmp_path, train=["one"], test=["two"])
  made = prepare(tmp_path, sources, LETTERS, max_length=4)
  stored = json.loads((made.folder / "metadata.json").read_text())
  assert stored["tokenizer"] == LETTERS.fingerprint
  assert stored["max_length"] == 4 and stored["long"] == "split"


def test_one_enormous_line_is_read_a_few_times():
  read = 0

  def encode(text):
    nonlocal read
    read += len(text)
    return list(range(len(text)))

  text = "a b\n" * 100_000
  pieces, dropped = split_text(text, encode, 1000)
  assert not dropped and sum(len(ids) for _, ids in pieces) > 390_000
  # All halves of all sizes would be nine times the text.
  assert read < 5 * len(text)
  read = 0
  assert split_text("a" * 10**7, encode, 1000, "drop") == ([], 1)
  assert read < 10**5


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
  parts=st.lists(st.text(" \na", max_size=4) | st.just("a" * 900), max_size=9),
  repeats=st.integers(1, 900),
)
def test_the_nearest_cut_is_found_without_all_cuts(parts, repeats):
  text = "".join(part * repeats for part in parts)[:50_000]
  for pattern in records._CUTS:
    spans = [match.span() for match in pattern.finditer(text)]
    inside = [(a, b) for a, b in spans if 0 < a and b < len(text)]
    nearest = min(inside, key=lambda x: abs(sum(x) - len(text)), default=None)
    assert records._nearest(text, pattern) == nearest


@pytest.mark.parametrize("examples", fuzz.EXAMPLES)
def test_any_metadata_and_arrays(tmp_path, examples):
  sources = given_files(tmp_path, train=["one"] * 3, test=["two"])
  folder = prepare(tmp_path, sources, LETTERS, max_length=4).folder

  def act(content):
    path.write_bytes(content)
    text_set = TextSet(folder)
    for split in ("train", "test"):
      assert text_set.records(split)[0]["tokens"].dtype == np.int32

  path = folder / "metadata.json"
  good = path.read_bytes()
  fuzz.each(examples, fuzz.contents(json.loads(good)), act)
  path.write_bytes(good)
  path = folder / "train.lengths.npy"
  fuzz.each(examples, fuzz.spoiled(path.read_bytes()), act)
