"""Pictures of the process itself: times, states, rates and bounds.

They are drawn from plain numbers, in the one style of `style`. A token's three
states have one look in all of them: nothing, a hatched mask, a filled clean
token, which greys tell apart as well.
"""

import os
from collections.abc import Mapping, Sequence

import numpy as np

from flexmdm_jax.pictures.style import (
  INK,
  MUTED,
  make_figure,
  model_styles,
  require,
  save,
  write_legend,
  write_title,
)

MASK = "□"  # how a mask is written
_MASK = {"facecolor": "#b9d4e8", "edgecolor": "#0072b2", "hatch": "////"}
_ABSENT = {"facecolor": "white", "edgecolor": MUTED}
_CLEAN = {"facecolor": "#0072b2", "edgecolor": "#0072b2"}
# Cells of a matrix in which a number is still legible.
_FEW_CELLS = 16
_PARTS = (
  {"facecolor": "#0072b2", "edgecolor": "white"},
  {"facecolor": "#e69f00", "edgecolor": "white", "hatch": "//"},
  {"facecolor": "#cc79a7", "edgecolor": "white", "hatch": ".."},
)


def plot_hitting_times(
  path: str | os.PathLike,
  tokens: Sequence[str],
  insertion_time: np.ndarray,
  unmasking_time: np.ndarray,
  times: Sequence[float] = (),
) -> None:
  """Draws when each token of a sequence is inserted, and when it is revealed.

  Args:
    path: PNG file to write.
    tokens: the clean sequence, at least one token.
    insertion_time: f[n], time in [0, 1] from which each token is a mask.
    unmasking_time: f[n], time from which it is clean, not before that.
    times: times at which the state is written over the picture.

  Raises:
    InputError: no token, or the numbers of times and tokens differ.
  """
  first, second = np.asarray(insertion_time), np.asarray(unmasking_time)
  require(tokens, "plot_hitting_times needs at least one token.")
  require(
    first.shape == second.shape == (len(tokens),),
    f"{len(tokens)} tokens have times of shapes {first.shape} and"
    f" {second.shape}: give two times a token.",
  )
  figure, (axes,) = make_figure(7.2, 1.5 + 0.36 * len(tokens), columns=1)
  rows = np.arange(len(tokens))
  axes.barh(rows, second - first, left=first, label="a mask", lw=0.8, **_MASK)
  axes.barh(rows, 1 - second, left=second, label="clean", lw=0.8, **_CLEAN)
  axes.set_yticks(rows, labels=tokens)
  axes.tick_params(axis="y", labelsize=11)
  axes.invert_yaxis()
  axes.grid(visible=False, axis="y")
  axes.set_xlim(0, 1)
  for t in times:
    state = [
      token if b <= t else MASK
      for token, a, b in zip(tokens, first, second, strict=True)
      if a <= t
    ]
    axes.axvline(t, color=INK, lw=1, ls=":")
    axes.annotate(
      "".join(state) or "(empty)",
      (t, 1),
      xycoords=("data", "axes fraction"),
      xytext=(0, 3),
      textcoords="offset points",
      ha="center",
      va="bottom",
      fontsize=9.5,
      color=INK,
      family="monospace",
    )
  axes.set_xlabel(f"time t, and above it the state: a mask is {MASK}")
  figure.legend(
    loc="outside lower center",
    ncols=2,
    fontsize=9,
    labelcolor=INK,
    frameon=False,
  )
  save(figure, path)


