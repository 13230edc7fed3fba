"""pass@k: the chance that one of k samples of a row passes."""

import math
from collections.abc import Sequence

import numpy as np

from flexmdm_jax.errors import InputError


def pass_at_k(n: int, c: int, k: int) -> float:
  """Estimates pass@k of one row without bias: 1 - C(n - c, k) / C(n, k).

  Args:
    n: samples of the row.
    c: how many of them passed.
    k: samples of which one must pass.

  Raises:
    InputError: not 0 <= c <= n, or not 1 <= k <= n.

  Source: arXiv 2107.03374, equation 1.
  """
  if not 0 <= c <= n:
    raise InputError(f"c={c} must be in [0, n], where n={n}.")
  if not 1 <= k <= n:
    raise InputError(
      f"k={k} must be in [1, n], where n={n}: pass@k needs k samples of a row"
      " at least."
    )
  return 1 - math.comb(n - c, k) / math.comb(n, k)


def mean_and_stderr(values: Sequence[float]) -> tuple[float, float | None]:
  """Computes a mean over rows and its standard error.

  Args:
    values: one for each row; at least one.

  Returns:
    (mean, standard error), the error None with fewer than two rows. It is that
    of another set of rows and samples of the same kind.
  """
  values = np.asarray(values, np.float64)
  if len(values) < 2:
    return float(values.mean()), None
  return (
    float(values.mean()),
    float(values.std(ddof=1) / math.sqrt(len(values))),
  )
