"""The tokenizer of a pretrained model: its ids, its mask, its vocabulary."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flexmdm_jax.data.tokenizers import FolderTokenizer, GPT2Tokenizer
from flexmdm_jax.errors import InputError
from flexmdm_jax.rows import AnchorLayout
from flexmdm_jax.vocab import Vocab
from tests import fuzz
from tests.data import tiny_text


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  return tiny_text.write_model_folder(tmp_path_factory.mktemp("llada"))


@pytest.fixture(scope="module")
def tokenizer(folder):
  return FolderTokenizer(folder)


def write(folder, name, content):
  text = content if isinstance(content, str) else json.dumps(content)
  (folder / name).write_text(text, "utf-8")


def test_ids_are_the_model_s(tokenizer):
  assert tokenizer.vocab == Vocab(size=270, mask=262, pad=261)
  o = tiny_text.bpe_vocab()["o"]
  # Nothing is appended, cut or padded, whatever the file says.
  assert tokenizer.encode("hello w##") == [258, o, 259, 260]
  assert tokenizer.encode("") == []
  assert len(tokenizer.encode("hello" * 10)) == 20
  assert tokenizer.unknown is None


def test_the_names_of_special_tokens_are_text(tokenizer):
  text = "a<|endoftext|><|mdm_mask|>b"
  ids = tokenizer.encode(text)
  assert max(ids) < 261 and tokenizer.decode(ids) == text


def test_added_tokens_that_are_text_are_read(tmp_path):
  tiny_text.write_model_folder(tmp_path)
  content = json.loads((tmp_path / "tokenizer.json").read_text("utf-8"))
  spaces = content["added_tokens"][-1] | {"id": 263, "content": "  "}
  content["added_tokens"].append(spaces)
  write(tmp_path, "tokenizer.json", content)
  tokenizer = FolderTokenizer(tmp_path)
  ids = tokenizer.encode("w  w")
  assert ids[1] == 263 and len(ids) == 3
  assert tokenizer.decode(ids) == "w  w"


@settings(max_examples=50, deadline=None)
@given(text=st.text())
def test_every_text_comes_back(tokenizer, text):
  assert tokenizer.decode(tokenizer.encode(text)) == text


def byte_level(content):
  pass


def add_letter(content):
  # Its characters are those of the bytes E9 and 21, in no UTF-8.
  added = content["added_tokens"][-1] | {"id": 263, "content": "é!"}
  content["added_tokens"].append(added)


def byte_fallback(content):
  """The parts that a converted SentencePiece model has, as of Llama 2."""
  space = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
  tokens = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "a"]
  content["model"] = {
    "type": "BPE",
    "vocab": {token: i for i, token in enumerate(tokens)},
    "merges": [],
    "unk_token": "<unk>",
    "fuse_unk": True,
    "byte_fallback": True,
  }
  content["normalizer"] = {
    "type": "Sequence",
    "normalizers": [{"type": "Prepend", "prepend": "▁"}, space],
  }
  content["pre_tokenizer"] = None
  content["decoder"] = {
    "type": "Sequence",
    "decoders": [
      {**space, "pattern": {"String": "▁"}, "content": " "},
      {"type": "ByteFallback"},
      {"type": "Fuse"},
      {"type": "Strip", "content": " ", "start": 1, "stop": 0},
    ],
  }


@pytest.mark.parametrize("change", [byte_level, add_letter, byte_fallback])
@pytest.mark.parametrize("text", [*tiny_text.HARD, "aé!b", "é!"])
def test_hard_texts_come_back(tmp_path, change, text):
  tiny_text.write_model_folder(tmp_path)
  content = json.loads((tmp_path / "tokenizer.json").read_text("utf-8"))
  change(content)
  write(tmp_path, "tokenizer.json", content)
  tokenizer = FolderTokenizer(tmp_path)
  if change is byte_fallback:  # whose sign for a space is no text
    text = text.replace("▁", "")
  ids = tokenizer.encode(text)
  assert tokenizer.decode(ids).encode() == text.encode()
  assert tokenizer.vocab.mask not in ids


def test_a_mask_that_text_has_is_refused(tmp_path):
  tiny_text.write_model_folder(tmp_path, mask_token_id=259)  # " w"
  with pytest.raises(InputError, match="reads the text ' w' as the mask 259"):
    FolderTokenizer(tmp_path)
  # "he" and "ll" never become "hell" by themselves, but in a longer text.
  tokenizer = FolderTokenizer(tmp_path, mask=262)
  tokenizer.vocab = Vocab(270, 258, 261)
  with pytest.raises(InputError, match="that begins 'hello' as the mask 258"):
    tokenizer.encode_batch(["w", "hello"])


def test_special_and_unused_ids_show(tokenizer):
  ids = [*tokenizer.encode("é"), 262, 262, 261, 269, *tokenizer.encode("w")]
  shown = "é<|mdm_mask|><|mdm_mask|><|endoftext|>[UNUSED]w"
  assert tokenizer.decode(ids) == shown
  with pytest.raises(InputError, match="the id 270 is out of range"):
    tokenizer.decode([270])


def test_the_length_decides_where_the_pad_is_a_token(tokenizer):
  layout = AnchorLayout(tokenizer.vocab, 8)
  tokens = [258, 261, 259, 261]
  row = layout.encode(tokens)
  assert row.length == 4 and row.open_gaps.sum() == 5
  assert layout.decode(row.tokens, row.length) == tokens
  np.testing.assert_array_equal(row.tokens[4:], 261)


@pytest.mark.parametrize(
  ("name", "content"),
  [
    ("tokenizer_config.json", {"mask_token": "<|mdm_mask|>"}),
    ("special_tokens_map.json", {"mask_token": {"content": "<|mdm_mask|>"}}),
  ],
)
def test_tokens_are_told_by_name_too(tmp_path, name, content):
  tiny_text.write_model_folder(tmp_path)
  write(tmp_path, "config.json", {"embedding_size": 280, "vocab_size": 270})
  write(tmp_path, name, {**content, "eos_token": "<|endoftext|>"})
  assert FolderTokenizer(tmp_path).vocab == Vocab(280, 262, 261)


def test_what_is_given_wins(folder, tokenizer):
  other = FolderTokenizer(folder, mask=264, pad=263, size=265)
  assert other.vocab == Vocab(265, 264, 263)
  assert other.decode([264, 263]) == "[MASK][PAD]"
  assert other.fingerprint != tokenizer.fingerprint
  assert FolderTokenizer(folder).fingerprint == tokenizer.fingerprint


def test_a_tokenizer_alone_has_as_many_ids_as_it_has(tmp_path):
  tiny_text.write_model_folder(tmp_path)
  (tmp_path / "config.json").unlink()
  vocab = FolderTokenizer(tmp_path, mask=262, pad=261).vocab
  assert vocab == Vocab(263, 262, 261)


def test_agrees_with_the_reader_of_gpt_2(tmp_path, tokenizer):
  gpt2 = GPT2Tokenizer(tiny_text.write_bpe(tmp_path))
  text = "hello w## é"
  assert gpt2.encode(text) == tokenizer.encode(text)


@pytest.mark.parametrize(
  ("name", "content", "message"),
  [
    ("tokenizer.json", "{", "cannot read .*tokenizer.json"),
    ("tokenizer.json", {"model": {"vocab": {}}}, "is no tokenizer"),
    (
      "config.json",
      [],
      r"cannot read .*config.json \(it holds no object but a list",
    ),
    ("config.json", {"vocab_size": 270}, "the mask token: set data.mask_id"),
    (
      "config.json",
      {"mask_token_id": 262, "vocab_size": 270},
      "the pad token: set data.pad_id",
    ),
    (
      "config.json",
      {"mask_token_id": 1, "pad_token_id": 2, "vocab_size": 262},
      "vocabulary of 262 ids is smaller than the tokenizer .* last id is 262",
    ),
    (
      "config.json",
      {"mask_token_id": 300, "pad_token_id": 2, "vocab_size": 270},
      "mask=300 is out of range",
    ),
    (
      "config.json",
      {"mask_token_id": "x", "pad_token_id": 2, "vocab_size": 270},
      "mask must be an int, got 'x'",
    ),
    (
      "config.json",
      {"mask_token_id": 1, "pad_token_id": 2, "vocab_size": "many"},
      "size must be an int, got 'many'",
    ),
    (
      "config.json",
      {"mask_token_id": 5, "pad_token_id": 2, "vocab_size": 270},
      "reads the text '&' as the mask 5: set data.mask_id",
    ),
  ],
)
def test_folders_that_do_not_fit(tmp_path, name, content, message):
  tiny_text.write_model_folder(tmp_path)
  write(tmp_path, name, content)
  with pytest.raises(InputError, match=message) as caught:
    FolderTokenizer(tmp_path)
  assert "Vocab" in str(caught.value) or str(tmp_path) in str(caught.value)


def test_folders_without_a_tokenizer(tmp_path):
  with pytest.raises(InputError, match=r"holds no tokenizer\.json"):
    FolderTokenizer(tmp_path)


REPLACE = {"type": "Replace", "pattern": {"String": "q"}, "content": "q" * 50}


@pytest.mark.parametrize("part", ["normalizer", "decoder"])
def test_texts_are_not_multiplied(tmp_path, part):
  tiny_text.write_model_folder(tmp_path)
  content = json.loads((tmp_path / "tokenizer.json").read_text("utf-8"))
  inner = "normalizers" if part == "normalizer" else "decoders"
  # Of "q" these make 50^9 characters, which fill any memory.
  many = {"type": "Sequence", inner: [REPLACE] * 9}
  write(tmp_path, "tokenizer.json", {**content, part: many})
  with pytest.raises(InputError, match=rf"the {part} in .* 1.95e\+15 times"):
    FolderTokenizer(tmp_path)


def test_a_text_of_far_too_many_tokens_is_named(tmp_path):
  tiny_text.write_model_folder(tmp_path)
  content = json.loads((tmp_path / "tokenizer.json").read_text("utf-8"))
  write(tmp_path, "tokenizer.json", {**content, "normalizer": REPLACE})
  tokenizer = FolderTokenizer(tmp_path)
  assert len(tokenizer.encode("bqb")) == 52
  with pytest.raises(InputError, match=r"500 tokens .* begins 'qqqqqqqqqq'"):
    tokenizer.encode_batch(["b", "q" * 10])


@pytest.mark.parametrize("examples", fuzz.EXAMPLES)
def test_any_folder(tmp_path, examples):
  tiny_text.write_model_folder(tmp_path)
  for name in ("tokenizer.json", "config.json"):
    good = (tmp_path / name).read_bytes()

    def act(content, path=tmp_path / name):
      path.write_bytes(content)
      tokenizer = FolderTokenizer(tmp_path)
      tokenizer.decode(tokenizer.encode("hello é <|endoftext|> w##"))

    fuzz.each(examples, fuzz.contents(json.loads(good)), act)
    (tmp_path / name).write_bytes(good)


def qwen2(folder, **changes):
  """A folder with Qwen 2's files; ids 0 to 260 are text, then three more."""
  vocab = tiny_text.bpe_vocab()
  del vocab["<|endoftext|>"]
  write(folder, "vocab.json", vocab)
  write(folder, "merges.txt", "\n".join(["#version: 0.2", *tiny_text.MERGES]))
  names = ("<|endoftext|>", "<|mask|>", "<|beginoftext|>")
  told = {
    "tokenizer_class": "DreamTokenizer",
    "mask_token": "<|mask|>",
    "pad_token": "<|endoftext|>",
    "added_tokens_decoder": {
      str(261 + i): {"content": name, "special": True}
      for i, name in enumerate(names)
    },
  }
  write(folder, "tokenizer_config.json", told | changes)
  return folder


