"""What each builder of a start fixes and leaves open."""

import numpy as np
import pytest

import flexmdm_jax as fm

VOCAB = fm.Vocab(size=5, mask=3, pad=4)


def check(start, tokens, length, frozen, open_gaps):
  as_rows = [list(map(int, row)) for row in tokens]
  np.testing.assert_array_equal(start.tokens, as_rows)
  np.testing.assert_array_equal(start.length, length)
  for array, rows in ((start.frozen, frozen), (start.open_gaps, open_gaps)):
    np.testing.assert_array_equal(array, [[c == "x" for c in r] for r in rows])
  assert start.tokens.dtype == start.length.dtype == np.int32


def test_empty_start():
  check(
    fm.empty_start(2, 3, VOCAB),
    ["444", "444"], [0, 0], ["---", "---"], ["x---", "x---"],
  )  # fmt: skip


def test_prompt_start():
  check(
    fm.prompt_start([[0, 1], [], [2, 1, 0]], 3, VOCAB),
    ["014", "444", "210"],
    [2, 0, 3],
    ["xx-", "---", "xxx"],
    ["--x-", "x---", "---x"],
  )


def test_infill_start():
  check(
    fm.infill_start([[0], [], [1, 2]], [[1, 2], [0], []], 3, VOCAB),
    ["012", "044", "124"],
    [3, 1, 2],
    ["xxx", "x--", "xx-"],
    ["-x--", "x---", "--x-"],
  )


def test_anchor_start():
  check(
    fm.anchor_start([[0, 1], []], 3, VOCAB),
    ["014", "444"], [2, 0], ["xx-", "---"], ["xxx-", "x---"],
  )  # fmt: skip


def test_mask_start():
  check(fm.mask_start(1, 3, VOCAB), ["333"], [3], ["---"], ["----"])


def test_pad_may_be_given_as_a_token():
  start = fm.prompt_start([[0, VOCAB.pad]], 3, VOCAB)
  assert start.length[0] == 2 and start.frozen[0, 1]


BUILDERS = {
  "prompt": lambda row, L: fm.prompt_start([[0], row], L, VOCAB),
  "prefix and suffix": lambda row, L: fm.infill_start(
    [[0], row[:1]], [[], row[1:]], L, VOCAB
  ),
  "row of anchors": lambda row, L: fm.anchor_start([[0], row], L, VOCAB),
}


@pytest.mark.parametrize("name", BUILDERS)
@pytest.mark.parametrize(
  ("row", "L", "message"),
  [
    ([0, 1, 0, 1], 3, "has 4 tokens, more than max_length 3"),
    ([0, VOCAB.mask], 3, "holds the mask id 3"),
    ([0, 5], 3, r"holds the id 5, out of range \[0, 5\)"),
    ([-1, 0], 3, "holds the id -1"),
  ],
)
def test_wrong_row_is_named(name, row, L, message):
  with pytest.raises(fm.InputError, match=f"{name} 1 {message}"):
    BUILDERS[name](row, L)


def test_infill_needs_as_many_suffixes_as_prefixes():
  with pytest.raises(fm.InputError, match="1 prefixes but 2 suffixes"):
    fm.infill_start([[0]], [[1], [1]], 3, VOCAB)


def test_a_row_needs_room():
  with pytest.raises(fm.InputError, match="L=0 must be at least 1"):
    fm.empty_start(2, 0, VOCAB)
