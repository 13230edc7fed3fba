"""The example runs, and its law is what it says."""

import jax
import numpy as np

from examples import minimal


def test_law_is_balanced_and_sums_to_one():
  tokens, length, probability = minimal.make_law()
  assert np.isclose(probability.sum(), 1)
  words = [
    tuple(row[:n].tolist()) for row, n in zip(tokens, length, strict=True)
  ]
  assert len(set(words)) == len(words) == 2 + 2 * 4 + 5 * 8
  for word in words:
    opened = []
    for symbol in word:
      if symbol % 2:
        assert opened.pop() == symbol - 1
      else:
        opened.append(symbol)
    assert not opened


def test_it_trains_samples_and_bounds(capsys):
  with jax.numpy_dtype_promotion("standard"):  # optax relies on it
    losses, words, bound, entropy = minimal.main(
      num_steps=60, batch_size=32, num_samples=16
    )
  assert np.mean(losses[-15:]) < np.mean(losses[:15])
  assert len(words) == 16
  assert bound > entropy
  assert "balanced:" in capsys.readouterr().out
