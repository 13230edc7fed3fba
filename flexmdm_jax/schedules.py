"""Schedules: the law of the time at which a token is inserted or unmasked.

A schedule is a distribution function `alpha` on [0, 1] with `alpha(0) = 0` and
`alpha(1) = 1`. All that samplers and losses need follows from it:

  survival  `1 - alpha(t)`, the probability of no event by time t;
  hazard    `alpha'(t) / (1 - alpha(t))`, the rate of the event at t given none
            so far: the rate of the CTMC's jumps;
  jump      the probability of the event in (s, u] given none by s.

Every formula is written in `survival` rather than in `1 - alpha`, which loses
all its digits as t approaches 1, where the hazard is largest.

Source: Any-Order Flexible Length Masked Diffusion (arXiv 2509.01025), section
"joint interpolant"; `Power` is from its authors' follow-up (arXiv 2607.26504).
"""

import abc
import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from flexmdm_jax.errors import InputError
from flexmdm_jax.schema import Range, require, require_value, setting

# Derivatives are finite: they are taken no nearer to an end than one float32
# step below 1, and than this above 0 (`Polynomial` of exponent < 1 is vertical
# there).
_LAST = 1.0 - 2.0**-24
_FIRST = 1e-12
# Below this survival the event has happened, as far as float32 can tell.
_TINY = 1e-37


def _f32(t) -> Float[Array, "*s"]:
  return jnp.asarray(t, jnp.float32)


def _exponent() -> float:
  """Makes an exponent's field: beyond its range float32 sees a step."""
  return setting(least=1e-3, most=1e3)


def _inside(t) -> Float[Array, "*s"]:
  return jnp.clip(_f32(t), _FIRST, _LAST)


@dataclasses.dataclass(frozen=True)
class Schedule(abc.ABC):
  """A distribution of event times on [0, 1]; see the module's docstring.

  Times, probabilities and results are float32 arrays of any shape. A schedule
  is immutable and hashable, so it can be a static argument of `jax.jit`.
  """

  @abc.abstractmethod
  def survival(self, t) -> Float[Array, "*s"]:
    """`1 - alpha(t)`, to full relative precision near t = 1."""

  @abc.abstractmethod
  def inverse_survival(self, q) -> Float[Array, "*s"]:
    """The time at which the survival is `q`, to full precision near q = 0."""

  @abc.abstractmethod
  def alpha(self, t) -> Float[Array, "*s"]:
    """Probability that the event has happened by time `t`."""

  @abc.abstractmethod
  def derivative(self, t) -> Float[Array, "*s"]:
    """Density `alpha'(t)` of the event time; finite at both ends."""

  @abc.abstractmethod
  def inverse(self, a) -> Float[Array, "*s"]:
    """The time at which `alpha` is `a`."""

  def hazard(self, t) -> Float[Array, "*s"]:
    """Rate of the event at `t` given none so far; large but finite at 1."""
    return self.derivative(t) / self.survival(_inside(t))

  def jump(self, s, u) -> Float[Array, "*s"]:
    """P(event in (s, u] | not by s), for s <= u; exactly 1 where u = 1."""
    s, u = _f32(s), _f32(u)
    left = self.survival(u) / jnp.maximum(self.survival(s), _TINY)
    return jnp.where(u >= 1.0, 1.0, jnp.clip(1.0 - left, 0.0, 1.0))

  @property
  def breaks(self) -> tuple[float, ...]:
    """Times inside (0, 1) at which the schedule starts or ends; mostly none."""
    return ()

  def integrated_hazard(self, s, u) -> Float[Array, "*s"]:
    """Integral of the hazard over (s, u], `-log P(no event in (s, u])`.

    Infinite at u = 1; taken at the last float32 before it.
    """
    s, u = _inside(s), _inside(u)
    ratio = self.survival(u) / jnp.maximum(self.survival(s), _TINY)
    return jnp.maximum(-jnp.log(jnp.maximum(ratio, _TINY)), 0.0)

  def sample(self, key: Key[Array, ""], shape=()) -> Float[Array, "*s"]:
    """Event times of the given shape."""
    # `uniform` may return 0 but not 1; reflected, it is a survival in (0, 1].
    return self.inverse_survival(1.0 - jax.random.uniform(key, shape))

  def sample_after(self, key: Key[Array, ""], s) -> Float[Array, "*s"]:
    """Event times given none by `s`; the shape of `s`.

    The truncated law is uniform in `alpha`, not in time: it inverts
    `alpha(s) + U (1 - alpha(s))`.
    """
    s = _f32(s)
    left = 1.0 - jax.random.uniform(key, s.shape)
    return jnp.maximum(self.inverse_survival(self.survival(s) * left), s)


