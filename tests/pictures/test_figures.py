"""The pictures: that they are written, and the numbers that they show."""

import zlib

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib import image

from flexmdm_jax.errors import InputError
from flexmdm_jax.exact.quality import Floor, LawDistance, SamplerQuality
from flexmdm_jax.pictures import figures as plots
from flexmdm_jax.tasks.maze import plots as maze_plots

# 0 1 2
# 3 # 5
# 6 7 8
GRID = np.array([[0, 0, 0], [0, 1, 0], [0, 0, 0]], bool)


def read_png(path):
  """Pixels of a PNG file as f[height, width, 3]; fails on a damaged one."""
  assert path.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
  return image.imread(path)[..., :3]


def assert_picture(path, width, height):
  """A picture of `width` x `height` inches that shows more than paper."""
  pixels = read_png(path)
  assert pixels.shape[:2] == pytest.approx(
    (height * plots.DPI, width * plots.DPI), abs=1
  )
  assert 0.005 < np.mean(pixels.min(axis=-1) < 0.9) < 0.95


def has_colour(path, colour):
  """Whether some pixel has the colour, given as `#rrggbb`."""
  wanted = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
  return bool(np.any(np.abs(read_png(path) - wanted).max(axis=-1) < 0.01))


def test_drawing_changes_no_global_setting(tmp_path):
  before = dict(mpl.rcParams)
  plots.plot_success_by_steps(tmp_path / "x.png", {"a": {2: 0.5}}, trials=9)
  assert dict(mpl.rcParams) == before


def test_known_models_keep_their_colours_in_any_company():
  alone = plots.model_styles(["FlexMDM"])
  among = plots.model_styles(["ours", "MDM", "FlexMDM", "another"])
  assert (
    alone["FlexMDM"]
    == among["FlexMDM"]
    == plots.model_styles(["flexmdm"])["flexmdm"]
  )
  assert list(among) == ["ours", "MDM", "FlexMDM", "another"]


def test_styles_are_distinct_even_when_hashes_collide():
  assert zlib.crc32(b"a") % 4 == zlib.crc32(b"c") % 4
  styles = plots.model_styles([*"abcdefghijklmnop", "MDM", "FlexMDM"])
  assert len(set(styles.values())) == 18


def test_smooth_worked_by_hand():
  # Windows: [4], [4, 0, 2], [0, 2, nan], [2, nan, 6], [nan, 6].
  values = np.array([4.0, 0.0, 2.0, np.nan, 6.0])
  np.testing.assert_allclose(plots.smooth(values, 1), [4, 2, 1, 4, 6])
  np.testing.assert_array_equal(plots.smooth(values, 0), values)


@pytest.mark.parametrize("scale", [1.0, 1000.0])
def test_plot_loss(tmp_path, scale):
  steps = np.arange(300)
  losses = 1 + scale * np.exp(-steps / 40)
  losses[[5, 6]] = np.nan, np.inf
  path = tmp_path / "new" / "loss.png"
  plots.plot_loss(path, {"FlexMDM": (steps, losses), "x": (steps, -losses)})
  assert_picture(path, 7.2, 4.2)
  assert has_colour(path, plots.model_styles(["FlexMDM"])["FlexMDM"].colour)


def test_plot_loss_of_one_point_and_of_none_finite(tmp_path):
  one, none = np.array([3]), np.array([np.nan])
  plots.plot_loss(tmp_path / "loss.png", {"a": (one, one), "b": (one, none)})
  plots.plot_loss(tmp_path / "none.png", {"b": (one, none)})
  assert_picture(tmp_path / "none.png", 7.2, 4.2)


def test_plot_loss_rejects_bad_curves(tmp_path):
  with pytest.raises(InputError, match="at least one curve"):
    plots.plot_loss(tmp_path / "loss.png", {})
  with pytest.raises(InputError, match="'a' has steps of shape"):
    plots.plot_loss(tmp_path / "loss.png", {"a": (np.arange(3), np.arange(2))})
  assert not list(tmp_path.iterdir())


def test_length_edges_hold_equally_many_lengths():
  np.testing.assert_allclose(
    plots.length_edges(np.array([3, 5])), [2.5, 3.5, 4.5, 5.5]
  )
  # 11 lengths, at most 4 bins: 3 a bin, and 4 bins cover 12.
  np.testing.assert_allclose(
    plots.length_edges(np.array([0, 10]), max_bins=4),
    [-0.5, 2.5, 5.5, 8.5, 11.5],
  )


