"""Starts of sampling, from what a command line has as text."""

from collections.abc import Callable

from flexmdm_jax.errors import InputError
from flexmdm_jax.rows import (
  Rows,
  causal_start,
  empty_start,
  infill_start,
  mask_start,
  prompt_start,
)
from flexmdm_jax.tasks.task import parse_ids
from flexmdm_jax.vocab import Vocab


def parse_start(
  B: int,
  L: int,
  vocab: Vocab,
  *,
  inserts: bool,
  causal: bool = False,
  prompt: str | None = None,
  prefix: str | None = None,
  suffix: str | None = None,
  encode: Callable[[str], list[int]] | None = None,
) -> Rows:
  """Makes `B` equal rows from what a command line has as text.

  Args:
    B: number of rows.
    L: room of a row.
    vocab: the id space.
    inserts: whether the model inserts; a fixed-length MDM starts from masks.
    causal: whether the model reads from left to right; it takes a prompt.
    prompt: text to continue.
    prefix: text before a hole.
    suffix: text after the hole.
    encode: makes ids of these texts; by default they are ids, as text.

  Raises:
    InputError: what is given contradicts itself or is no list of ids,
      or as the start that is made.
  """
  encode = encode or parse_ids
  holes = prefix is not None or suffix is not None
  if prompt is not None and holes:
    raise InputError("--prompt excludes --prefix and --suffix: give one kind.")
  if not inserts and (holes or (prompt is not None and not causal)):
    raise InputError(
      "--prompt, --prefix and --suffix need a model that inserts (an"
      " autoregressive one takes a --prompt): this one has a fixed length."
    )
  if causal:
    return causal_start([encode(prompt or "")] * B, L, vocab)
  if not inserts:
    return mask_start(B, L, vocab)
  if holes:
    rows = [encode(text or "") for text in (prefix, suffix)]
    return infill_start([rows[0]] * B, [rows[1]] * B, L, vocab)
  if prompt is not None:
    return prompt_start([encode(prompt)] * B, L, vocab)
  return empty_start(B, L, vocab)