@dataclasses.dataclass(frozen=True)
class Power(Schedule):
  """`alpha(t) = 1 - (1 - t)^exponent`; hazard `exponent / (1 - t)`.

  Raises:
    InputError: the exponent is outside [0.001, 1000].
  """

  exponent: float = _exponent()

  def __post_init__(self):
    require(self, "Power")

  def alpha(self, t):
    t = _f32(t)
    inside = -jnp.expm1(self.exponent * jnp.log1p(-jnp.minimum(t, _LAST)))
    return jnp.where(t >= 1.0, 1.0, inside)

  def survival(self, t):
    return (1.0 - _f32(t)) ** self.exponent

  def derivative(self, t):
    return self.exponent * (1.0 - _inside(t)) ** (self.exponent - 1.0)

  def hazard(self, t):
    # The quotient of the two underflows near 1 for large exponents.
    return self.exponent / (1.0 - _inside(t))

  def inverse(self, a):
    a = _f32(a)
    inside = -jnp.expm1(jnp.log1p(-jnp.minimum(a, _LAST)) / self.exponent)
    return jnp.where(a >= 1.0, 1.0, inside)

  def inverse_survival(self, q):
    return 1.0 - _f32(q) ** (1.0 / self.exponent)


@dataclasses.dataclass(frozen=True)
class Linear(Schedule):
  """`alpha(t) = t`; event times are uniform."""

  def alpha(self, t):
    return _f32(t)

  def survival(self, t):
    return 1.0 - _f32(t)

  def derivative(self, t):
    return jnp.ones_like(_f32(t))

  def inverse(self, a):
    return _f32(a)

  def inverse_survival(self, q):
    return 1.0 - _f32(q)


@dataclasses.dataclass(frozen=True)
class Sine(Schedule):
  """`alpha(t) = sin(pi t / 2)`: early events."""

  def alpha(self, t):
    return jnp.sin(jnp.pi / 2 * _f32(t))

  def survival(self, t):
    return 2.0 * jnp.sin(jnp.pi / 4 * (1.0 - _f32(t))) ** 2

  def derivative(self, t):
    return jnp.pi / 2 * jnp.sin(jnp.pi / 2 * (1.0 - _inside(t)))

  def inverse(self, a):
    return 2 / jnp.pi * jnp.arcsin(_f32(a))

  def inverse_survival(self, q):
    return 1.0 - 4 / jnp.pi * jnp.arcsin(jnp.sqrt(_f32(q) / 2))


@dataclasses.dataclass(frozen=True)
class Cosine(Schedule):
  """`alpha(t) = 1 - cos(pi t / 2)`: late events."""

  def alpha(self, t):
    return 2.0 * jnp.sin(jnp.pi / 4 * _f32(t)) ** 2

  def survival(self, t):
    return jnp.sin(jnp.pi / 2 * (1.0 - _f32(t)))

  def derivative(self, t):
    return jnp.pi / 2 * jnp.sin(jnp.pi / 2 * _inside(t))

  def inverse(self, a):
    return 4 / jnp.pi * jnp.arcsin(jnp.sqrt(_f32(a) / 2))

  def inverse_survival(self, q):
    return 1.0 - 2 / jnp.pi * jnp.arcsin(_f32(q))


@dataclasses.dataclass(frozen=True)
class Polynomial(Schedule):
  """`alpha(t) = t^exponent`.

  Raises:
    InputError: the exponent is outside [0.001, 1000].
  """

  exponent: float = _exponent()

  def __post_init__(self):
    require(self, "Polynomial")

  def alpha(self, t):
    return _f32(t) ** self.exponent

  def survival(self, t):
    t = _f32(t)
    inside = -jnp.expm1(self.exponent * jnp.log(jnp.maximum(t, _FIRST)))
    return jnp.where(t < _FIRST, 1.0 - self.alpha(t), inside)

  def derivative(self, t):
    return self.exponent * _inside(t) ** (self.exponent - 1.0)

  def inverse(self, a):
    return _f32(a) ** (1.0 / self.exponent)

  def inverse_survival(self, q):
    return (1.0 - _f32(q)) ** (1.0 / self.exponent)