@pytest.mark.parametrize("high", [4, 900])
def test_plot_length_law(tmp_path, high):
  rng = np.random.default_rng(0)
  data, model = rng.integers(0, high, (2, 200))
  path = tmp_path / "lengths.png"
  plots.plot_length_law(path, data, {"MDM": model, "constant": np.array([3])})
  assert_picture(path, 10, 4)
  assert has_colour(path, plots.model_styles(["MDM"])["MDM"].colour)


def test_plot_length_law_rejects_no_lengths(tmp_path):
  with pytest.raises(InputError, match="lengths of 'MDM' are empty"):
    plots.plot_length_law(
      tmp_path / "lengths.png", np.array([1]), {"MDM": np.array([], int)}
    )


def test_plot_success_by_steps(tmp_path):
  path = tmp_path / "success.png"
  plots.plot_success_by_steps(
    path, {"FlexMDM": {8: 0.0, 64: 0.5, 16: 1.0}, "MDM": {8: 0.1}}, trials=64
  )
  assert_picture(path, 6.4, 4.2)


@pytest.mark.parametrize(
  ("results", "trials", "message"),
  [
    ({}, 5, "at least one result"),
    ({"a": {8: 0.5}}, 0, "trials=0"),
    ({"a": {8: 50.0}}, 5, "'a' must map steps"),
    ({"a": {0: 0.5}}, 5, "'a' must map steps"),
    ({"a": {8: float("nan")}}, 5, "'a' must map steps"),
  ],
)
def test_plot_success_rejects(tmp_path, results, trials, message):
  with pytest.raises(InputError, match=message):
    plots.plot_success_by_steps(tmp_path / "x.png", results, trials)


def test_plot_perplexity_by_length(tmp_path):
  def bins(*values):
    return [
      {
        "min_tokens": 2**k,
        "max_tokens": 2 ** (k + 1) - 1,
        "perplexity": value,
        "perplexity_stderr": None if k == 0 else value / 10,
      }
      for k, value in enumerate(values)
    ]

  path = tmp_path / "perplexity.png"
  models = {"FlexMDM": bins(900.0, 300.0), "MDM": bins(8000.0), "none": []}
  plots.plot_perplexity_by_length(path, bins(500.0, 90.0, 30.0), models)
  assert_picture(path, 6.4, 4.2)
  assert has_colour(path, plots.model_styles(["FlexMDM"])["FlexMDM"].colour)
  with pytest.raises(InputError, match="at least one bin"):
    plots.plot_perplexity_by_length(path, [], {"none": []})


@pytest.mark.parametrize(
  ("path", "verdict"),
  [
    ([0, 1, 2, 5, 8], "solved, 5 cells"),
    ([0, 1, 2, 1, 2, 5, 8], "solved, 7 cells"),
    ([0, 2, 5, 8], "failed: 1 jump"),
    ([0, 0, 1, 2, 5, 8], "failed: 1 jump"),
    # 2 and 3 have neighbouring numbers, but lie in two rows.
    ([0, 1, 2, 3, 6, 7, 8], "failed: 1 jump"),
    ([0, 1, 4, 5, 2, 5, 8], "failed: 1 wall cell"),
    ([0, 1, 2, 9, 5, 8], "failed: 1 off grid"),
    ([0, 1, 2, 5, -1, 10**12], "failed: 2 off grid, misses subgoal 3"),
    ([8, 5, 2, 1, 0], "failed: misses subgoal 2"),
    ([2, 6, 2], "failed: 2 jumps, misses subgoal 1"),
    ([], "failed: misses subgoal 1"),
  ],
)
def test_path_faults(path, verdict):
  faults = maze_plots.path_faults(GRID, [0, 2, 8], path)
  assert str(faults) == verdict
  assert faults.solved == verdict.startswith("solved")
  assert len(faults.legal) == max(0, len(faults.cells) - 1)


def test_moves_into_walls_and_across_junk_are_illegal():
  faults = maze_plots.path_faults(GRID, [], [0, 1, 4, 5, 99, 8, 7])
  np.testing.assert_array_equal(faults.legal, [True, False, False, False, True])
  np.testing.assert_array_equal(faults.in_wall, [0, 0, 1, 0, 0, 0])


