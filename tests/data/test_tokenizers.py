"""Tokenizers: ids worked by hand, and every text comes back."""

import json
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flexmdm_jax.data.tokenizers import CharTokenizer, GPT2Tokenizer
from flexmdm_jax.errors import InputError
from tests import fuzz
from tests.data import tiny_text


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  return tiny_text.write_bpe(tmp_path_factory.mktemp("bpe"))


@pytest.fixture(scope="module")
def bpe(folder):
  return GPT2Tokenizer(folder)


def test_ids_follow_the_merges(bpe):
  ids = bpe.encode("hello w##")
  assert ids == [258, tiny_text.bpe_vocab()["o"], 259, 260]
  assert (bpe.vocab.size, bpe.vocab.mask, bpe.vocab.pad) == (264, 262, 263)


def test_the_text_of_a_special_token_is_text(bpe):
  ids = bpe.encode("<|endoftext|>[MASK]")
  assert max(ids) < 256
  assert bpe.decode(ids) == "<|endoftext|>[MASK]"


@pytest.mark.parametrize("merges", [None, 0, 3])
@settings(max_examples=50, deadline=None)
@given(text=st.text())
def test_every_text_comes_back(folder, merges, text):
  tokenizer = GPT2Tokenizer(folder, merges)
  ids = tokenizer.encode(text)
  assert tokenizer.decode(ids) == text
  assert all(0 <= i < tokenizer.vocab.mask for i in ids)


@pytest.mark.parametrize("text", tiny_text.HARD)
def test_hard_texts_come_back(folder, text):
  tokenizers = [GPT2Tokenizer(folder, merges) for merges in (None, 0, 3)]
  for tokenizer in (*tokenizers, CharTokenizer(text)):
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids).encode() == text.encode()
    assert all(0 <= i < tokenizer.vocab.mask for i in ids)


def test_half_of_a_surrogate_pair_is_no_text(bpe):
  with pytest.raises(InputError, match="cannot encode these texts"):
    bpe.encode("a\ud800")


def test_first_merges_alone_are_a_dense_vocabulary(folder, bpe):
  small = GPT2Tokenizer(folder, 2)
  assert small.vocab.size == 256 + 2 + 2
  o = tiny_text.bpe_vocab()["o"]
  assert small.encode("hello") == [256, 257, o]
  assert len({small.fingerprint, bpe.fingerprint}) == 2


@pytest.mark.parametrize(
  "names", [("vocab.json", "merges.txt"), ("tokenizer.json", None)]
)
@pytest.mark.parametrize("as_pairs", [False, True])
def test_formats_agree(bpe, tmp_path, names, as_pairs):
  if names[1]:
    tiny_text.write_bpe(tmp_path, *names)
  else:
    merges = tiny_text.MERGES
    merges = [m.split() for m in merges] if as_pairs else merges
    model = {"vocab": tiny_text.bpe_vocab(), "merges": merges}
    (tmp_path / names[0]).write_text(json.dumps({"model": model}))
  assert GPT2Tokenizer(tmp_path).fingerprint == bpe.fingerprint


def test_mask_and_pad_show(bpe):
  ids = [*bpe.encode("é"), 262, 262, 263, *bpe.encode("w")]
  assert bpe.decode(ids) == "é[MASK][MASK][PAD]w"


def test_batches_equal_single_texts(bpe):
  texts = ["hello", "", "w w"]
  assert bpe.encode_batch(texts) == [bpe.encode(text) for text in texts]


def spoil(folder, name, change):
  path = folder / name
  path.write_text(change(path.read_text("utf-8")), "utf-8")


@pytest.mark.parametrize(
  ("name", "change", "message"),
  [
    ("encoder.json", lambda text: text[:50], "cannot read .*line 1"),
    ("encoder.json", lambda text: "[]", "no object but a list"),
    ("encoder.json", lambda text: '{"a": 0}', "255 of the 256 bytes"),
    ("encoder.json", lambda text: text.replace("17,", "999,"), "0, 1, 2"),
    ("vocab.bpe", lambda text: text + "x y\n", "do not fit its vocabulary"),
    ("vocab.bpe", lambda text: text + "x y z\n", "not of two tokens"),
  ],
)
def test_garbled_files_are_named(tmp_path, name, change, message):
  tiny_text.write_bpe(tmp_path)
  spoil(tmp_path, name, change)
  with pytest.raises(InputError, match=message) as caught:
    GPT2Tokenizer(tmp_path)
  assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize("merges", [-1, 6])
def test_rejects_number_of_merges(folder, merges):
  with pytest.raises(InputError, match=rf"merges={merges} must be in \[0, 5\]"):
    GPT2Tokenizer(folder, merges)


def test_missing_files_and_package(tmp_path, folder, monkeypatch):
  with pytest.raises(InputError, match="holds no tokenizer"):
    GPT2Tokenizer(tmp_path)
  monkeypatch.setitem(sys.modules, "tokenizers", None)
  with pytest.raises(InputError, match=r"pip install 'flexmdm_jax\[text\]'"):
    GPT2Tokenizer(folder)


def test_characters():
  tokenizer = CharTokenizer("banana")
  assert tokenizer.characters == ("a", "b", "n")
  assert tokenizer.vocab.size == 3 + 1 + 2
  ids = tokenizer.encode("nab?")
  assert ids == [2, 0, 1, tokenizer.unknown]
  assert tokenizer.decode([*ids, 4, 5]) == "nab<unk>[MASK][PAD]"
  assert tokenizer.fingerprint == CharTokenizer("abn").fingerprint
  assert tokenizer.fingerprint != CharTokenizer("abc").fingerprint


@pytest.mark.parametrize("characters", ["", ["ab"]])
def test_rejects_characters(characters):
  with pytest.raises(InputError, match="must be one or more"):
    CharTokenizer(characters)


@pytest.mark.parametrize("id_", [-1, 6])
def test_rejects_ids(id_):
  with pytest.raises(InputError, match=f"the id {id_} is out of range"):
    CharTokenizer("abn").decode([0, id_])


@pytest.mark.parametrize("examples", fuzz.EXAMPLES)
def test_any_folder(tmp_path, examples):
  tiny_text.write_bpe(tmp_path)
  merges = (tmp_path / "vocab.bpe").read_bytes()

  def act(content):
    (tmp_path / "encoder.json").write_bytes(content[0])
    (tmp_path / "vocab.bpe").write_bytes(content[1])
    for number in (None, 2):
      tokenizer = GPT2Tokenizer(tmp_path, number)
      tokenizer.decode(tokenizer.encode("hello é w##"))

  vocab = tiny_text.bpe_vocab()
  both = st.tuples(fuzz.contents(vocab), fuzz.spoiled(merges))
  fuzz.each(examples, both, act)
  (tmp_path / "encoder.json").unlink()

  def act(content):
    (tmp_path / "tokenizer.json").write_bytes(content)
    GPT2Tokenizer(tmp_path, 2)

  model = {"vocab": vocab, "merges": tiny_text.MERGES}
  fuzz.each(examples, fuzz.contents({"model": model}), act)
