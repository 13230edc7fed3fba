"""Tests of random draws against their law."""

import numpy as np
import scipy.stats


def chi_square(draws, probabilities):
  """p-value of the counts of 0, 1, 2, ...; what is improbable is pooled.

  What is drawn beyond the given probabilities is pooled too, so that a long
  law may be cut where next to nothing is left.
  """
  p = np.asarray(probabilities, np.float64)
  counts = np.bincount(np.ravel(draws), minlength=len(p))
  p = np.append(p, np.zeros(len(counts) - len(p)))
  expected = p * counts.sum()
  rare = expected < 5
  if expected[rare].sum() < 1e-6:
    assert not counts[rare].any()
    return scipy.stats.chisquare(counts[~rare], expected[~rare]).pvalue
  counts = np.append(counts[~rare], counts[rare].sum())
  expected = np.append(expected[~rare], expected[rare].sum())
  expected[-1] += counts.sum() - expected.sum()
  return scipy.stats.chisquare(counts, expected).pvalue
