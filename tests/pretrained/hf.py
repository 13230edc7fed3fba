"""Hugging Face folders to convert, right and wrong."""

import json
import pathlib
import shutil

import numpy as np
from safetensors.numpy import load_file, save_file

ROOT = pathlib.Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "golden" / "llada_tiny"
INDEX = "model.safetensors.index.json"


def copy(folder, shards=1, dtype=np.float32):
  """A copy of the golden LLaDA, in so many files, of a type."""
  folder.mkdir(parents=True)
  shutil.copy(GOLDEN / "config.json", folder)
  state = load_file(GOLDEN / "model.safetensors")
  write(folder, {key: x.astype(dtype) for key, x in state.items()}, shards)
  return folder


def write(folder, state, shards=1):
  """The weights, in so many files."""
  if shards == 1:
    save_file(state, folder / "model.safetensors")
    return
  index = {}
  for i in range(shards):
    name = f"model-{i + 1:05d}-of-{shards:05d}.safetensors"
    part = dict(list(state.items())[i::shards])
    save_file(part, folder / name)
    index |= dict.fromkeys(part, name)
  (folder / INDEX).write_text(json.dumps({"weight_map": index}))


def edit_json(path, **changes):
  """Sets keys of a JSON file; those whose value is None are removed."""
  parsed = {**json.loads(path.read_text()), **changes}
  parsed = {key: x for key, x in parsed.items() if x is not None}
  path.write_text(json.dumps(parsed))


def edit_weights(folder, change):
  """Lets `change` alter the state in `model.safetensors`."""
  path = folder / "model.safetensors"
  state = load_file(path)
  change(state)
  save_file(state, path)


_BLOCK = "model.transformer.blocks.3"


def _in_two_files(folder):
  (folder / "model.safetensors").unlink()
  write(folder, load_file(GOLDEN / "model.safetensors"), shards=2)


def _missing(folder):
  edit_weights(folder, lambda x: x.pop(f"{_BLOCK}.q_proj.weight"))


def _unknown(folder):
  edit_weights(folder, lambda x: x.update({f"{_BLOCK}.q_norm": np.ones(4)}))


def _mis_shaped(folder):
  key = f"{_BLOCK}.ff_proj.weight"
  edit_weights(folder, lambda x: x.update({key: x[key].T.copy()}))


def _quantised(folder):
  key = f"{_BLOCK}.k_proj.weight"
  edit_weights(folder, lambda x: x.update({key: x[key].astype(np.int8)}))


def _duplicate(folder):
  _in_two_files(folder)
  names = [f"model-0000{i}-of-00002.safetensors" for i in (1, 2)]
  first, second = (load_file(folder / name) for name in names)
  key = next(iter(first))
  save_file(second | {key: first[key]}, folder / names[1])


def _shard_is_missing(folder):
  _in_two_files(folder)
  (folder / "model-00002-of-00002.safetensors").unlink()


def _index_is_wrong(folder):
  _in_two_files(folder)
  first = "model-00001-of-00002.safetensors"
  index = json.loads((folder / INDEX).read_text())["weight_map"]
  edit_json(folder / INDEX, weight_map=dict.fromkeys(index, first))


def _truncated(folder):
  path = folder / "model.safetensors"
  path.write_bytes(path.read_bytes()[:-100])


def _no_weights(folder):
  (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def _no_config(folder):
  (folder / "config.json").unlink()


def _broken_config(folder):
  (folder / "config.json").write_text("{")


def _config(**changes):
  return lambda folder: edit_json(folder / "config.json", **changes)


def _tokenizer(folder):
  tokenizer = {
    "model": {"vocab": {"a": 0, "b": 1}},
    "added_tokens": [{"id": 200, "content": "<mask>"}],
  }
  (folder / "tokenizer.json").write_text(json.dumps(tokenizer))


# name -> (what is done to a good folder, what the one line must hold)
BAD = {
  "missing tensor": (_missing, f"{_BLOCK}.q_proj.weight"),
  "unknown tensor": (_unknown, f"{_BLOCK}.q_norm"),
  "mis-shaped tensor": (_mis_shaped, "[96, 64]"),
  "quantised tensor": (_quantised, f"{_BLOCK}.k_proj.weight"),
  "duplicate tensor": (_duplicate, "is in two files"),
  "missing file": (_shard_is_missing, "model-00002-of-00002.safetensors"),
  "wrong index": (_index_is_wrong, "model-00001-of-00002.safetensors"),
  "truncated file": (_truncated, "model.safetensors"),
  "no weights": (_no_weights, ".safetensors"),
  "no config": (_no_config, "config.json"),
  "broken config": (_broken_config, "config.json"),
  "architecture": (
    _config(architectures=["LlamaForCausalLM"]),
    "LlamaForCausalLM",
  ),
  "no architecture": (_config(architectures=None), "architectures"),
  "unsupported network": (_config(alibi=True), "alibi=True"),
  "no mask id": (_config(mask_token_id=None), "mask_token_id"),
  "mask id out of range": (_config(mask_token_id=200), "mask=200"),
  "fewer ids than the tokenizer": (_tokenizer, "200"),
}
