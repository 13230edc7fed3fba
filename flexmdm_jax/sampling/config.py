"""The settings of a sampler, and its methods by name."""

import dataclasses
from collections.abc import Callable

import numpy as np

from flexmdm_jax import schema
from flexmdm_jax.errors import InputError
from flexmdm_jax.interpolant import JointInterpolant
from flexmdm_jax.sampling import grids
from flexmdm_jax.sampling.draws import CONFIDENCES, ORDERS
from flexmdm_jax.sampling.events import Events
from flexmdm_jax.sampling.insertions import INSERTIONS
from flexmdm_jax.sampling.methods import Adaptive, Euler, TauLeaping
from flexmdm_jax.sampling.midpoint import Midpoint
from flexmdm_jax.sampling.step import Method
from flexmdm_jax.schema import count, setting

# More calls than a text has events help none, and their plan fills memory.
MAX_STEPS = 1_000_000

METHODS: dict[str, Callable[["SamplerConfig"], Method]] = {
  "events": lambda config: Events(
    config.confidence or "spread",
    config.insertions,
    config.group,
    config.entropy_budget,
    config.insert_budget,
  ),
  "midpoint": lambda config: Midpoint(config.insertions),
  "tau_leaping": lambda config: TauLeaping(
    config.confidence or "margin", config.finish > 0, config.insertions
  ),
  "euler": lambda config: Euler(
    config.confidence or "margin", config.finish > 0
  ),
  "adaptive": lambda config: Adaptive(
    config.confidence or "margin",
    config.finish > 0,
    config.insertions,
    config.window_scale,
    config.max_window,
  ),
}