def plot_token_shares(
  path: str | os.PathLike,
  times: np.ndarray,
  shares: Mapping[str, np.ndarray],
) -> None:
  """Draws the chances that a token is absent, a mask or clean, over time.

  Args:
    path: PNG file to write.
    times: f[n], times in [0, 1].
    shares: name of a pair of schedules -> f[n, 3], the three chances at each
      time.

  Raises:
    InputError: nothing to draw, or a shape is wrong.
  """
  require(shares, "plot_token_shares needs at least one pair of schedules.")
  for name, share in shares.items():
    require(
      np.shape(share) == (len(times), 3),
      f"The shares of {name!r} have the shape {np.shape(share)}: they must be"
      f" three at each of {len(times)} times.",
    )
  figure, panels = make_figure(3.6 * len(shares), 3.0, columns=len(shares))
  for axes, (name, share) in zip(panels, shares.items(), strict=True):
    _, masked, clean = np.asarray(share, np.float64).T
    there = clean + masked
    for name_of, low, high, look in (
      ("absent", there, 1, _ABSENT),
      ("a mask", clean, there, _MASK),
      ("clean", 0, clean, _CLEAN),
    ):
      axes.fill_between(times, low, high, label=name_of, lw=0.8, **look)
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    axes.set_xlabel("time t")
    write_title(axes, name)
  panels[0].set_ylabel("chance of a token's state")
  write_legend(panels[-1], loc="center right")
  save(figure, path)


def plot_law_over_time(
  path: str | os.PathLike,
  times: np.ndarray,
  laws: Mapping[str, Mapping[str, np.ndarray]],
) -> None:
  """Draws how posteriors change with time: a panel a state, a line an outcome.

  Args:
    path: PNG file to write.
    times: f[n], times in [0, 1].
    laws: title of a panel -> name of an outcome -> its probability f[n].

  Raises:
    InputError: nothing to draw.
  """
  require(
    laws and all(laws.values()), "plot_law_over_time needs at least one line."
  )
  figure, panels = make_figure(3.6 * len(laws), 3.0, columns=len(laws))
  for axes, (name, lines) in zip(panels, laws.items(), strict=True):
    for outcome, style in model_styles(lines).items():
      axes.plot(
        times,
        lines[outcome],
        color=style.colour,
        ls=style.dash,
        marker=style.marker,
        markevery=max(1, len(times) // 6),
        markeredgecolor="white",
        lw=1.8,
        label=outcome,
      )
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.02)
    axes.set_xlabel("time t")
    write_title(axes, name)
    write_legend(axes, loc="best")
  panels[0].set_ylabel("probability")
  save(figure, path)


def plot_generator(
  path: str | os.PathLike, states: Sequence[str], rates: np.ndarray
) -> None:
  """Draws the rates between all states of a small process.

  A row is the state that is left, a column the one that is reached; of the
  diagonal only the row's sum is told, at the right.

  Args:
    path: PNG file to write.
    states: names of the states.
    rates: f[n, n], rows that sum to 0.

  Raises:
    InputError: no state, or the rates are not of all pairs.
  """
  n = len(states)
  require(n, "plot_generator needs at least one state.")
  require(
    np.shape(rates) == (n, n),
    f"{n} states have rates of shape {np.shape(rates)}: give [{n}, {n}].",
  )
  shown = np.where(np.eye(n, dtype=bool), np.nan, np.asarray(rates))
  shown = np.where(shown > 0, shown, np.nan)
  size = float(np.clip(0.62 * n, 3.2, 9))
  figure, (axes,) = make_figure(size + 1.6, size + 0.8, columns=1)
  axes.imshow(
    shown, cmap="Blues", vmin=0, vmax=2.2 * (np.nanmax(shown, initial=0) or 1)
  )
  turn = 90 if n > _FEW_CELLS else 0
  axes.set_xticks(range(n), labels=states, rotation=turn, family="monospace")
  axes.set_yticks(range(n), labels=states, family="monospace")
  axes.tick_params(labelsize=8.5)
  axes.xaxis.tick_top()
  axes.grid(visible=False)
  if n <= _FEW_CELLS:
    for i, j in zip(*np.nonzero(np.isfinite(shown)), strict=True):
      axes.text(
        *(j, i, f"{shown[i, j]:.2g}"),
        color=INK,
        fontsize=8.5,
        ha="center",
        va="center",
      )
  for i in range(n):
    axes.text(
      *(n - 0.3, i, f"{np.nansum(shown[i]):.2g}"),
      color=MUTED,
      fontsize=8.5,
      va="center",
    )
  axes.text(*(n - 0.3, -0.9, "sum"), color=MUTED, fontsize=8.5, va="center")
  axes.set_ylabel("from")
  axes.set_xlabel("to")
  axes.xaxis.set_label_position("top")
  save(figure, path)


