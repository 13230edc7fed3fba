"""How far samples are from a law that is known, and how good a sampler is.

Samples of a sampler that asks the exact denoiser show its own error alone; of
a trained model, its error on top. Every distance has a floor, the same
distance of as many perfect samples: no finite set is at 0.
"""

import dataclasses
import functools
import math
import time
from collections.abc import Mapping, Sequence

import jax
import numpy as np

from flexmdm_jax.errors import InputError
from flexmdm_jax.exact.law import KnownLaw
from flexmdm_jax.exact.short import ShortLaw
from flexmdm_jax.interpolant import JointInterpolant
from flexmdm_jax.metrics.bigrams import bigram_law
from flexmdm_jax.metrics.lengths import kolmogorov_smirnov
from flexmdm_jax.paths import on_path
from flexmdm_jax.prediction import Denoiser, as_pytree
from flexmdm_jax.rows import empty_start
from flexmdm_jax.sampling.batches import sample_in_batches
from flexmdm_jax.sampling.config import SamplerConfig

# Draws that stand for the law; a thousand samples are 50 times noisier.
_REFERENCE = 50_000
# Sets of perfect samples whose mean distance is the floor: its error is an
# eighth, where eight sets leave a quarter.
_FLOOR_SETS = 32
# Nobody's own draws are compared with themselves.
_SEED = 1_000_003


@dataclasses.dataclass(frozen=True)
class Floor:
  """The mean distance of perfect samples, as many as were measured.

  Attributes:
    mean_length: mean absolute error of the mean length, in tokens.
    length_ks: distance of the lengths, in [0, 1].
    excess: mean absolute error of the mean of -log p, in nats.
    excess_given_length: the same given the lengths, in nats.
    bigram_tv: total variation of the bigrams, in [0, 1].
    sequence_tv: total variation of whole sequences, if the law is short.
  """

  mean_length: float
  length_ks: float
  excess: float
  excess_given_length: float
  bigram_tv: float
  sequence_tv: float | None


@dataclasses.dataclass(frozen=True)
class LawDistance:
  """The distance of samples from a law.

  Attributes:
    num: number of samples.
    mean_length: their mean length, in tokens.
    law_mean_length: the law's, of 50,000 draws.
    length_ks: Kolmogorov and Smirnov's distance of the lengths, in [0, 1].
    excess: mean of -log p over the entropy, in nats a sequence: 0 for perfect
      samples, and below 0 for those that keep to what is probable. None if no
      sample is possible.
    excess_error: its standard error; None with less than two of them.
    excess_given_length: mean of -log p over what perfect samples of the same
      lengths have, in nats a sequence. It does not see wrong lengths, and is
      less noisy: most of the spread of -log p is that of the lengths. What
      perfect samples have is a cubic in the length, fitted to 50,000 draws;
      beyond their lengths it is that of the nearest.
    excess_given_length_error: its standard error; None with less than two.
    impossible: share of the samples with p = 0, which both leave out.
    bigram_tv: total variation of the pairs of adjacent tokens, the beginning
      and the end among them, in [0, 1].
    sequence_tv: total variation of whole sequences, in [0, 1], for a
      `ShortLaw`; None for others.
    floor: the same distances of perfect samples.
  """

  num: int
  mean_length: float
  law_mean_length: float
  length_ks: float
  excess: float | None
  excess_error: float | None
  excess_given_length: float | None
  excess_given_length_error: float | None
  impossible: float
  bigram_tv: float
  sequence_tv: float | None
  floor: Floor


@dataclasses.dataclass(frozen=True)
class SamplerQuality:
  """What a sampler reaches with a number of network calls.

  Attributes:
    name: the name of its line.
    calls: network calls at most, `SamplerConfig.steps`.
    mean_calls: network calls that a sample needed, on average.
    truncated: share of the samples that wanted more room than L.
    seconds: time that the sampling took, compilation included.
    distance: the distance of its samples from the law.
  """

  name: str
  calls: int
  mean_calls: float
  truncated: float
  seconds: float
  distance: LawDistance


