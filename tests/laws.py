"""Small laws whose marginals and posteriors are known, for the tests."""

import functools

import jax
import numpy as np
import scipy.stats

import flexmdm_jax as fm
from flexmdm_jax.exact.short import ShortLaw

VOCAB = fm.Vocab(size=5, mask=3, pad=4)
L = 6

# Tests of samplers spend their time compiling, which is twice as fast so.
quick_jit = functools.partial(
  jax.jit, compiler_options={"xla_backend_optimization_level": 1}
)


class Law(ShortLaw):
  """A law over `VOCAB`, that takes its samples as the sampler gives them."""

  def __init__(self, probabilities):
    super().__init__(probabilities, VOCAB, L)

  def denoiser(self, insertion, gap_law=False, one_time=True):
    return super().denoiser(insertion, gap_law, one_time)

  def tv(self, samples):
    """Total variation between the empirical law of `samples` and this one."""
    return self.total_variation(samples.sequences())

  def wrong(self, samples):
    """Share of the samples that are no sequence of this law."""
    counts = self.counts(samples.sequences())
    return counts[-1] / counts.sum()

  def floor(self, num):
    """The mean total variation of `num` perfect samples."""
    return self.total_variation_floor(num)

  def p_value(self, samples):
    """P-value of the chi-square test that those `samples` that are outcomes
    have the law's proportions."""
    counts = self.counts(samples.sequences())[:-1]
    p = np.array(list(self.outcomes.values()))
    return scipy.stats.chisquare(counts, p * counts.sum()).pvalue


def texts(tokens, length):
  """The distinct states among [..., L] rows, as digits."""
  rows = np.reshape(tokens, (-1, L))
  _, first = np.unique(encode(rows, np.ravel(length)), return_index=True)
  return {
    "".join(map(str, rows[i, :n]))
    for i, n in zip(first, np.ravel(length)[first], strict=True)
  }


# The law on which the bounds of the paper were worked out, entropy 1.4964.
PAPER = Law({"": 0.1, "0": 0.2, "00": 0.1, "010": 0.35, "1101": 0.25})
# With three tokens, the kinds of confidence rank masks differently.
THREE = Law({"": 0.1, "2": 0.15, "021": 0.3, "1200": 0.25, "0112": 0.2})
# Most rows end with no room left.
FULL = Law({"": 0.1, "1": 0.1, "010": 0.1, "011010": 0.4, "110001": 0.3})
# The fixed-length law of an MDM: padding, here 4, is a token like any other.
FIXED = Law({"014444": 0.2, "101444": 0.3, "000114": 0.4, "111111": 0.1})

pack, encode = PAPER.pack, PAPER.encode