def plot_parts(
  path: str | os.PathLike,
  bars: Mapping[str, Mapping[str, float]],
  xlabel: str,
  line: tuple[str, float] | None = None,
) -> None:
  """Draws sums of a few parts as bars, with a line to compare them with.

  Bounds of a likelihood are such sums, and the times of a step.

  Args:
    path: PNG file to write.
    bars: name of a bar -> name of a part -> its size, at least 0; all bars have
      the same parts, three at most.
    xlabel: name and unit of the sizes.
    line: name and place of a line; None for none.

  Raises:
    InputError: no bar, or bars of different parts or of too many.
  """
  require(bars, "plot_parts needs at least one bar.")
  names = list(next(iter(bars.values())))
  require(
    all(list(parts) == names for parts in bars.values())
    and 1 <= len(names) <= len(_PARTS),
    f"Bars must have the same one to {len(_PARTS)} parts, got"
    f" {[list(parts) for parts in bars.values()]}.",
  )
  figure, (axes,) = make_figure(7.2, 1.4 + 0.5 * len(bars), columns=1)
  values = np.array([list(parts.values()) for parts in bars.values()], float)
  ends = np.cumsum(values, axis=1)
  for i, name in enumerate(names):
    left = ends[:, i] - values[:, i]
    axes.barh(
      list(bars), values[:, i], left=left, height=0.6, label=name, **_PARTS[i]
    )
  for row, total in enumerate(ends[:, -1]):
    axes.annotate(
      f"{total:.4g}",
      (total, row),
      xytext=(4, 0),
      textcoords="offset points",
      va="center",
      fontsize=9.5,
      color=INK,
    )
  if line is not None:
    axes.axvline(line[1], color=INK, lw=1.4, ls="--", label=line[0])
  axes.invert_yaxis()
  axes.grid(visible=False, axis="y")
  axes.set_xlim(0, 1.12 * max(ends.max(), line[1] if line else 0))
  axes.set_xlabel(xlabel)
  figure.legend(
    loc="outside upper center",
    ncols=len(names) + (line is not None),
    fontsize=9,
    labelcolor=INK,
    frameon=False,
  )
  save(figure, path)


def plot_weak_scaling(
  path: str | os.PathLike, rows: Mapping[str, Sequence[Mapping[str, float]]]
) -> None:
  """Draws the speed of more and more devices, and the share that is kept.

  Args:
    path: PNG file to write.
    rows: name of a kind of device -> rows of `dryrun.roofline.weak_scaling`.

  Raises:
    InputError: no rows.
  """
  require(
    rows and all(rows.values()), "plot_weak_scaling needs at least one row."
  )
  figure, (speed, kept) = make_figure(9, 3.6, columns=2)
  for name, style in model_styles(rows).items():
    devices = [row["devices"] for row in rows[name]]
    look = {
      "color": style.colour,
      "ls": style.dash,
      "marker": style.marker,
      "markeredgecolor": "white",
      "lw": 1.8,
    }
    speeds = [row["tokens_per_second"] for row in rows[name]]
    speed.plot(devices, speeds, label=name, **look)
    ideal = [speeds[0] * n / devices[0] for n in devices]
    speed.plot(devices, ideal, color=style.colour, lw=0.8, alpha=0.6)
    kept.plot(devices, [100 * row["efficiency"] for row in rows[name]], **look)
  for axes in (speed, kept):
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(lambda v, _: f"{v:g}")
    axes.set_xlabel("devices")
  speed.set_yscale("log")
  speed.set_ylabel("tokens a second")
  kept.set_ylim(0, 105)
  kept.set_ylabel("share of the ideal speed, %")
  write_title(speed, "Weak scaling", "thin: ideal")
  write_title(kept, "What is kept")
  write_legend(speed, loc="best")
  save(figure, path)
