"""The id space: what it accepts, and that its errors name the field."""

import dataclasses

import pytest

import flexmdm_jax as fm


def test_first_and_last_ids_are_valid():
  vocab = fm.Vocab(size=3, mask=0, pad=2)
  assert (vocab.size, vocab.mask, vocab.pad) == (3, 0, 2)


def test_is_frozen_and_hashable():
  vocab = fm.Vocab(size=5, mask=3, pad=4)
  assert hash(vocab) == hash(fm.Vocab(5, 3, 4))
  with pytest.raises(dataclasses.FrozenInstanceError):
    vocab.size = 6


@pytest.mark.parametrize(
  ("arguments", "named"),
  [
    ((5, 5, 4), "Vocab.mask=5"),
    ((5, -1, 4), "Vocab.mask=-1"),
    ((5, 3, 5), "Vocab.pad=5"),
    ((5, 3, -2), "Vocab.pad=-2"),
    ((5, 4, 4), "Vocab.mask and Vocab.pad"),
    ((2, 0, 1), "Vocab.size=2"),
    ((5.0, 3, 4), "Vocab.size"),
    ((5, True, 4), "Vocab.mask"),
    ((5, 3, "4"), "Vocab.pad"),
  ],
)
def test_errors_name_the_field_in_one_line(arguments, named):
  with pytest.raises(fm.InputError) as error:
    fm.Vocab(*arguments)
  assert named in str(error.value)
  assert "\n" not in str(error.value)
