"""A BPE of five merges, and files of JSON lines."""

import gzip
import json

MERGES = ["h e", "l l", "he ll", "Ġ w", "# #"]

# One letter of each of Unicode's planes, and what is lost easily.
HARD = [
  "".join(chr(plane << 16 | 0x1042) for plane in range(17)),
  "".join(map(chr, range(0x100))),
  "\0",
  "\0a\0\0",
  "\r\n \r \n\n\t\x0b\x0c\x85\u2028\u2029",
  " a ",
  "   ",
  "\n",
  "\ufeffa\ufeff",
  "\ufffd\ufffe\uffff\U0010ffff",
  "e\u0301 \u00e9 \u212b \ufb01",
  "\u200d\u202e\u2066",
  "Ġ▁Ċ##",
  "<|endoftext|><|mdm_mask|>[MASK][PAD]<unk><s></s><0x0A>",
]


def byte_characters():
  """GPT-2's characters for the bytes, in the order of their ids."""
  printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
  others = [b for b in range(256) if b not in printable]
  return [*map(chr, printable), *(chr(256 + i) for i in range(len(others)))]


def bpe_vocab():
  tokens = [*byte_characters(), *(m.replace(" ", "") for m in MERGES)]
  return {token: i for i, token in enumerate([*tokens, "<|endoftext|>"])}


def write_bpe(folder, vocab_name="encoder.json", merges_name="vocab.bpe"):
  folder.mkdir(exist_ok=True)
  (folder / vocab_name).write_text(json.dumps(bpe_vocab()), "utf-8")
  text = "\n".join(["#version: 0.2", *MERGES, ""])
  (folder / merges_name).write_text(text, "utf-8")
  return folder


def write_jsonl(path, texts):
  lines = "".join(json.dumps({"text": text}) + "\n" for text in texts)
  if path.suffix == ".gz":
    path.write_bytes(gzip.compress(lines.encode(), mtime=0))
  else:
    path.write_text(lines, "utf-8")
  return path


def write_model_folder(folder, **config):
  """A tokenizer as LLaDA's folder has it: the pad is the end of text.

  Ids 0 to 260 are text, 261 <|endoftext|>, 262 <|mdm_mask|>; the model has 270.
  """
  import tokenizers

  folder.mkdir(exist_ok=True)
  vocab = bpe_vocab()
  del vocab["<|endoftext|>"]
  bpe = tokenizers.Tokenizer(
    tokenizers.models.BPE(vocab, [tuple(m.split()) for m in MERGES])
  )
  bpe.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(
    add_prefix_space=False
  )
  bpe.decoder = tokenizers.decoders.ByteLevel()
  bpe.add_special_tokens(["<|endoftext|>"])
  bpe.add_tokens(["<|mdm_mask|>"])  # not marked as special
  bpe.post_processor = tokenizers.processors.TemplateProcessing(
    single="$A <|endoftext|>", special_tokens=[("<|endoftext|>", 261)]
  )
  bpe.enable_truncation(4)
  bpe.enable_padding(length=4)
  bpe.save(str(folder / "tokenizer.json"))
  config = {
    "mask_token_id": 262,
    "pad_token_id": 261,
    "eos_token_id": 261,
    "vocab_size": 270,
    **config,
  }
  (folder / "config.json").write_text(json.dumps(config), "utf-8")
  return folder