def law_distance(
  law: KnownLaw, sequences: Sequence[Sequence[int]]
) -> LawDistance:
  """Measures how far samples are from a law.

  The first call for a law and a number of samples takes seconds longer: it
  draws from the law. `dataclasses.asdict` makes the result JSON-ready.

  Args:
    law: any law with `draw`, `log_prob` and `entropy`.
    sequences: of N samples, the ids, without padding.

  Returns:
    The `LawDistance`.

  Raises:
    InputError: no samples, or an id is out of the vocabulary.
  """
  if not len(sequences):
    raise InputError("law_distance needs at least one sample, got none.")
  measured = _measure(law, sequences)
  return LawDistance(
    num=len(sequences),
    law_mean_length=float(_reference(law).lengths.mean()),
    floor=_floor(law, len(sequences)),
    **measured,
  )


def sampler_quality(
  law: KnownLaw,
  interpolant: JointInterpolant,
  configs: Mapping[str, SamplerConfig | Sequence[SamplerConfig]],
  *,
  num: int,
  seed: int = 0,
  batch_size: int = 500,
  gap_law: bool = True,
  path: JointInterpolant | None = None,
  denoiser: Denoiser | None = None,
) -> list[SamplerQuality]:
  """Measures samplers on a law: how good is each at n network calls?

  Sequences are sampled from the empty start with room for `law.max_length`.

      sampler_quality(law, interpolant, {
        "tau-leaping": [SamplerConfig(steps=n) for n in (8, 16, 32)],
      }, num=2000)

  Args:
    law: the law. If no denoiser is given, one with an exact denoiser, such as
      `HiddenMarkovLaw` and `ShortLaw`.
    interpolant: the schedules that the denoiser knows.
    configs: name -> the settings, one or several. One name is one line of
      `pictures.figures.plot_sampler_quality`.
    num: number of samples of each; at least 2.
    seed: seed of the samples.
    batch_size: samples at once.
    gap_law: whether the exact denoiser gives the law of a gap's missing tokens,
      not just its mean.
    path: schedules to sample on, if others; see `on_path`.
    denoiser: what is sampled instead of the exact denoiser, such as a model
      that was trained on the law.

  Returns:
    One `SamplerQuality` for each of the settings, in order.

  Raises:
    InputError: num < 2, no settings, the law has no exact denoiser and none is
      given, or it has frozen tokens.
  """
  if num < 2:
    raise InputError(f"num={num} must be at least 2: an error needs it.")
  runs = [
    (name, config)
    for name, some in configs.items()
    for config in ([some] if isinstance(some, SamplerConfig) else some)
  ]
  if not runs:
    raise InputError("sampler_quality needs at least one SamplerConfig.")
  if isinstance(law, ShortLaw) and any(any(x.frozen) for x in law.items):
    raise InputError(
      "this law has frozen tokens: its sequences do not begin empty."
    )
  if denoiser is None:
    if not hasattr(law, "denoiser"):
      raise InputError(
        f"{type(law).__name__} has no exact denoiser: give denoiser=, such as"
        " a model that was trained on it."
      )
    denoiser = law.denoiser(interpolant.insertion, gap_law=gap_law)
  if path is not None:
    denoiser = on_path(denoiser, interpolant, path)
  draw = functools.partial(
    sample_in_batches,
    jax.random.key(seed),
    as_pytree(denoiser),
    empty_start(num, law.max_length, law.vocab),
    interpolant if path is None else path,
    law.vocab,
    batch_size=batch_size,
  )
  rows = []
  for name, config in runs:
    begin = time.perf_counter()
    samples = draw(config=config)
    seconds = time.perf_counter() - begin
    rows.append(
      SamplerQuality(
        name=name,
        calls=config.steps,
        mean_calls=float(np.mean(samples.calls)),
        truncated=float(np.mean(samples.truncated)),
        seconds=seconds,
        distance=law_distance(law, samples.sequences()),
      )
    )
  return rows


