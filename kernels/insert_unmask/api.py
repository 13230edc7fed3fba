"""`insert_unmask`: checks its arguments and picks an implementation."""

from flexmdm_jax.kernels.insert_unmask import ref

_IMPLEMENTATIONS = {"reference": ref.insert_unmask}


def insert_unmask(
  tokens, length, revealed, insertions, *, mask, pad, implementation=None
):
  """Reveals masks, then inserts new masks, in every row of a batch.

  When a row has no room for all that is inserted, the gaps are served from the
  left until it is full; nothing that was there is lost.

  Args:
    tokens: i32[B, L], left-aligned rows.
    length: i32[B], their numbers of tokens, in [0, L].
    revealed: i32[B, L], the new token of a position, or -1 to keep the old.
    insertions: i32[B, L+1], masks to insert before each position, the last
      after them all; those beyond gap `length` are ignored.
    mask: id of the inserted tokens.
    pad: id that fills the positions beyond the new length.
    implementation: "reference", or None for the best on this backend.

  Returns:
    (tokens i32[B, L], length i32[B], truncated bool[B]); `truncated` marks rows
    that wanted more than L tokens.

  Raises:
    ValueError: a wrong rank, shape or dtype, or an unknown implementation.
  """
  if tokens.ndim != 2:
    raise ValueError(f"tokens must be [B, L], got shape {tokens.shape}.")
  B, L = tokens.shape
  expected = {
    "tokens": (tokens, (B, L)),
    "length": (length, (B,)),
    "revealed": (revealed, (B, L)),
    "insertions": (insertions, (B, L + 1)),
  }
  for name, (array, shape) in expected.items():
    if array.shape != shape or array.dtype != "int32":
      raise ValueError(
        f"{name} must be int32{list(shape)}, got"
        f" {array.dtype}{list(array.shape)}."
      )
  implementation = implementation or "reference"
  if implementation not in _IMPLEMENTATIONS:
    raise ValueError(
      f"implementation={implementation!r} is unknown: choose one of"
      f" {', '.join(_IMPLEMENTATIONS)}."
    )
  return _IMPLEMENTATIONS[implementation](
    tokens, length, revealed, insertions, mask=mask, pad=pad
  )
