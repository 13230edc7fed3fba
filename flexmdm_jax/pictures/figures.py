"""Pictures of training curves, length laws and success rates.

Every function takes plain NumPy data and a path, and writes one PNG file. The
figures are built without pyplot, so nothing here touches process-wide state.
"""

import itertools
import os
import pathlib
import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib import ticker
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from flexmdm_jax.errors import InputError
from flexmdm_jax.exact.quality import SamplerQuality
from flexmdm_jax.metrics.lengths import kolmogorov_smirnov

DPI = 160  # pixels per inch of every picture

INK = "#23272e"
MUTED = "#6b7280"
_GRID = "#e5e7eb"
_DATA = "#4b5563"


class Style(NamedTuple):
  """How a model's line is drawn: colour, marker and dash pattern."""

  colour: str
  marker: str
  dash: str


# Okabe and Ito's palette without yellow and black, which are hard to see on
# white or reserved for the data.
_PINNED = {
  "flexmdm": Style("#0072b2", "o", "-"),
  "mdm": Style("#d55e00", "s", "-"),
}
_FREE = [("#009e73", "^"), ("#cc79a7", "D"), ("#e69f00", "v"), ("#56b4e9", "P")]
_DASHES = ("-", "--", ":", "-.")


def model_styles(names: Iterable[str]) -> dict[str, Style]:
  """Gives each model a style that is the same in every figure.

  A style follows from the name alone, unless two names of one figure would
  share it: then the later name, in alphabetical order, takes the next free one.

  Args:
    names: model names; "FlexMDM" and "MDM" (in any case) have fixed colours.

  Returns:
    name -> style, in the order given; distinct for up to 18 names.
  """
  names = list(dict.fromkeys(names))
  styles = {n: _PINNED[n.lower()] for n in names if n.lower() in _PINNED}
  for name in sorted(set(names) - set(styles)):
    # Not `hash`: Python salts it, so colours would change with every run.
    first = zlib.crc32(name.encode()) % len(_FREE)
    rotated = _FREE[first:] + _FREE[:first]
    choices = [
      Style(colour, marker, dash)
      for dash, (colour, marker) in itertools.product(_DASHES, rotated)
    ]
    taken = set(styles.values())
    styles[name] = next((c for c in choices if c not in taken), choices[0])
  return {name: styles[name] for name in names}


def smooth(values: np.ndarray, width: int) -> np.ndarray:
  """Moving average whose window is centred, so that it does not lag.

  The window shrinks on both sides at the start, where losses are steep, and
  on the right only at the end, where they are flat and noisy.

  Args:
    values: f[N]; entries that are not finite are skipped.
    width: number of entries taken on either side, >= 0.

  Returns:
    f64[N]; nan where the window holds no finite entry.
  """
  values = np.asarray(values, np.float64)
  finite = np.isfinite(values)
  position = np.arange(len(values))
  reach = np.minimum(width, position)
  low, high = position - reach, np.minimum(position + reach + 1, len(values))
  total = np.concatenate([[0.0], np.cumsum(np.where(finite, values, 0.0))])
  count = np.concatenate([[0], np.cumsum(finite)])
  seen = count[high] - count[low]
  return np.where(
    seen, (total[high] - total[low]) / np.maximum(seen, 1), np.nan
  )


