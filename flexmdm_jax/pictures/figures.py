"""Pictures of training curves, length laws and success rates.

Every function takes plain NumPy data and a path, and writes one file, SVG where
the name ends so and else PNG. The figures are built without pyplot, so nothing
here touches process-wide state; `style` has their look.
"""

import dataclasses
import os
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib import ticker
from matplotlib.axes import Axes

from flexmdm_jax.exact.quality import SamplerQuality
from flexmdm_jax.metrics.lengths import kolmogorov_smirnov
from flexmdm_jax.pictures.style import (
  DATA,
  DPI,
  INK,
  Style,
  make_figure,
  model_styles,
  require,
  save,
  thousands,
  write_legend,
  write_title,
)

__all__ = ["DPI", "model_styles"]


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
  figure, (axes,) = make_figure(7.2, 4.2, columns=1)
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
  axes.xaxis.set_major_formatter(ticker.FuncFormatter(thousands))
  axes.margins(x=0.01)
  write_title(axes, "Training loss")
  write_legend(axes, loc="upper right")
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
  figure, (histogram, cumulative) = make_figure(10, 4.0, columns=2)
  pooled = np.concatenate(list(lengths.values()))
  edges, longest = length_edges(pooled), int(pooled.max())
  widths = np.diff(edges)

  share = np.histogram(data, edges)[0] / (len(data) * widths)
  histogram.stairs(share, edges, fill=True, color=DATA, alpha=0.25, lw=0)
  histogram.stairs(share, edges, color=DATA, lw=1.2, label="data")
  cumulative.plot(*_steps(data), color=DATA, lw=4, alpha=0.4, label="data")
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
  write_title(histogram, "Length law")
  write_title(cumulative, "Cumulative")
  write_legend(histogram, loc="best")
  write_legend(cumulative, loc="best")
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
  figure, (axes,) = make_figure(6.4, 4.2, columns=1)
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
  write_title(
    axes, "Success by sampling steps", f"± 1 standard error, N = {trials}"
  )
  write_legend(axes, loc="best")
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
  figure, (axes,) = make_figure(6.4, 4.2, columns=1)
  lines = {"data": (data, {"color": DATA, "lw": 4, "alpha": 0.4})}
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
  write_title(axes, "Perplexity by length", "± 1 standard error")
  write_legend(axes, loc="best")
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
  figure, panels = make_figure(
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
      write_title(axes, title if quality == shown[0] and title else name, note)
  first = figure.axes[0]
  if few:
    write_legend(first, loc="best")
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
  axes.axhline(floor, color=DATA, ls="--", lw=1.2, label="perfect samples")
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


@dataclasses.dataclass(frozen=True)
class Panel:
  """Lines over one pair of axes.

  Attributes:
    title: heading of the panel.
    lines: name -> (x, y), of one length; the same name has one look everywhere.
    xlabel: name and unit of x.
    ylabel: name and unit of y.
    logs: axes that are logarithmic, "x", "y", "xy" or none; their ticks are the
      x of the lines, and 1, 2 and 5 times powers of ten.
    floor: name and height of a horizontal line, such as of perfect samples.
    low: lower end of y; None for that of the lines.
    high: upper end of y; None for that of the lines.
  """

  title: str
  lines: Mapping[str, tuple[Sequence[float], Sequence[float]]]
  xlabel: str
  ylabel: str
  logs: str = ""
  floor: tuple[str, float] | None = None
  low: float | None = None
  high: float | None = None


def plot_panels(
  path: str | os.PathLike, panels: Sequence[Panel], columns: int | None = None
) -> None:
  """Draws lines in panels side by side, with one legend for all.

  Args:
    path: file to write.
    panels: the panels, which share no axis.
    columns: panels in a row; by default all.

  Raises:
    InputError: no panel, or a line's x and y differ in length.
  """
  require(panels, "plot_panels needs at least one panel.")
  columns = columns or len(panels)
  rows = -(-len(panels) // columns)
  figure, axes = make_figure(
    4.1 * columns, 3.3 * rows + 0.4, columns=columns, rows=rows
  )
  styles = model_styles(name for panel in panels for name in panel.lines)
  shown = {}
  for panel, place in zip(panels, axes, strict=False):
    _plot_panel(place, panel, styles)
    handles, names = place.get_legend_handles_labels()
    shown.update(zip(names, handles, strict=True))
  for place in axes[len(panels) :]:
    place.axis("off")
  figure.legend(
    shown.values(),
    shown.keys(),
    loc="outside lower center",
    ncols=min(len(shown), 5),
    fontsize=9,
    labelcolor=INK,
    frameon=False,
    handlelength=3,  # a dash pattern is seen whole
  )
  save(figure, path)


def _plot_panel(axes: Axes, panel: Panel, styles: Mapping[str, Style]) -> None:
  """Draws one panel."""
  for name, (x, y) in panel.lines.items():
    require(
      len(x) == len(y),
      f"Line {name!r} has {len(x)} x and {len(y)} y: give as many of each.",
    )
    style = styles[name]
    axes.plot(
      x,
      y,
      color=style.colour,
      ls=style.dash,
      marker=style.marker,
      markersize=6,
      markeredgecolor="white",
      lw=1.8,
      label=name,
      zorder=3,
    )
  if panel.floor:
    name, height = panel.floor
    axes.axhline(height, color=DATA, ls=(0, (1, 1.5)), lw=1.4, label=name)
  number = ticker.FuncFormatter(lambda v, _: f"{v:g}")
  if "x" in panel.logs:
    axes.set_xscale("log", base=2)
    ticks = sorted({v for x, _ in panel.lines.values() for v in x})
    axes.xaxis.set_major_locator(ticker.FixedLocator(ticks))
    axes.xaxis.set_minor_locator(ticker.NullLocator())
    axes.xaxis.set_major_formatter(number)
  else:
    axes.xaxis.set_major_formatter(ticker.FuncFormatter(thousands))
  if "y" in panel.logs:
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_minor_locator(ticker.NullLocator())
    axes.yaxis.set_major_formatter(number)
  axes.set_ylim(panel.low, panel.high)
  axes.set_xlabel(panel.xlabel)
  axes.set_ylabel(panel.ylabel)
  write_title(axes, panel.title)