@dataclasses.dataclass(frozen=True)
class _Reference:
  """What many draws say of a law.

  Attributes:
    lengths: their lengths.
    bigrams: the law of their bigrams.
    entropy: entropy of the law, in nats.
    entropy_error: its standard error.
    expected: -log p that draws of each length have, by a cubic fit.
    expected_error: standard error of its mean over the draws.
  """

  lengths: np.ndarray
  bigrams: np.ndarray
  entropy: float
  entropy_error: float
  expected: np.polynomial.Polynomial
  expected_error: float

  def nats_of_length(self, lengths: np.ndarray) -> np.ndarray:
    """Tells what -log p perfect samples of these lengths have."""
    return self.expected(
      np.clip(lengths, self.lengths.min(), self.lengths.max())
    )


@functools.lru_cache(maxsize=8)
def _reference(law: KnownLaw) -> _Reference:
  draws = law.draw(_REFERENCE, _SEED)
  lengths, nats = np.array([len(x) for x in draws]), -law.log_prob(draws)
  # Two lengths allow no more than a line.
  degree = min(3, len(np.unique(lengths)) - 1)
  expected = np.polynomial.Polynomial.fit(lengths, nats, degree)
  left = nats - expected(lengths)
  return _Reference(
    lengths,
    bigram_law(draws, law.vocab.size),
    *law.entropy(),
    expected,
    float(left.std() / math.sqrt(len(draws))),
  )


@functools.lru_cache(maxsize=64)
def _floor(law: KnownLaw, num: int) -> Floor:
  """Averages the distances of some sets of perfect samples."""
  mean_length = _reference(law).lengths.mean()
  sets = []
  for i in range(_FLOOR_SETS):
    measured = _measure(law, law.draw(num, _SEED + 1 + i))
    measured["mean_length"] -= mean_length
    sets.append(measured)

  def mean(name):
    values = [x[name] for x in sets]
    return None if None in values else float(np.mean(np.abs(values)))

  return Floor(*(mean(field.name) for field in dataclasses.fields(Floor)))


def _measure(law, sequences) -> dict[str, float | None]:
  """Computes all distances but for their floor."""
  reference = _reference(law)
  lengths = np.array([len(x) for x in sequences])
  longest = int(max(lengths.max(), reference.lengths.max()))
  nats = -law.log_prob(sequences)
  possible = np.isfinite(nats)
  nats = nats[possible]
  given_length = nats - reference.nats_of_length(lengths[possible])
  excess, error = _mean(nats - reference.entropy, reference.entropy_error)
  given, given_error = _mean(given_length, reference.expected_error)
  bigrams = bigram_law(sequences, law.vocab.size)
  return {
    "mean_length": float(lengths.mean()),
    "length_ks": kolmogorov_smirnov(lengths, reference.lengths, longest),
    "excess": excess,
    "excess_error": error,
    "excess_given_length": given,
    "excess_given_length_error": given_error,
    "impossible": float(1 - possible.mean()),
    "bigram_tv": float(0.5 * np.abs(bigrams - reference.bigrams).sum()),
    "sequence_tv": law.total_variation(sequences)
    if isinstance(law, ShortLaw)
    else None,
  }


def _mean(
  values: np.ndarray, own_error: float
) -> tuple[float | None, float | None]:
  """Computes a mean and its standard error, None where there are too few.

  Args:
    values: f64[N].
    own_error: standard error of what was taken off all of them.
  """
  if not values.size:
    return None, None
  mean = float(values.mean())
  if values.size < 2:
    return mean, None
  return mean, math.hypot(
    values.std(ddof=1) / math.sqrt(values.size), own_error
  )
