import pytest

from flexmdm_jax.demo.bounds import Bounds, doubled, read_text
from flexmdm_jax.errors import InputError
from tests.inference.tiny import model

BOUNDS = Bounds(characters=30, holes=2, texts=2)


@pytest.mark.parametrize(
  ("text", "parts"),
  [
    ("a [...] b", ["a ", " b"]),
    ("[...]", ["", ""]),
    ("a[…]b[...]", ["a", "b", ""]),
    ("[[...]]", ["[", "]"]),
  ],
)
def test_holes_part_a_text(text, parts):
  assert BOUNDS.parts(text) == parts


@pytest.mark.parametrize(
  ("text", "match"),
  [
    ("a [..] b", r"no hole: write \[\.\.\.\]"),
    ("[...] [...] [...]", "3 holes, more than 2"),
    ("x" * 31, "31 characters, more than 30"),
    (None, "a text is needed, not None"),
    ({"path": "/etc/passwd"}, "a text is needed"),
  ],
)
def test_what_cannot_be_parted_is_refused(text, match):
  with pytest.raises(InputError, match=match):
    BOUNDS.parts(text)


def test_lines_that_are_blank_are_no_texts():
  assert BOUNDS.lines("a b\n\n  \nc\n") == ["a b", "c"]
  with pytest.raises(InputError, match="there is no text"):
    BOUNDS.lines("\n \n")
  with pytest.raises(InputError, match="3 texts, more than 2"):
    BOUNDS.lines("a\nb\nc")


def test_ids_are_read_where_there_is_no_tokenizer():
  assert read_text(model(), "0 1") == "0 1"
  assert read_text(model(tokenizer=None), "0 1, 2") == [0, 1, 2]
  with pytest.raises(InputError, match="not a list of token ids"):
    read_text(model(tokenizer=None), "ab")


def test_choices_double():
  assert doubled(1, 8) == [1, 2, 4, 8]
  assert doubled(8, 100) == [8, 16, 32, 64]


def test_bounds_are_positive():
  with pytest.raises(InputError, match=r"demo.holes=0 must be"):
    Bounds(holes=0)
