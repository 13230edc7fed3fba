"""Where sampling starts: what is given, and where text may be inserted.

One form serves every task: some tokens are frozen, some gaps are open. An
empty start, a prompt, an infilling with one or several holes, and the subgoals
of a plan differ in nothing else.

Source: arXiv 2509.01025, "conditional generation and infilling".
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from flexmdm_jax.errors import InputError
from flexmdm_jax.vocab import Vocab


class Start(NamedTuple):
  """The state at time 0 of a batch of samples.

  Attributes:
    tokens: left-aligned rows; a mask here is one that is to be revealed.
    length: their numbers of tokens.
    frozen: tokens that are given.
    open_gaps: gaps into which masks may be inserted; the gaps that form inside
      an open gap are open too.
  """

  tokens: Int[Array, "B L"]
  length: Int[Array, " B"]
  frozen: Bool[Array, "B L"]
  open_gaps: Bool[Array, "B L+1"]


def empty_start(B: int, L: int, vocab: Vocab) -> Start:
  """`B` empty rows with room for `L` tokens: unconditional generation."""
  return anchor_start([[] for _ in range(B)], L, vocab)


def prompt_start(
  prompts: Sequence[Sequence[int]], L: int, vocab: Vocab
) -> Start:
  """Rows that continue their prompts: only the gap after it is open.

  Args:
    prompts: token ids of each row's prompt.
    L: room of a row, prompt included.
    vocab: the id space.

  Raises:
    InputError: a prompt is longer than L, or holds the mask or an unknown id.
  """
  return _start(prompts, [{len(p)} for p in prompts], L, vocab, "prompt")


def infill_start(
  prefixes: Sequence[Sequence[int]],
  suffixes: Sequence[Sequence[int]],
  L: int,
  vocab: Vocab,
) -> Start:
  """Rows that fill the hole between a prefix and a suffix.

  Args:
    prefixes: token ids before each row's hole.
    suffixes: token ids after it; as many rows.
    L: room of a row, prefix and suffix included.
    vocab: the id space.

  Raises:
    InputError: numbers of rows differ, prefix and suffix together are longer
      than L, or they hold the mask or an unknown id.
  """
  if len(prefixes) != len(suffixes):
    raise InputError(
      f"{len(prefixes)} prefixes but {len(suffixes)} suffixes: give one of"
      " each to a row (an empty list is allowed)."
    )
  rows = [
    [*prefix, *suffix]
    for prefix, suffix in zip(prefixes, suffixes, strict=True)
  ]
  holes = [{len(prefix)} for prefix in prefixes]
  return _start(rows, holes, L, vocab, "prefix and suffix")


def anchor_start(
  anchors: Sequence[Sequence[int]], L: int, vocab: Vocab
) -> Start:
  """Rows that keep their anchors, in order, with every gap open.

  Args:
    anchors: token ids of each row's anchors (the subgoals of a plan).
    L: room of a row, anchors included.
    vocab: the id space.

  Raises:
    InputError: a row is longer than L, or holds the mask or an unknown id.
  """
  gaps = [set(range(len(row) + 1)) for row in anchors]
  return _start(anchors, gaps, L, vocab, "row of anchors")


def mask_start(B: int, L: int, vocab: Vocab) -> Start:
  """`B` rows of `L` masks, every gap closed: a fixed-length MDM's start."""
  return Start(
    tokens=jnp.full((B, L), vocab.mask, jnp.int32),
    length=jnp.full((B,), L, jnp.int32),
    frozen=jnp.zeros((B, L), bool),
    open_gaps=jnp.zeros((B, L + 1), bool),
  )


def causal_start(
  prompts: Sequence[Sequence[int]], L: int, vocab: Vocab
) -> Start:
  """Rows that an autoregressive model continues, every gap closed.

  Args:
    prompts: token ids of each row's prompt.
    L: room of a row: the mask, which stands for the beginning, and the rest.
    vocab: the id space.

  Raises:
    InputError: as `prompt_start`.
  """
  checked = prompt_start(prompts, L - 1, vocab)
  B = len(prompts)
  first = jnp.full((B, 1), vocab.mask, jnp.int32)
  return Start(
    tokens=jnp.concatenate([first, checked.tokens], axis=1),
    length=checked.length + 1,
    frozen=jnp.concatenate([jnp.ones((B, 1), bool), checked.frozen], axis=1),
    open_gaps=jnp.zeros((B, L + 1), bool),
  )


def _start(rows, open_gaps, L, vocab, what) -> Start:
  """Frozen `rows` with the given sets of open gaps; checks every id."""
  if L < 1:
    raise InputError(f"L={L} must be at least 1.")
  tokens = np.full((len(rows), L), vocab.pad, np.int32)
  is_open = np.zeros((len(rows), L + 1), bool)
  for i, row in enumerate(rows):
    if len(row) > L:
      raise InputError(
        f"{what} {i} has {len(row)} tokens, more than max_length {L}: shorten"
        " it or raise max_length."
      )
    for token in row:
      if token == vocab.mask:
        raise InputError(
          f"{what} {i} holds the mask id {vocab.mask}: remove it; holes are"
          " open gaps, not masks."
        )
      if not 0 <= token < vocab.size:
        raise InputError(
          f"{what} {i} holds the id {token}, out of range [0, {vocab.size}):"
          " use the tokenizer that the model was trained with."
        )
    tokens[i, : len(row)] = row
    is_open[i, list(open_gaps[i])] = True
  length = np.array([len(row) for row in rows], np.int32)
  frozen = np.arange(L) < length[:, None]
  return Start(*map(jnp.asarray, (tokens, length, frozen, is_open)))


def parse_start(
  B: int,
  L: int,
  vocab: Vocab,
  *,
  grows: bool,
  causal: bool = False,
  prompt: str | None = None,
  prefix: str | None = None,
  suffix: str | None = None,
  encode: Callable[[str], list[int]] | None = None,
) -> Start:
  """`B` equal rows from what a command line has as text.

  Args:
    B: rows.
    L: room of a row.
    vocab: the id space.
    grows: whether the model inserts; a fixed-length MDM starts from masks.
    causal: whether it reads from left to right; it takes a prompt.
    prompt: what to continue.
    prefix: what stands before a hole.
    suffix: what stands after it.
    encode: makes the ids of these; by default they are ids, as text.

  Raises:
    InputError: B < 1, what is given contradicts itself or is no list of ids,
      or as the start that is made.
  """
  encode = encode or parse_ids
  if B < 1:
    raise InputError(f"--num={B} must be at least 1.")
  holes = prefix is not None or suffix is not None
  if prompt is not None and holes:
    raise InputError("--prompt excludes --prefix and --suffix: give one kind.")
  if not grows and (holes or (prompt is not None and not causal)):
    raise InputError(
      "--prompt, --prefix and --suffix need a model that inserts (an"
      " autoregressive one takes a --prompt): this one has a fixed length."
    )
  if causal:
    return causal_start([encode(prompt or "")] * B, L, vocab)
  if not grows:
    return mask_start(B, L, vocab)
  if holes:
    rows = [encode(text or "") for text in (prefix, suffix)]
    return infill_start([rows[0]] * B, [rows[1]] * B, L, vocab)
  if prompt is not None:
    return prompt_start([encode(prompt)] * B, L, vocab)
  return empty_start(B, L, vocab)


def parse_ids(text: str) -> list[int]:
  """The ids in a text of numbers separated by spaces or commas."""
  try:
    return [int(word) for word in text.replace(",", " ").split()]
  except ValueError as error:
    raise InputError(
      f"{text!r} is not a list of token ids: separate integers by spaces."
    ) from error