@dataclasses.dataclass(frozen=True)
class Geometric(Schedule):
  """`exp(-low^(1-t) high^t)`, shifted and scaled to run from 0 to 1.

  Unscaled it starts at exp(-low) and ends at exp(-high): a hazard that counts
  on reaching 1 would leave that share of tokens behind.

  Raises:
    InputError: not 0 < high < low.
  """

  low: float = setting(above=0)
  high: float = setting(above=0)

  def __post_init__(self):
    require(self, "Geometric")
    if self.high >= self.low:
      raise InputError(
        f"Geometric.high={self.high} must be below Geometric.low={self.low},"
        " so that alpha increases."
      )

  def _slope(self):
    return jnp.log(_f32(self.low) / self.high)

  def _exponent(self, t):
    """`low^(1-t) high^t`, counted from `high` to be exact at t = 1."""
    return self.high * jnp.exp(self._slope() * (1.0 - _f32(t)))

  def alpha(self, t):
    # exponent - low and, below, high - exponent, without cancellation.
    to_low = self.low * jnp.expm1(-self._slope() * _f32(t))
    scale = jnp.exp(self.high - self._exponent(t))
    return scale * jnp.expm1(to_low) / jnp.expm1(_f32(self.high - self.low))

  def survival(self, t):
    to_high = -self.high * jnp.expm1(self._slope() * (1.0 - _f32(t)))
    return jnp.expm1(to_high) / jnp.expm1(_f32(self.high - self.low))

  def derivative(self, t):
    exponent = self._exponent(_inside(t))
    scale = -self._slope() / jnp.expm1(_f32(self.high - self.low))
    return scale * exponent * jnp.exp(self.high - exponent)

  def inverse(self, a):
    first = jnp.exp(_f32(self.high - self.low))
    exponent = self.high - jnp.log(first + _f32(a) * (1.0 - first))
    # Where `first` underflows, the logarithm of 0 stands for t = 0.
    exponent = jnp.clip(exponent, self.high, self.low)
    return jnp.clip(jnp.log(self.low / exponent) / self._slope(), 0.0, 1.0)

  def inverse_survival(self, q):
    above = -jnp.log1p(_f32(q) * jnp.expm1(_f32(self.high - self.low)))
    rest = jnp.log1p(above / self.high) / self._slope()
    return jnp.clip(1.0 - rest, 0.0, 1.0)


@dataclasses.dataclass(frozen=True)
class Immediate(Schedule):
  """Every event happens at time 0: the insertion schedule of a plain MDM.

  There, sequences have a fixed length and start as masks; nothing is left to
  insert at any t >= 0, so the hazard is 0. It is the limit of `Power` as the
  exponent grows and the one schedule with `alpha(0) = 1`.
  """

  def alpha(self, t):
    return jnp.ones_like(_f32(t))

  def survival(self, t):
    return jnp.zeros_like(_f32(t))

  def derivative(self, t):
    return jnp.zeros_like(_f32(t))

  def inverse(self, a):
    return jnp.zeros_like(_f32(a))

  def inverse_survival(self, q):
    return jnp.zeros_like(_f32(q))

  def hazard(self, t):
    return jnp.zeros_like(_f32(t))

  def integrated_hazard(self, s, u):
    return jnp.zeros(jnp.broadcast_shapes(jnp.shape(s), jnp.shape(u)))