def test_the_files_of_qwen_2_serve(tmp_path):
  # `transformers` 4.57.1 gave the same ids for 2,007 texts with GPT-2's merges.
  tokenizer = FolderTokenizer(qwen2(tmp_path))
  assert tokenizer.vocab == Vocab(size=264, mask=262, pad=261)
  o = tiny_text.bpe_vocab()["o"]
  assert tokenizer.encode("hello w##") == [258, o, 259, 260]
  # A combining accent becomes one letter with its base.
  assert tokenizer.encode("e\u0301") == tokenizer.encode("\u00e9")
  text = "I'll say 12 things;\r\n\n  yes <|mask|>"
  assert tokenizer.decode(tokenizer.encode(text)) == text
  # What is saved is a tokenizer.json, which is the same tokenizer.
  (tmp_path / "saved").mkdir()
  tokenizer.save(tmp_path / "saved")
  again = FolderTokenizer(tmp_path / "saved", mask=262, pad=261, size=264)
  assert again.fingerprint == tokenizer.fingerprint


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"tokenizer_class": "LlamaTokenizer"}, "holds no tokenizer.json"),
    ({"added_tokens_decoder": {"x": {"content": "a"}}}, "cannot read"),
    ({"added_tokens_decoder": {"1": "a"}}, "cannot read"),
  ],
)
def test_other_files_without_a_tokenizer_are_refused(
  changes, message, tmp_path
):
  with pytest.raises(InputError, match=message) as error:
    FolderTokenizer(qwen2(tmp_path, **changes))
  assert "\n" not in str(error.value)
