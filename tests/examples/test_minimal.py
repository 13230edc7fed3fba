import ast
import pathlib

import jax
import numpy as np
import pytest

import flexmdm_jax as fm
from examples import minimal


@pytest.mark.slow
def test_trains_samples_and_bounds(capsys):
  with jax.numpy_dtype_promotion("standard"):  # optax divides its count
    losses, words, bound, entropy = minimal.main(
      num_steps=60, batch_size=32, num_samples=20
    )
  assert np.mean(losses[-10:]) < 0.7 * np.mean(losses[:10])
  assert len(words) == 20
  assert all(set(word) <= {0, 1} for word in words)
  assert entropy < bound
  assert "entropy" in capsys.readouterr().out


def test_law_is_of_all_balanced_words():
  tokens, length, probability = minimal.make_law()
  # Catalan's numbers: 1, 2, 5, 14.
  assert np.bincount(length).tolist() == [0, 0, 1, 0, 2, 0, 5, 0, 14]
  np.testing.assert_allclose(probability.sum(), 1)
  assert (tokens[length == 2] == [[0, 1] + 6 * [minimal.VOCAB.pad]]).all()


def test_is_short_and_needs_the_public_face_only():
  text = pathlib.Path(minimal.__file__).read_text()
  assert len(text.splitlines()) <= 150
  for node in ast.walk(ast.parse(text)):
    if isinstance(node, ast.ImportFrom):
      assert not node.module.startswith("flexmdm_jax")
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
      assert node.value.id != "fm" or node.attr in fm.__all__