@dataclasses.dataclass(frozen=True)
class Window(Schedule):
  """Another schedule played between two times; no event lies outside them.

  What orders the two moves of a path: with an insertion that ends before the
  unmasking begins, the length is decided first (`paths.lengths_first`).

  Attributes:
    schedule: the schedule, on a clock that runs from 0 at `begin` to 1 at
      `end`.
    begin: time of its start.
    end: time of its end; from then on every event has happened, and the
      hazard is 0.

  Raises:
    InputError: not 0 <= begin < end <= 1.
  """

  schedule: Schedule
  begin: float = setting(least=0, most=1)
  end: float = setting(least=0, most=1)

  def __post_init__(self):
    require(self, "Window")
    if self.begin >= self.end:
      raise InputError(
        f"Window.begin={self.begin} must be before Window.end={self.end}."
      )

  @property
  def breaks(self):
    inner = [self._time(x) for x in self.schedule.breaks]
    ends = {self.begin, self.end, *inner}
    return tuple(sorted(x for x in ends if 0 < x < 1))

  def _clock(self, t) -> Float[Array, "*s"]:
    # Counted from the nearer end, so that neither loses digits.
    length = self.end - self.begin
    rest = jnp.clip((self.end - _f32(t)) / length, 0.0, 1.0)
    gone = jnp.clip((_f32(t) - self.begin) / length, 0.0, 1.0)
    return jnp.where(gone < 0.5, gone, 1.0 - rest)

  def alpha(self, t):
    return self.schedule.alpha(self._clock(t))

  def survival(self, t):
    return self.schedule.survival(self._clock(t))

  def derivative(self, t):
    inside = (self.begin <= _f32(t)) & (_f32(t) < self.end)
    slope = self.schedule.derivative(self._clock(t)) / (self.end - self.begin)
    return jnp.where(inside, slope, 0.0)

  def hazard(self, t):
    inside = (self.begin <= _f32(t)) & (_f32(t) < self.end)
    rate = self.schedule.hazard(self._clock(t)) / (self.end - self.begin)
    return jnp.where(inside, rate, 0.0)

  def jump(self, s, u):
    # Past the end nothing is left that could happen.
    ended = (_f32(s) >= self.end) & (_f32(u) < 1.0)
    jump = self.schedule.jump(self._clock(s), self._clock(u))
    return jnp.where(ended, 0.0, jump)

  def integrated_hazard(self, s, u):
    return self.schedule.integrated_hazard(self._clock(s), self._clock(u))

  def inverse(self, a):
    return self._time(self.schedule.inverse(a))

  def inverse_survival(self, q):
    return self._time(self.schedule.inverse_survival(q))

  def _time(self, clock):
    return self.begin + (self.end - self.begin) * clock


_BY_NAME = {
  cls.__name__.lower(): cls
  for cls in (
    Linear,
    Sine,
    Cosine,
    Polynomial,
    Power,
    Geometric,
    Immediate,
    Window,
  )
}


def to_config(schedule: Schedule) -> dict:
  """A JSON-ready description, `{"name": ..., **parameters}`."""
  parameters = {
    field.name: getattr(schedule, field.name)
    for field in dataclasses.fields(schedule)
  }
  return {
    "name": type(schedule).__name__.lower(),
    **{
      name: to_config(value) if isinstance(value, Schedule) else value
      for name, value in parameters.items()
    },
  }


def from_config(config) -> Schedule:
  """The schedule that `to_config` described.

  Args:
    config: mapping with a `name` and that schedule's parameters.

  Raises:
    InputError: unknown name, or parameters that are not the schedule's.
  """
  parameters = {
    name: from_config(value) if isinstance(value, Mapping) else value
    for name, value in config.items()
  }
  name = parameters.pop("name", None)
  require_value("a schedule's name", name, str, Range(among=_BY_NAME))
  wanted = [field.name for field in dataclasses.fields(_BY_NAME[name])]
  if sorted(parameters) != sorted(wanted):
    raise InputError(
      f"schedule {name!r} takes the parameters {wanted}, got"
      f" {sorted(parameters)}."
    )
  return _BY_NAME[name](**parameters)


def parse(text: str) -> Schedule:
  """Reads a schedule as commands take it: a name, then its numbers.

  Args:
    text: "linear", "power:4", "geometric:10:0.01"; a trailing "@begin-end"
      plays it in that window, as in "power:2@0-0.5".

  Raises:
    InputError: unknown name, a number that is none, too many or too few.
  """
  body, _, window = text.partition("@")
  name, *numbers = body.split(":")
  try:
    numbers = [float(number) for number in numbers]
    window = [float(number) for number in window.split("-")] if window else []
  except ValueError as error:
    raise InputError(
      f"schedule {text!r} has a parameter that is no number: write it as"
      " 'power:4' or 'power:2@0-0.5'."
    ) from error
  fields = dataclasses.fields(_BY_NAME[name]) if name in _BY_NAME else ()
  if name == "window" or len(numbers) != len(fields):
    fields = [field.name for field in fields]
    raise InputError(
      f"schedule {text!r} has {len(numbers)} numbers, but {name!r} takes"
      f" {fields}: a window is written as '{body}@0-0.5'."
    )
  parameters = zip((field.name for field in fields), numbers, strict=True)
  schedule = from_config({"name": name, **dict(parameters)})
  if not window:
    return schedule
  if len(window) != 2:
    raise InputError(
      f"schedule {text!r}: a window is two times, as in '{body}@0-0.5'."
    )
  return Window(schedule, *window)
