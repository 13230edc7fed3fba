"""Brackets: every word balanced, uniform, and of one split."""

import collections
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from flexmdm_jax.data.splits import SPLITS
from flexmdm_jax.errors import InputError
from flexmdm_jax.tasks.brackets import law as brackets


def tokens(text):
  return [brackets.SYMBOLS.index(symbol) for symbol in text]


def take(n, split, seed=0, kinds=4):
  return list(itertools.islice(brackets.words(split, seed, kinds), n))


def all_words(length, kinds):
  alphabet = range(2 * kinds)
  return [
    word
    for word in itertools.product(alphabet, repeat=length)
    if brackets.is_balanced(word, kinds)
  ]


@pytest.mark.parametrize("text", ["", "()", "([]{<>})", "()[]", "(())"])
def test_balanced(text):
  assert brackets.is_balanced(tokens(text))
  assert brackets.is_balanced(np.array(tokens(text), np.int32))


@pytest.mark.parametrize("text", ["(", ")", ")(", "([)]", "(]", "(()", "())"])
def test_unbalanced(text):
  assert not brackets.is_balanced(tokens(text))


@pytest.mark.parametrize("word", [[8, 9], [0, 8, 1], [-2, -1], [10**9]])
def test_other_ids_are_unbalanced(word):
  assert not brackets.is_balanced(word)


def test_mask_and_pad_of_fewer_kinds_are_no_brackets():
  vocab = brackets.bracket_vocab(2)
  assert (vocab.size, vocab.mask, vocab.pad) == (6, 4, 5)
  assert not brackets.is_balanced([vocab.mask, vocab.pad], kinds=2)


def test_text():
  assert brackets.to_text(tokens("([]{<>})")) == "([]{<>})"
  assert brackets.to_text(np.array([0, 8, 9, 11, -1])) == "(_.??"
  assert brackets.to_text([0, 3, 4, 5], kinds=2) == "(]_."


@settings(max_examples=50, deadline=None)
@given(
  seed=st.integers(0, 2**32), half=st.integers(1, 40), kinds=st.integers(1, 4)
)
def test_words_are_balanced(seed, half, kinds):
  word = brackets.draw_word(np.random.default_rng(seed), 2 * half, kinds)
  assert word.shape == (2 * half,) and word.dtype == np.int32
  assert brackets.is_balanced(word, kinds)


def test_words_are_uniform():
  rng = np.random.default_rng(0)
  counts = collections.Counter(
    tuple(brackets.draw_word(rng, 6, 2).tolist()) for _ in range(8000)
  )
  words = all_words(6, 2)
  assert len(words) == 40 and set(words) == set(counts)  # Catalan 5 * 2^3
  assert stats.chisquare([counts[w] for w in words]).pvalue > 1e-3


@pytest.mark.parametrize("split", SPLITS)
def test_length_law_is_exact_in_every_split(split):
  n = 3000
  counts = collections.Counter(len(word) for word in take(n, split))
  assert set(counts) == set(brackets.LENGTHS)
  expected = n * np.array(brackets.PROBABILITIES)
  observed = [counts[length] for length in brackets.LENGTHS]
  assert stats.chisquare(observed, expected).pvalue > 1e-3


@pytest.mark.parametrize("kinds", [2, 3, 4])
def test_every_split_owns_short_words(kinds):
  owners = {brackets.word_split(np.array(w)) for w in all_words(4, kinds)}
  assert owners == set(SPLITS)


def test_splits_share_no_word():
  seen = {
    split: {word.tobytes() for word in take(600, split)} for split in SPLITS
  }
  for a, b in itertools.combinations(SPLITS, 2):
    assert not seen[a] & seen[b]


def test_seed_determines_the_words():
  def texts(seed):
    return [brackets.to_text(word) for word in take(20, "train", seed)]

  assert texts(0) == texts(0) != texts(1)


@pytest.mark.parametrize("kinds", [-1, 0, 1, 5])
def test_rejects_kinds(kinds):
  with pytest.raises(InputError, match=f"kinds={kinds} must be 2, 3 or 4"):
    brackets.words("train", 0, kinds)
  with pytest.raises(InputError, match=f"kinds={kinds}"):
    brackets.bracket_vocab(kinds)


def test_rejects_split_and_seed():
  with pytest.raises(InputError, match="split='eval' is unknown"):
    brackets.words("eval", 0)
  with pytest.raises(InputError, match="seed=-1 must be at least 0"):
    brackets.words("train", -1)
