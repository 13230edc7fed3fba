"""One body of tests for every implementation of `insert_unmask`."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flexmdm_jax.kernels import insert_unmask as kernel

MASK, PAD = 8, 9
B, L = 4, 5

each_implementation = pytest.mark.parametrize(
  "implementation", [None, *kernel.api._IMPLEMENTATIONS]
)


@functools.partial(jax.jit, static_argnames="implementation")
def run(tokens, length, revealed, insertions, implementation):
  return kernel.insert_unmask(
    *(
      jnp.asarray(x, jnp.int32) for x in (tokens, length, revealed, insertions)
    ),
    mask=MASK,
    pad=PAD,
    implementation=implementation,
  )


def oracle(tokens, length, revealed, insertions):
  """One row, token by token: (tokens, length, truncated)."""
  room = L - length
  out = []
  for i in range(length + 1):
    given = min(insertions[i], room)
    room -= given
    out += [MASK] * given
    if i < length:
      out.append(revealed[i] if revealed[i] >= 0 else tokens[i])
  wanted = sum(insertions[: length + 1])
  return out + [PAD] * (L - len(out)), len(out), wanted > L - length


def check(rows, implementation):
  """Compares with the oracle; `rows` are its arguments."""
  got = run(*map(np.array, zip(*rows, strict=True)), implementation)
  expected = zip(*(oracle(*row) for row in rows), strict=True)
  for ours, theirs in zip(got, expected, strict=True):
    np.testing.assert_array_equal(ours, theirs)


KEEP, NONE = [-1] * 5, [0] * 6
# What lies beyond the length is poison: no implementation may read it.
HAND = {
  "nothing": ([1, 2, PAD, PAD, PAD], 2, KEEP, NONE),
  "reveal": ([1, 8, 8, 7, 7], 3, [-1, 5, -1, 6, 6], [0, 0, 0, 0, 99, 99]),
  "empty_row": ([7] * 5, 0, [6] * 5, [2, 99, 99, 99, 99, 99]),
  "every_gap": ([1, 2, 7, 7, 7], 2, [-1, -1, 6, 6, 6], [1, 1, 1, 99, 99, 99]),
  "reveal_moves": ([8, 2, 7, 7, 7], 2, [3, -1, 6, 6, 6], [2, 0, 1, 99, 99, 99]),
  "overflow": ([1, 2, 3, 7, 7], 3, [-1, -1, -1, 6, 6], [0, 1, 3, 1, 99, 99]),
  "full": ([1, 2, 8, 4, 5], 5, [-1, -1, 3, -1, -1], [0, 0, 0, 0, 0, 1]),
  "huge": ([1, 7, 7, 7, 7], 1, [-1, 6, 6, 6, 6], [0, 2**31 - 1, 0, 0, 0, 0]),
  "more_than_a_row": ([7] * 5, 0, [6] * 5, [6, 99, 99, 99, 99, 99]),
  "sum_overflows": ([1, 7, 7, 7, 7], 1, KEEP, [2**31 - 1] * 6),
}
WORKED = {
  "nothing": ([1, 2, 9, 9, 9], 2, False),
  "reveal": ([1, 5, 8, 9, 9], 3, False),
  "empty_row": ([8, 8, 9, 9, 9], 2, False),
  "every_gap": ([8, 1, 8, 2, 8], 5, False),
  "reveal_moves": ([8, 8, 3, 2, 8], 5, False),
  "overflow": ([1, 8, 2, 8, 3], 5, True),
  "full": ([1, 2, 3, 4, 5], 5, True),
  "huge": ([1, 8, 8, 8, 8], 5, True),
  "more_than_a_row": ([8, 8, 8, 8, 8], 5, True),
  "sum_overflows": ([8, 8, 8, 8, 1], 5, True),
}


@each_implementation
def test_worked_by_hand(implementation):
  for start in range(0, len(HAND), B):
    names = list(HAND)[start : start + B]
    names += ["nothing"] * (B - len(names))
    columns = zip(*(HAND[name] for name in names), strict=True)
    got = run(*map(np.array, columns), implementation)
    for ours, theirs in zip(
      got, zip(*(WORKED[name] for name in names), strict=True), strict=True
    ):
      np.testing.assert_array_equal(ours, theirs, err_msg=str(names))


def row_strategy():
  token = st.integers(0, 9)
  return st.tuples(
    st.lists(token, min_size=L, max_size=L),
    st.integers(0, L),
    st.lists(st.just(-1) | token, min_size=L, max_size=L),
    st.lists(
      st.sampled_from([0, 0, 0, 1, 2, 7]), min_size=L + 1, max_size=L + 1
    ),
  )


@each_implementation
@settings(max_examples=200, deadline=None)
@given(st.lists(row_strategy(), min_size=B, max_size=B))
def test_as_token_by_token(implementation, rows):
  check(rows, implementation)


ARGUMENTS = {
  "tokens": jnp.zeros((B, L), jnp.int32),
  "length": jnp.zeros(B, jnp.int32),
  "revealed": jnp.zeros((B, L), jnp.int32),
  "insertions": jnp.zeros((B, L + 1), jnp.int32),
}


@pytest.mark.parametrize(
  ("name", "value", "message"),
  [
    ("tokens", jnp.zeros(L, jnp.int32), r"tokens must be \[B, L\]"),
    ("tokens", jnp.zeros((B, L)), "tokens must be int32"),
    ("length", jnp.zeros((B, 1), jnp.int32), "length must be int32"),
    ("revealed", jnp.zeros((B, L + 1), jnp.int32), "revealed must be int32"),
    ("insertions", jnp.zeros((B, L), jnp.int32), "insertions must be int32"),
    ("insertions", jnp.zeros((B, L + 1)), "insertions must be int32"),
  ],
)
def test_wrong_argument_is_named(name, value, message):
  with pytest.raises(ValueError, match=message):
    kernel.insert_unmask(**{**ARGUMENTS, name: value}, mask=MASK, pad=PAD)


def test_unknown_implementation_is_named():
  with pytest.raises(ValueError, match="implementation='fast' is unknown"):
    kernel.insert_unmask(**ARGUMENTS, mask=MASK, pad=PAD, implementation="fast")