def test_plot_mazes_draws_faults_and_only_them_in_red(tmp_path):
  good, bad = tmp_path / "good.png", tmp_path / "bad.png"
  truth = [0, 1, 2, 5, 8]
  maze_plots.plot_mazes(good, GRID, [([0, 8], truth, {"FlexMDM": truth})])
  maze_plots.plot_mazes(bad, GRID, [([0, 8], truth, {"FlexMDM": [0, 8]})])
  assert not has_colour(good, "#d4003c")
  assert has_colour(bad, "#d4003c")
  # Two panels of 2.3 inches, three margins; title, caption and colour bar.
  assert_picture(good, 2 * 2.3 + 3 * 0.12, 2.3 + 0.36 + 0.4 + 0.42)


@pytest.mark.parametrize(
  "junk",
  [[], [4], [9, 10, 9], [-1, -5], [10**15, 0, 4, 4, 8], np.full(20, 9)],
)
def test_plot_mazes_survives_junk(tmp_path, junk):
  path = tmp_path / "mazes.png"
  problems = [
    ([0, 8], [0, 1, 2, 5, 8], {"FlexMDM": junk, "MDM": [0, 3]}),
    ([2, 77], [2], {"MDM": junk}),
  ]
  maze_plots.plot_mazes(path, GRID[:, :2].repeat(2, axis=1), problems)
  assert read_png(path).size


def test_plot_mazes_rejects(tmp_path):
  with pytest.raises(InputError, match="at least one problem"):
    maze_plots.plot_mazes(tmp_path / "x.png", GRID, [])
  with pytest.raises(InputError, match="matrix"):
    maze_plots.plot_mazes(tmp_path / "x.png", GRID[0], [([0], [0], {})])


def quality(name, calls, excess, sequence_tv=None, num=100):
  floor = Floor(0.1, 0.02, 0.3, 0.2, 0.01, sequence_tv and 0.05)
  distance = LawDistance(
    num=num,
    mean_length=5.0,
    law_mean_length=5.1,
    length_ks=0.4 / calls,
    excess=excess,
    excess_error=0.1,
    excess_given_length=excess,
    excess_given_length_error=0.1,
    impossible=0.0,
    bigram_tv=0.3 / calls,
    sequence_tv=sequence_tv,
    floor=floor,
  )
  return SamplerQuality(name, calls, float(calls), 0.0, 1.0, distance)


def test_plot_sampler_quality(tmp_path):
  rows = [
    *(quality("FlexMDM", n, -2.0 / n) for n in (32, 8, 16)),
    quality("Euler", 8, None),
    quality("Euler", 16, 3.0),
    quality("lost", 16, None),
  ]
  path = tmp_path / "new" / "quality.png"
  plots.plot_sampler_quality(path, rows)
  assert_picture(path, 3 * 3.7, 3.8)
  for style in plots.model_styles(["FlexMDM", "Euler", "lost"]).values():
    assert has_colour(path, style.colour)
  # A short law has whole sequences in place of the likelihood.
  plots.plot_sampler_quality(path, [quality("FlexMDM", 8, None, 0.2)])
  assert_picture(path, 3 * 3.7, 3.8)
  assert has_colour(path, plots.model_styles(["FlexMDM"])["FlexMDM"].colour)
  for bad, says in (
    ([], "at least one row"),
    ({"a": rows, "b": []}, "at least one row"),
    (
      [quality("a", 8, 1.0), quality("a", 8, 1.0, num=9)],
      r"rows of \[9, 100\]",
    ),
  ):
    with pytest.raises(InputError, match=says):
      plots.plot_sampler_quality(path, bad)


def test_plot_sampler_quality_of_several_paths_and_many_names(tmp_path):
  rows = [quality(name, n, 1 / n) for name in "abcde" for n in (8, 16)]
  path = tmp_path / "quality.png"
  plots.plot_sampler_quality(path, {"trained": rows, "lengths_first": rows})
  # The legend of many names stands beside the panels.
  assert_picture(path, 3 * 3.7 + 3, 2 * 3.8)


def test_plot_panels(tmp_path):
  lines = {"FlexMDM": ([8, 16], [0.1, 0.2]), "MDM": ([8], [0.3])}
  panel = plots.Panel("A", lines, "calls", "error", "xy", ("perfect", 0.05))
  path = tmp_path / "panels.png"
  plots.plot_panels(path, [panel, panel, panel], columns=2)
  assert_picture(path, 2 * 4.1, 2 * 3.3 + 0.4)
  for style in plots.model_styles(lines).values():
    assert has_colour(path, style.colour)
  for bad, says in (
    ([], "at least one panel"),
    ([plots.Panel("A", {"a": ([1], [])}, "", "")], "has 1 x and 0 y"),
  ):
    with pytest.raises(InputError, match=says):
      plots.plot_panels(path, bad)