def plot_loss(
  path: str | os.PathLike,
  curves: Mapping[str, tuple[np.ndarray, np.ndarray]],
  ylabel: str = "loss",
) -> None:
  """Draws training losses: a smoothed line over the faint raw values.

  The loss axis is logarithmic where the smoothed losses are positive and span
  more than a factor of ten.

  Args:
    path: PNG file to write.
    curves: name -> (steps int[N], losses f[N]); losses may hold nan or inf.
    ylabel: name and unit of the loss.

  Raises:
    InputError: no curves, or a curve's steps and losses differ in length.
  """
  require(curves, "plot_loss needs at least one curve.")
  figure, (axes,) = _figure(7.2, 4.2, columns=1)
  smoothed, shown = [], []
  for name, style in model_styles(curves).items():
    steps, losses = (np.asarray(a) for a in curves[name])
    require(
      steps.shape == losses.shape and steps.ndim == 1,
      f"Curve {name!r} has steps of shape {steps.shape} and losses of shape"
      f" {losses.shape}: give two 1-d arrays of one length.",
    )
    line = smooth(losses, width=len(losses) // 50)
    axes.plot(steps, losses, color=style.colour, alpha=0.18, lw=0.7)
    axes.plot(steps, line, color=style.colour, ls=style.dash, lw=2, label=name)
    smoothed.append(line[np.isfinite(line)])
    shown.append(losses[np.isfinite(losses)])
  _loss_axis(axes, np.concatenate(smoothed), np.concatenate(shown))
  axes.set_xlabel("training step")
  axes.set_ylabel(ylabel)
  axes.xaxis.set_major_formatter(ticker.FuncFormatter(_thousands))
  axes.margins(x=0.01)
  _title(axes, "Training loss")
  _legend(axes, loc="upper right")
  save(figure, path)


def _loss_axis(axes: Axes, smoothed: np.ndarray, raw: np.ndarray) -> None:
  """Picks the scale and the limits so that single spikes do not set them."""
  if not len(smoothed):
    return
  low = min(smoothed.min(), np.percentile(raw, 1))
  high = max(smoothed.max(), np.percentile(raw, 99))
  if smoothed.min() > 0 and smoothed.max() > 10 * smoothed.min():
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(ticker.FuncFormatter(lambda v, _: f"{v:g}"))
    axes.yaxis.set_minor_locator(ticker.NullLocator())
    low = max(low, smoothed.min() / 3)
    axes.set_ylim(low / 1.15, high * 1.15)
  else:
    margin = 0.06 * (high - low) or 0.5
    axes.set_ylim(low - margin, high + margin)


def plot_length_law(
  path: str | os.PathLike, data: np.ndarray, models: Mapping[str, np.ndarray]
) -> None:
  """Draws the law of the lengths: histograms, and cumulative laws beside them.

  The legend of the cumulative laws gives the largest vertical distance to the
  data (Kolmogorov and Smirnov's statistic).

  Args:
    path: PNG file to write.
    data: int[N], lengths of real sequences, in tokens.
    models: name -> int[M], lengths of a model's samples, in tokens.

  Raises:
    InputError: an array is empty.
  """
  lengths = {
    "data": np.asarray(data),
    **{n: np.asarray(m) for n, m in models.items()},
  }
  for name, values in lengths.items():
    require(values.size, f"The lengths of {name!r} are empty.")
  styles = model_styles(models)
  figure, (histogram, cumulative) = _figure(10, 4.0, columns=2)
  pooled = np.concatenate(list(lengths.values()))
  edges, longest = length_edges(pooled), int(pooled.max())
  widths = np.diff(edges)

  share = np.histogram(data, edges)[0] / (len(data) * widths)
  histogram.stairs(share, edges, fill=True, color=_DATA, alpha=0.25, lw=0)
  histogram.stairs(share, edges, color=_DATA, lw=1.2, label="data")
  cumulative.plot(*_steps(data), color=_DATA, lw=4, alpha=0.4, label="data")
  for name, style in styles.items():
    look = {"color": style.colour, "ls": style.dash, "lw": 1.8}
    share = np.histogram(models[name], edges)[0] / (len(models[name]) * widths)
    histogram.stairs(share, edges, label=name, **look)
    distance = kolmogorov_smirnov(data, models[name], longest)
    label = f"{name}  (distance {distance:.3f})"
    cumulative.plot(*_steps(models[name]), label=label, **look)

  for axes in (histogram, cumulative):
    axes.set_xlim(edges[0] - 1, edges[-1] + 1)
    axes.set_xlabel("length (tokens)")
  histogram.set_ylim(bottom=0)
  histogram.set_ylabel("share per token of length")
  cumulative.set_ylim(0, 1.02)
  cumulative.set_ylabel("share at most this long")
  _title(histogram, "Length law")
  _title(cumulative, "Cumulative")
  _legend(histogram, loc="best")
  _legend(cumulative, loc="best")
  save(figure, path)


def length_edges(lengths: np.ndarray, max_bins: int = 64) -> np.ndarray:
  """Histogram edges half-way between integers, all bins equally wide.

  Args:
    lengths: int[N], N >= 1.
    max_bins: largest number of bins.

  Returns:
    f64[bins+1]; each bin holds the same number of whole lengths, so a law that
    is flat over the integers looks flat.
  """
  low, high = int(np.min(lengths)), int(np.max(lengths))
  width = -(-(high - low + 1) // max_bins)
  bins = -(-(high - low + 1) // width)
  return low - 0.5 + width * np.arange(bins + 1)


def _steps(lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Corners of a sample's cumulative law, drawn past both ends of its range."""
  values, counts = np.unique(lengths, return_counts=True)
  share = np.cumsum(counts) / len(lengths)
  x = np.concatenate(
    [[values[0] - 1e6], np.repeat(values, 2), [values[-1] + 1e6]]
  )
  y = np.repeat(np.concatenate([[0.0], share]), 2)
  return x, y


def plot_success_by_steps(
  path: str | os.PathLike,
  results: Mapping[str, Mapping[int, float]],
  trials: int,
) -> None:
  """Draws success against the number of sampling steps.

  Args:
    path: PNG file to write.
    results: name -> {sampling steps, >= 1: success, in [0, 1]}.
    trials: number of problems behind each success rate; the bars show the
      binomial standard error, sqrt(p (1 - p) / trials).

  Raises:
    InputError: no results, a success out of range, or `trials` below 1.
  """
  require(results, "plot_success_by_steps needs at least one result.")
  require(trials >= 1, f"trials={trials} must be at least 1.")
  figure, (axes,) = _figure(6.4, 4.2, columns=1)
  for name, style in model_styles(results).items():
    steps = np.array(sorted(results[name]))
    success = np.array([results[name][s] for s in steps], np.float64)
    require(
      np.all((success >= 0) & (success <= 1)) and np.all(steps >= 1),
      f"Results of {name!r} must map steps >= 1 to success in [0, 1].",
    )
    axes.errorbar(
      steps,
      100 * success,
      yerr=100 * np.sqrt(success * (1 - success) / trials),
      color=style.colour,
      ls=style.dash,
      marker=style.marker,
      markersize=6.5,
      markeredgecolor="white",
      lw=1.8,
      elinewidth=1.3,
      capsize=3,
      label=name,
      clip_on=False,
      zorder=3,
    )
  ticks = sorted({s for result in results.values() for s in result})
  axes.set_xscale("log", base=2)
  axes.xaxis.set_major_locator(ticker.FixedLocator(ticks))
  axes.xaxis.set_minor_locator(ticker.NullLocator())
  axes.xaxis.set_major_formatter(ticker.FuncFormatter(lambda v, _: f"{v:g}"))
  axes.set_xlabel("sampling steps (network calls)")
  axes.set_ylim(0, 100)
  axes.yaxis.set_major_formatter(ticker.PercentFormatter(decimals=0))
  axes.set_ylabel("problems solved")
  _title(axes, "Success by sampling steps", f"± 1 standard error, N = {trials}")
  _legend(axes, loc="best")
  save(figure, path)


def plot_perplexity_by_length(
  path: str | os.PathLike,
  data: Sequence[Mapping[str, float | int | None]],
  models: Mapping[str, Sequence[Mapping[str, float | int | None]]],
) -> None:
  """Draws perplexity under a scorer by the length of the texts, on two logs.

  Args:
    path: PNG file to write.
    data: of held-out texts, bins as `perplexity_by_length` returns them; the
      bars show the standard error, where a bin has one.
    models: name -> the same of a model's samples; a bin may be missing.

  Raises:
    InputError: neither the data nor a model has a bin.
  """
  require(
    data or any(models.values()),
    "plot_perplexity_by_length needs at least one bin.",
  )
  figure, (axes,) = _figure(6.4, 4.2, columns=1)
  lines = {"data": (data, {"color": _DATA, "lw": 4, "alpha": 0.4})}
  for name, style in model_styles(models).items():
    look = {"color": style.colour, "ls": style.dash, "marker": style.marker}
    lines[name] = models[name], {**look, "markersize": 6, "lw": 1.8}
  for name, (bins, look) in lines.items():
    axes.errorbar(
      [np.sqrt(x["min_tokens"] * x["max_tokens"]) for x in bins],
      [x["perplexity"] for x in bins],
      yerr=[x["perplexity_stderr"] or 0 for x in bins],
      elinewidth=1.3,
      capsize=3,
      label=name,
      **look,
    )
  axes.set_xscale("log", base=2)
  axes.set_yscale("log")
  axes.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
  axes.yaxis.set_minor_locator(ticker.NullLocator())
  for axis in (axes.xaxis, axes.yaxis):
    axis.set_major_formatter(ticker.FuncFormatter(lambda v, _: f"{v:g}"))
  axes.set_xlabel("scored tokens of a text")
  axes.set_ylabel("perplexity")
  _title(axes, "Perplexity by length", "± 1 standard error")
  _legend(axes, loc="best")
  save(figure, path)


# Distances of `plot_sampler_quality`, with the panels' titles and axes. Whole
# sequences have one where the law is short, and else the likelihood.
_QUALITIES = {
  "length_ks": ("Lengths", "KS distance"),
  "bigram_tv": ("Bigrams", "total variation"),
  "sequence_tv": ("Whole sequences", "total variation"),
  "excess_given_length": ("Likelihood given length", "|excess| (nats)"),
}
# Names that fit into a panel's legend.
_FEW_NAMES = 4


def plot_sampler_quality(
  path: str | os.PathLike,
  rows: Sequence[SamplerQuality] | Mapping[str, Sequence[SamplerQuality]],
) -> None:
  """Draws samplers' distances from a law against their network calls.

  A panel a distance (lengths, bigrams, and of a short law whole sequences, of
  others the likelihood given the length), a line a name, on two logs; the
  dashed line is the floor, where perfect samples are.

  Args:
    path: PNG file to write.
    rows: what `exact.sampler_quality` returns; or several of these by a title,
      such as the path, each of which has panels of its own.

  Raises:
    InputError: no rows, or of different numbers of samples.
  """
  groups = rows if isinstance(rows, Mapping) else {"": rows}
  every = [row for group in groups.values() for row in group]
  require(
    every and all(groups.values()),
    "plot_sampler_quality needs at least one row.",
  )
  numbers = {row.distance.num for row in every}
  require(
    len(numbers) == 1,
    f"rows of {sorted(numbers)} samples have different floors: split them.",
  )
  short = every[0].distance.sequence_tv is not None
  left_out = "excess_given_length" if short else "sequence_tv"
  shown = [name for name in _QUALITIES if name != left_out]
  styles = model_styles(row.name for row in every)
  few = len(styles) <= _FEW_NAMES
  figure, panels = _figure(
    3.7 * len(shown) + (0 if few else 3),
    3.8 * len(groups),
    columns=len(shown),
    rows=len(groups),
  )
  panels = iter(panels)
  for title, group in groups.items():
    for quality in shown:
      axes = next(panels)
      _plot_quality(axes, group, quality, styles)
      # A group's title may be long: it stands alone, over all of its panels.
      name = "" if title else _QUALITIES[quality][0]
      note = f"N = {every[0].distance.num}" if quality == shown[-1] else ""
      _title(axes, title if quality == shown[0] and title else name, note)
  first = figure.axes[0]
  if few:
    _legend(first, loc="best")
  else:
    figure.legend(
      *first.get_legend_handles_labels(),
      loc="outside right upper",
      fontsize=9,
      labelcolor=INK,
      frameon=False,
    )
  save(figure, path)


def _plot_quality(
  axes: Axes,
  rows: Sequence[SamplerQuality],
  quality: str,
  styles: Mapping[str, Style],
) -> None:
  """Draws one distance of all names, and its floor."""
  for name, style in styles.items():
    line = sorted(
      (row.calls, abs(value))
      for row in rows
      if row.name == name
      and (value := getattr(row.distance, quality)) is not None
    )
    axes.plot(
      [calls for calls, _ in line],
      [value for _, value in line],
      color=style.colour,
      ls=style.dash,
      marker=style.marker,
      markersize=6,
      markeredgecolor="white",
      lw=1.8,
      label=name,
    )
  floor = getattr(rows[0].distance.floor, quality)
  axes.axhline(floor, color=_DATA, ls="--", lw=1.2, label="perfect samples")
  axes.set_xscale("log", base=2)
  axes.set_yscale("log")
  ticks = sorted({row.calls for row in rows})
  axes.xaxis.set_major_locator(ticker.FixedLocator(ticks))
  axes.xaxis.set_minor_locator(ticker.NullLocator())
  axes.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
  axes.yaxis.set_minor_locator(ticker.NullLocator())
  for axis in (axes.xaxis, axes.yaxis):
    axis.set_major_formatter(ticker.FuncFormatter(lambda v, _: f"{v:g}"))
  axes.set_xlabel("network calls")
  axes.set_ylabel(": ".join(_QUALITIES[quality]))


def _figure(
  width: float, height: float, columns: int, rows: int = 1
) -> tuple[Figure, list[Axes]]:
  """A figure of `width` x `height` inches and its panels, row by row."""
  figure = Figure((width, height), dpi=DPI, layout="constrained")
  panels = list(figure.subplots(rows, columns, squeeze=False).flat)
  for axes in panels:
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(MUTED)
    axes.tick_params(colors=MUTED, labelcolor=INK, labelsize=9)
    axes.xaxis.label.set_color(INK)
    axes.yaxis.label.set_color(INK)
    axes.grid(axis="y", color=_GRID, lw=0.8)
    axes.set_axisbelow(True)
  return figure, panels


def _title(axes: Axes, text: str, note: str = "") -> None:
  axes.set_title(text, loc="left", color=INK, weight="bold", fontsize=11)
  if note:
    axes.set_title(note, loc="right", color=MUTED, fontsize=8.5)


def _legend(axes: Axes, loc: str) -> None:
  axes.legend(
    loc=loc, fontsize=9, labelcolor=INK, frameon=True, edgecolor="none"
  )


def _thousands(value: float, _: int = 0) -> str:
  """Writes whole steps; 12500 becomes 12.5k."""
  return f"{value / 1000:g}k" if value >= 1000 else f"{value:g}"


def require(condition: object, message: str) -> None:
  """Raises InputError with `message` unless `condition` holds."""
  if not condition:
    raise InputError(message)


def save(figure: Figure, path: str | os.PathLike) -> None:
  """Writes a figure as PNG, its folder too if missing."""
  path = pathlib.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  figure.savefig(path, format="png", dpi=DPI, facecolor="white")
