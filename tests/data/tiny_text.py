"""A BPE of five merges, and files of JSON lines."""

import gzip
import json

MERGES = ["h e", "l l", "he ll", "Ġ w", "# #"]


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
    path.write_bytes(gzip.compress(lines.encode()))
  else:
    path.write_text(lines, "utf-8")
  return path