@dataclasses.dataclass(frozen=True)
class SamplerConfig:
  """The settings of a sampler.

  Attributes:
    steps: network calls at most, for every method.
    method: "events", which takes the next few events of each row at a call;
      "midpoint", of second order, two calls a step; or as published:
      "tau_leaping", exact in the number of events for the rates of the step's
      start; "euler", first order in the step; "adaptive", which reveals as many
      masks as tau-leaping but chooses the most confident ones.
    confidence: which masks are revealed first, by the methods that choose; see
      `draws.confidence` and `draws.order_before`. None: "spread" for "events",
      "margin" for others.
    insertions: how numbers of missing tokens are drawn; see `insertions`. None:
      "thinned" where the head gives their law, else "rounded".
    window_scale: "adaptive" chooses K masks among the leftmost
      `floor(window_scale * K)` only. None: among all.
    max_window: upper limit of that window. None: no limit.
    temperature: temperature of the token posterior; 0 takes its mode.
    top_p: nucleus of the token posterior.
    grid: where steps end: evenly in "time"; at equal shares of the "events" of
      a token; or these times, from 0 to 1. Method "events" reads it only where
      it has more events than calls, and then does not fall behind it.
    time_exponent: the steps of grid "time" end at
      `1 - (1 - i / steps) ** time_exponent`.
    finish: last calls of a grid method that only reveal masks, evenly, most
      confident first; what the grid leaves masked would else be revealed at
      once.
    group: "events" takes so many at a call at least, and fewer calls then.
    entropy_budget: "events" also reveals what lies within this sum of
      entropies, in nats a call. None: what the clock says alone.
    insert_budget: "events" also inserts up to so many tokens a call. None: what
      the clock says alone.
    corrections: number of times that finished rows are noised again, and
      denoised.
    correction_time: time to which they are noised, in (0, 1).
    correction_calls: calls of each such round, out of `steps`. None: as many as
      of the first.
    buckets: lengths of canvas that the loop is compiled for, ascending; L is
      added. It runs in the shortest that holds the longest row, and moves up as
      rows grow, which changes the cost and no sample. None: `default_buckets`,
      or L alone if the denoiser is a plain callable, or one whose rows see the
      padding after them.

  Raises:
    InputError: a field is out of its range; the message names it.
  """

  steps: int = setting(least=1, most=MAX_STEPS)
  method: str = setting("events", among=METHODS)
  confidence: str | None = setting(None, among=ORDERS)
  insertions: str | None = setting(None, among=INSERTIONS)
  window_scale: float | None = setting(None, least=1)
  max_window: int | None = count(None)
  temperature: float = setting(1.0, least=0, most=1e4)
  top_p: float = setting(1.0, least=1e-6, most=1)
  grid: str | tuple[float, ...] = setting("time")
  time_exponent: float = setting(1.0, least=0.01, most=100)
  finish: int = count(0, least=0)
  group: int = count(1)
  entropy_budget: float | None = setting(None, above=0)
  insert_budget: float | None = setting(None, least=1)
  corrections: int = count(0, least=0)
  correction_time: float = setting(0.5, above=0, below=1)
  correction_calls: int | None = count(None)
  buckets: tuple[int, ...] | None = count(None)

  def __post_init__(self):
    schema.require(self, "sampler")

    def require(ok, field, rule):
      if not ok:
        value = getattr(self, field)
        raise InputError(f"sampler.{field}={value!r} {rule}.")

    orders = ORDERS if self.method == "events" else CONFIDENCES
    require(
      self.confidence in (None, *orders),
      "confidence",
      f"must be one of {', '.join(orders)} with method={self.method}",
    )
    for method, fields in _ONLY.items():
      for field in fields:
        default = _DEFAULTS[field]
        require(
          self.method == method or getattr(self, field) == default,
          field,
          f'needs method="{method}"',
        )
    require(
      self.insertions != "published"
      or (self.method not in ("events", "midpoint") and self.finish == 0),
      "insertions",
      "needs a method of one call a step of a grid, and no finish: a step that"
      " inserts all has an infinite hazard",
    )
    require(
      self.finish == 0 or self.method not in ("events", "midpoint"),
      "finish",
      "needs a method of one call a step of a grid",
    )
    require(
      self.insertions is None or self.method != "euler",
      "insertions",
      "needs another method: euler inserts one token or none in a gap",
    )
    self._check_rounds(require)
    self._check_grid(require)
    require(
      self.buckets is None or list(self.buckets) == sorted(set(self.buckets)),
      "buckets",
      "must ascend",
    )

  def _check_grid(self, require):
    """Checks the fields of the grid."""
    grid, num_steps = self.grid, self._num_steps(self._rounds[0])
    require(num_steps >= 1, "steps", "are fewer than the calls of one step")
    known = grid in grids.NAMES
    if not isinstance(grid, str):
      rises = list(grid) == sorted(set(grid))
      known = rises and grid[:1] == (0.0,) and grid[-1] == 1
    require(
      known,
      "grid",
      f"must be one of {grids.NAMES}, or times that increase from 0 to 1",
    )
    wanted = num_steps - self.finish + 1
    require(
      isinstance(grid, str) or len(grid) == wanted,
      "grid",
      f"must have {wanted} times",
    )
    require(
      self.finish < num_steps,
      "finish",
      f"must be at most {num_steps - 1}, one less than the steps",
    )

  def _check_rounds(self, require):
    """Checks the fields of the corrections."""
    least = min(self._num_steps(n) for n in self._rounds)
    require(
      self.corrections == 0 or least > self.finish,
      "corrections",
      f"leaves rounds of {self._rounds} of the {self.steps} calls: allow more"
      " steps, or fewer",
    )

  @property
  def _rounds(self) -> list[int]:
    """Network calls of the first round, and of each correction."""
    each = self.correction_calls
    if each is None:
      each = self.steps // (self.corrections + 1)
    return [self.steps - self.corrections * each] + [each] * self.corrections

  def _num_steps(self, calls: int) -> int:
    return calls // METHODS[self.method](self).calls

  @property
  def num_steps(self) -> int:
    """Steps in all: a step may need several of the network's calls."""
    return sum(self._num_steps(calls) for calls in self._rounds)

  def plan(self, path: JointInterpolant) -> "Plan":
    """Lays out all steps: the rounds, their grids, and what is left of each."""
    end, left, back_to = [], [], []
    for i, calls in enumerate(self._rounds):
      begin = self.correction_time if i else 0.0
      n = self._num_steps(calls)
      grid = grids.times(
        self.grid, n - self.finish, path, begin, self.time_exponent
      )
      end += [*grid[1:], *[1.0] * self.finish]
      left += range(n, 0, -1)
      back_to += [begin if i else 1.0, *[1.0] * (n - 1)]
    return Plan(
      np.array(end, np.float32),
      np.array(left, np.int32),
      np.array(back_to, np.float32),
    )

  def make_method(self) -> Method:
    """Builds the method that `method` names."""
    return METHODS[self.method](self)


@dataclasses.dataclass(frozen=True, eq=False)
class Plan:
  """All steps of a run.

  Attributes:
    end: time at which each step ends by the grid, f32[steps].
    left: steps left in its round, the step included, i32[steps].
    back_to: time to which finished rows are noised before the step, f32[steps];
      1 for none.
  """

  end: np.ndarray
  left: np.ndarray
  back_to: np.ndarray

  @property
  def goes_back(self) -> bool:
    """Tells whether rows are noised at all."""
    return bool((self.back_to < 1).any())


# Fields that one method alone reads.
_ONLY = {
  "adaptive": ("window_scale", "max_window"),
  "events": ("group", "entropy_budget", "insert_budget"),
}
_DEFAULTS = {
  field.name: field.default for field in dataclasses.fields(SamplerConfig)
}
