"""The public 7B FlexMDM: Dream-Coder-7B, trained on whole as a FlexMDM.

Its folder is a Dream folder with one file more, `flexmdm_extras.pt`, a pickled
dict of what was added; or `flexmdm_extras.safetensors`, with the same keys. The
schedules are in no file. Prompts are BOS, prompt, pad, answer.

Its gap head has an output for each token, the log of the number that is missing
after it, and nothing is ever missing before the first; its token outputs are
shifted by one, as Dream's are: see `shifted` of `models.transformer`.

Source: arXiv 2607.26504, its code's settings and the model's card.
"""

import pathlib
from collections.abc import Mapping
from typing import Any

from flexmdm_jax.errors import InputError
from flexmdm_jax.interpolant import JointInterpolant
from flexmdm_jax.models.transformer import Transformer
from flexmdm_jax.pretrained import folder as folders
from flexmdm_jax.pretrained.weights import Weight
from flexmdm_jax.reading import read_json
from flexmdm_jax.sampling.config import SamplerConfig
from flexmdm_jax.schedules import Power
from flexmdm_jax.vocab import Vocab

# Tokens of the longest sequence that it was trained on.
MAX_LENGTH = 768
# It was trained on these, which a folder does not tell.
INTERPOLANT = JointInterpolant(insertion=Power(1.7), unmasking=Power(2.89))
# It is sampled on these as published, and shown the time of its training at
# which as many tokens are there: `fm.on_path(denoiser, INTERPOLANT, PATH)`.
PUBLISHED_PATH = JointInterpolant(insertion=Power(2.9), unmasking=Power(2.89))
# As published, but for two things: the number of masks that a step reveals is
# binomial, not Poisson; and what the last step reveals is drawn at the same low
# temperature, where theirs takes the likeliest token.
PUBLISHED_SAMPLER = SamplerConfig(
  steps=512,
  method="adaptive",
  confidence="top_prob",
  insertions="published",
  temperature=0.1,
)
# The better file comes first: it needs no reader of pickles.
_EXTRAS = (folders.EXTRAS_FILE, "flexmdm_extras.pt")
_NAMES = {
  "time_mlp.0": "time/in",
  "time_mlp.2": "time/out",
  "temb_mods.{}": "modulation",
  "insertion_head.proj1": "gap_head/in",
  "insertion_head.proj2": "gap_head/out",
}
# The names of what is added to Dream's weights.
TABLE = (
  Weight("insertion_head.norm.weight", "gap_head/norm/scale"),
  Weight("insertion_head.norm.bias", "gap_head/norm/bias"),
  *(Weight(f"{x}.weight", f"{y}/kernel", 1) for x, y in _NAMES.items()),
  *(Weight(f"{x}.bias", f"{y}/bias") for x, y in _NAMES.items()),
)


def extras_file(folder: str | pathlib.Path) -> pathlib.Path | None:
  """Finds the file of what a FlexMDM adds to Dream; None without one."""
  paths = [pathlib.Path(folder) / name for name in _EXTRAS]
  return next((path for path in paths if path.exists()), None)


def is_flexmdm(folder: str | pathlib.Path) -> bool:
  """Tells whether a folder is a public FlexMDM's, by its two files.

  Raises:
    InputError: `config.json` cannot be read.
  """
  folder = pathlib.Path(folder)
  if not (folder / "config.json").exists() or extras_file(folder) is None:
    return False
  return _is_dream(folders.read_config(folder))


def extended(model: Transformer, config: Mapping[str, Any]) -> Transformer:
  """Makes the FlexMDM of a Dream network.

  Args:
    model: the backbone.
    config: its parsed `config.json`.

  Raises:
    InputError: it is no Dream.
  """
  if not _is_dream(config):
    raise InputError(
      f"config.json has model_type={config.get('model_type')!r:.60}, but the"
      " folder has a FlexMDM's extras, which belong to model_type='Dream':"
      " take both from one model."
    )
  return model.clone(
    max_length=min(model.max_length, MAX_LENGTH),
    begin=None,
    shifted=True,
    gap_head="log_rate",
    time_group=1,
    time_scale=1000.0,
  )


def begin_id(folder: str | pathlib.Path, vocab: Vocab) -> int:
  """Finds the id that begins every prompt, the tokenizer's `bos_token`.

  `config.json` has another one, the pad.

  Args:
    folder: holds tokenizer_config.json, and tokenizer.json where the first does
      not list the tokens.
    vocab: the id space.

  Raises:
    InputError: they do not tell it.
  """
  folder = pathlib.Path(folder)
  path = folder / "tokenizer_config.json"
  told = read_json(path, fix="download it again")
  token = told.get("bos_token")
  token = token.get("content") if isinstance(token, dict) else token
  token = token if isinstance(token, str) else None
  ids = dict(_listed(told.get("added_tokens_decoder")))
  if token not in ids and (folder / "tokenizer.json").exists():
    content = read_json(folder / "tokenizer.json", fix="download it again")
    added = content.get("added_tokens")
    for entry in added if isinstance(added, list) else ():
      if isinstance(entry, dict) and isinstance(entry.get("content"), str):
        ids[entry["content"]] = entry.get("id")
  found = ids.get(token)
  if type(found) is not int or not 0 <= found < vocab.size:
    raise InputError(
      f"{path} does not tell the id of bos_token={token!r:.60}, with which"
      " every prompt begins: give the tokenizer's own files."
    )
  return found


def _is_dream(config: Mapping[str, Any]) -> bool:
  return config.get("model_type") == "Dream"


def _listed(tokens: Any):
  """Yields pairs (token, id) of a tokenizer_config.json's list."""
  for number, entry in tokens.items() if isinstance(tokens, dict) else ():
    if isinstance(entry, dict) and isinstance(entry.get("content"), str):
      if number.isascii() and number.isdigit():
        yield entry["content"], int(number[:12])
