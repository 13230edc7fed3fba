"""Benchmark of the samplers' quality, on laws whose exact denoiser is known.

Nothing is trained: how far the samples are from the law is the sampler's own
error, by its network calls.
"""

import dataclasses
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from experiments.benchmarks.shapes import INTERPOLANT
from flexmdm_jax import paths as paths_lib
from flexmdm_jax.exact import (
  SamplerQuality,
  ShortLaw,
  markov_law,
  sampler_quality,
)
from flexmdm_jax.sampling import SamplerConfig
from flexmdm_jax.vocab import Vocab

# Digits, of which two are used, a mask and a pad.
_SHORT = {
  "": 0.1,
  "0": 0.1,
  "1": 0.1,
  "01": 0.15,
  "010": 0.15,
  "110": 0.1,
  "0110": 0.2,
  "1001": 0.1,
}
LAWS = {
  "short": lambda: ShortLaw(_SHORT, Vocab(4, 2, 3), max_length=4),
  "markov": lambda: markov_law(max_length=128),
}
# What a denoiser tells of a gap: the law of its missing tokens, or their mean.
HEADS = ("law", "mean")
METHODS = (
  "events",
  "events+confidence=random",
  "midpoint",
  "tau_leaping",
  "tau_leaping+insertions=published",
  "tau_leaping+grid=events",
  "tau_leaping+grid=events+finish=4",
  "adaptive",
  "euler",
)
PATHS = ("power:1.7,power:2.89", "lengths_first")
STEPS = (8, 16, 32, 64)


@dataclasses.dataclass(frozen=True)
class Measured:
  """Samplers on one path, with one head.

  Attributes:
    path: the path, as it was given.
    head: what the denoiser told of a gap.
    rows: the samplers' quality, by name and calls.
  """

  path: str
  head: str
  rows: list[SamplerQuality]

  def summary(self) -> list[dict[str, Any]]:
    """Makes the rows JSON-ready."""
    return [
      {"path": self.path, "head": self.head, **dataclasses.asdict(row)}
      for row in self.rows
    ]


def measure(
  *,
  law: str,
  methods: Mapping[str, Mapping[str, Any]],
  paths: Sequence[str],
  heads: Sequence[str],
  steps: Sequence[int],
  num: int,
  seed: int = 0,
) -> Iterator[Measured]:
  """Measures every sampler on every path with every head.

  Args:
    law: name of the law, one of `LAWS`.
    methods: name -> fields of `SamplerConfig`.
    paths: paths, as `paths.parse` takes them.
    heads: of `HEADS`.
    steps: numbers of network calls.
    num: number of samples of each.
    seed: seed of the samples.

  Yields:
    What is `Measured`, by path and head.

  Raises:
    InputError: a path, or a sampler with one of these numbers of calls, is
      none; these before anything is measured.
  """
  configs = {
    name: [SamplerConfig(steps=n, **fields) for n in steps]
    for name, fields in methods.items()
  }
  known = {text: paths_lib.parse(text, INTERPOLANT) for text in paths}
  for path in known.values():
    paths_lib.require_path(path)
  exact = LAWS[law]()
  for text, path in known.items():
    for head in heads:
      yield Measured(
        text,
        head,
        sampler_quality(
          exact, path, configs, num=num, seed=seed, gap_law=head == "law"
        ),
      )


def plot(
  path: str | os.PathLike, measured: Sequence[Measured], figures: Any
) -> None:
  """Draws each path and head in panels of its own, by `pictures.figures`."""
  groups = {f"{x.path}, {x.head}": x.rows for x in measured}
  figures.plot_sampler_quality(path, groups)
