"""The settings of a sampler, and its methods by name."""

import dataclasses
from collections.abc import Callable

import numpy as np

from flexmdm_jax.errors import InputError
from flexmdm_jax.sampling.draws import CONFIDENCES
from flexmdm_jax.sampling.methods import Adaptive, Euler, Method, TauLeaping


@dataclasses.dataclass(frozen=True)
class SamplerConfig:
  """The settings of a sampler.

  Attributes:
    steps: network calls at most.
    method: "tau_leaping", exact in the number of events for the rates of the
      step's start; "euler", first order in the step; "adaptive", which reveals
      as many masks as tau-leaping but chooses the most confident ones.
    confidence: what "adaptive" ranks masks by; see `draws.confidence`.
    window_scale: "adaptive" chooses K masks among the leftmost
      `floor(window_scale * K)` only. None: among all.
    max_window: upper limit of that window. None: no limit.
    temperature: temperature of the token posterior; 0 takes its mode.
    top_p: nucleus of the token posterior.
    time_exponent: the steps end at `1 - (1 - i / steps) ** time_exponent`;
      above 1 they shorten towards the end, where the hazards are large.
    buckets: lengths of canvas that the loop is compiled for, ascending; L is
      added. It runs in the shortest that holds the longest row, and moves up as
      rows grow, which changes the cost and no sample. None: `default_buckets`,
      or L alone if the denoiser is a plain callable, or one whose rows see the
      padding after them.

  Raises:
    InputError: a field is out of its range; the message names it.
  """

  steps: int
  method: str = "tau_leaping"
  confidence: str = "margin"
  window_scale: float | None = None
  max_window: int | None = None
  temperature: float = 1.0
  top_p: float = 1.0
  time_exponent: float = 1.0
  buckets: tuple[int, ...] | None = None

  def __post_init__(self):
    def require(ok, field, rule):
      if not ok:
        value = getattr(self, field)
        raise InputError(f"SamplerConfig.{field}={value!r} {rule}.")

    methods = tuple(METHODS)
    is_int = isinstance(self.steps, int) and not isinstance(self.steps, bool)
    require(is_int and self.steps >= 1, "steps", "must be an int >= 1")
    require(self.method in methods, "method", f"must be one of {methods}")
    require(
      self.confidence in CONFIDENCES,
      "confidence",
      f"must be one of {CONFIDENCES}",
    )
    for field in ("window_scale", "max_window"):
      value = getattr(self, field)
      require(
        value is None or self.method == "adaptive",
        field,
        'needs method="adaptive"',
      )
      require(value is None or value >= 1, field, "must be None or >= 1")
    require(0 <= self.temperature < float("inf"), "temperature", "must be >= 0")
    require(0 < self.top_p <= 1, "top_p", "must be in (0, 1]")
    require(
      0 < self.time_exponent < float("inf"), "time_exponent", "must be > 0"
    )
    if self.buckets is not None:
      buckets = tuple(self.buckets)
      object.__setattr__(self, "buckets", buckets)
      require(
        all(isinstance(C, int) and C >= 1 for C in buckets)
        and list(buckets) == sorted(set(buckets)),
        "buckets",
        "must be ascending ints >= 1",
      )

  def times(self) -> np.ndarray:
    """The times between the steps, f32[steps + 1], from 0 to 1."""
    even = np.arange(self.steps + 1, dtype=np.float32) / self.steps
    return 1 - (1 - even) ** np.float32(self.time_exponent)

  def make_method(self) -> Method:
    """Builds the method that `method` names."""
    return METHODS[self.method](self)


METHODS: dict[str, Callable[[SamplerConfig], Method]] = {
  "tau_leaping": lambda config: TauLeaping(),
  "euler": lambda config: Euler(),
  "adaptive": lambda config: Adaptive(
    config.confidence, config.window_scale, config.max_window
  ),
}
