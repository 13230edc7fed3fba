"""Where the steps of a grid end.

The published samplers take even steps of time. What a step costs in quality
follows from the events in it, though: the tokens that it inserts and reveals
without their seeing each other. On the grid "events" each step has the same
share of them.
"""

import jax
import numpy as np

from flexmdm_jax.errors import InputError
from flexmdm_jax.interpolant import JointInterpolant

NAMES = ("time", "events")
# Points at which the share of the events is tabulated.
_FINE = 4096


def times(
  grid: str | tuple[float, ...],
  num_steps: int,
  path: JointInterpolant,
  begin: float = 0.0,
  exponent: float = 1.0,
) -> np.ndarray:
  """Computes the times between the steps.

  Args:
    grid: "time" or "events"; or these times themselves, from 0 to 1.
    num_steps: number of steps.
    path: the schedules.
    begin: time at which the first step begins.
    exponent: of "time", whose steps end at `1 - (1 - i / n) ** exponent`.

  Returns:
    f32[num_steps + 1], ascending from `begin` to 1.

  Raises:
    InputError: a grid of another number of steps.
  """
  even = np.arange(num_steps + 1, dtype=np.float32) / num_steps
  if isinstance(grid, tuple):
    if len(grid) != num_steps + 1:
      raise InputError(
        f"SamplerConfig.grid has {len(grid)} times, which make"
        f" {len(grid) - 1} steps, but there are {num_steps} to take: give"
        f" {num_steps + 1} times."
      )
    found = np.asarray(grid, np.float32)
  elif grid == "time":
    found = 1 - (1 - even) ** np.float32(exponent)
  else:
    t = np.linspace(0.0, 1.0, _FINE + 1)
    with jax.ensure_compile_time_eval():
      share = event_share(path, t)
    at = share[0] + even * (1 - share[0])
    # Where nothing happens the share is flat: it takes no step.
    rising = np.concatenate([[True], np.diff(share) > 0])
    found = np.interp(at, share[rising], t[rising]).astype(np.float32)
  return (begin + (1 - begin) * found).astype(np.float32)


def event_share(path: JointInterpolant, t: np.ndarray) -> np.ndarray:
  """Computes the expected share of a token's two events by each time.

  Args:
    path: the schedules.
    t: ascending times f64[N], from 0 to 1.

  Returns:
    f64[N]: half of the probabilities that a token is present, and that it is
    clean; from that of time 0 to 1.
  """
  present = np.asarray(path.insertion.alpha(t), np.float64)
  masked_for = np.asarray(path.unmasking.survival(t), np.float64)
  # clean(t) = sum over insertion times s of P(reveal by t | inserted at s).
  arrivals = np.diff(present, prepend=0.0)
  still = np.maximum(masked_for, 1e-12)
  waiting = masked_for * np.cumsum(arrivals / still)
  clean = np.clip(present - waiting, 0.0, 1.0)
  clean[-1] = present[-1] = 1.0
  return np.maximum.accumulate((present + clean) / 2)
