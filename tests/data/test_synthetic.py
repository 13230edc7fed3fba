"""Prepared data: once, whole, quietly, offline, and apart by content."""

import os
import pathlib
import shutil
import socket
import subprocess
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds

from flexmdm_jax.data import synthetic
from flexmdm_jax.data.loader import make_loader
from flexmdm_jax.data.splits import SPLITS
from flexmdm_jax.errors import InputError
from flexmdm_jax.rows import AnchorLayout
from flexmdm_jax.tasks.brackets import law as brackets
from flexmdm_jax.tasks.brackets.dataset import BracketConfig, Brackets
from flexmdm_jax.tasks.markov.dataset import Markov, MarkovConfig
from flexmdm_jax.tasks.maze import law as mazes
from flexmdm_jax.tasks.maze.dataset import MazeConfig, Mazes

ROOT = pathlib.Path(__file__).parents[2]


def maze_config(**kwargs):
  settings = dict(size=7, subgoals=3, max_length=12, num_train=200, num_eval=30)
  return MazeConfig(**(settings | kwargs))


def bracket_config(**kwargs):
  settings = dict(num_train=50, num_eval=20)
  return BracketConfig(**(settings | kwargs))


def markov_config(**kwargs):
  settings = dict(mean_length=8, max_length=16, num_train=50, num_eval=20)
  return MarkovConfig(**(settings | kwargs))


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
  """All data sets, prepared where no network can be reached."""
  data_dir = tmp_path_factory.mktemp("data")
  all_sets = (
    Mazes(config=maze_config(), data_dir=data_dir),
    Brackets(config=bracket_config(), data_dir=data_dir),
    Markov(config=markov_config(), data_dir=data_dir),
  )

  def refuse(*args, **kwargs):
    raise AssertionError("network access")

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(socket.socket, "connect", refuse)
    patch.setattr(socket, "getaddrinfo", refuse)
    for builder in all_sets:
      synthetic.prepare(builder)
  return all_sets


def records(builder, split):
  return list(synthetic.open_split(builder, split))


def test_maze_records_are_solved_problems_of_their_split(prepared):
  builder, *_ = prepared
  maze = builder.builder_config.maze()
  problems = {}
  for split in SPLITS:
    rows = records(builder, split)
    assert len(rows) == (200 if split == "train" else 30)
    for row in rows:
      tokens, index = row["tokens"], row["subgoal_index"]
      assert tokens.dtype == index.dtype == np.int32
      assert len(tokens) <= 12 and index.shape == (3,)
      subgoals = tokens[index]
      assert maze.join(subgoals).path == tokens.tolist()
      assert mazes.problem_split(maze, subgoals) == split
    problems[split] = {tuple(r["tokens"][r["subgoal_index"]]) for r in rows}
    assert len(problems[split]) == len(rows)
  assert len(set.union(*problems.values())) == 260


def test_maze_metadata_counts_the_skipped(prepared):
  builder, *_ = prepared
  maze = builder.builder_config.maze()
  for split in SPLITS:
    plans = mazes.FittingPlans(
      maze,
      mazes.problems(maze, 3, split, 0),
      max_length=12,
      count=200 if split == "train" else 30,
    )
    list(plans)
    assert builder.info.metadata["skipped"][split] == plans.skipped > 0


def test_bracket_records_are_words_of_their_split(prepared):
  _, builder, _ = prepared
  for split in SPLITS:
    rows = records(builder, split)
    assert len(rows) == (50 if split == "train" else 20)
    for row in rows:
      assert row["tokens"].dtype == np.int32
      assert brackets.is_balanced(row["tokens"])
      assert brackets.word_split(row["tokens"]) == split


def test_markov_records_are_other_draws_in_every_split(prepared):
  *_, builder = prepared
  language = builder.builder_config.language()
  seen = set()
  for split in SPLITS:
    rows = [row["tokens"] for row in records(builder, split)]
    assert len(rows) == (50 if split == "train" else 20)
    assert all(row.dtype == np.int32 for row in rows)
    assert np.isfinite(language.log_prob(rows)).all()
    seen.add(np.concatenate(rows[:20]).tobytes())
  assert len(seen) == 3


def test_slices_and_plain_tfds_read_them(prepared):
  builder, *_ = prepared
  assert len(synthetic.open_split(builder, "validation[:50%]")) == 15
  read = tfds.builder_from_directory(builder.data_dir)
  assert read.info.features["subgoal_index"].shape == (3,)
  source = read.as_data_source("test")
  assert (source[4]["tokens"] == records(builder, "test")[4]["tokens"]).all()


def test_grain_resumes_on_them(prepared):
  _, builder, _ = prepared
  layout = AnchorLayout(brackets.bracket_vocab(), 64)

  def loader():
    return make_loader(
      synthetic.open_split(builder, "train"),
      lambda record: layout.encode(record["tokens"]),
      batch_size=8,
      seed=0,
    )

  one, two = loader(), loader()
  for _ in range(5):
    next(one)
  two.set_state(one.get_state())
  for _ in range(5):
    assert (next(one).tokens == next(two).tokens).all()


def test_same_settings_give_the_same_records_elsewhere(prepared, tmp_path):
  for builder in prepared:
    copy = type(builder)(config=builder.builder_config, data_dir=tmp_path)
    synthetic.prepare(copy)
    for one, two in zip(
      records(builder, "train"), records(copy, "train"), strict=True
    ):
      assert one.keys() == two.keys()
      assert all((one[key] == two[key]).all() for key in one)


def test_names_tell_settings_apart():
  defaults = [maze_config(), bracket_config(), markov_config()]
  names = [config.name for config in defaults]
  for key in ("size", "maze_seed", "subgoals", "max_length", "num_train"):
    value = getattr(defaults[0], key) + 2
    names.append(maze_config(**{key: value}).name)
  names.append(maze_config(num_eval=31).name)
  for key in ("data_seed", "num_train", "num_eval"):
    value = getattr(defaults[1], key) + 2
    names.append(bracket_config(**{key: value}).name)
  names.append(bracket_config(kinds=3).name)
  for key in (
    "symbols",
    "phases",
    "mean_length",
    "max_length",
    "seed",
    "num_train",
    "num_eval",
  ):
    value = getattr(defaults[2], key) + 1
    names.append(markov_config(**{key: value}).name)
  assert len(set(names)) == len(names)
  assert maze_config().name == names[0]


def test_prints_nothing(tmp_path, capfd):
  builder = Brackets(config=bracket_config(), data_dir=tmp_path)
  synthetic.prepare(builder)
  synthetic.open_split(builder, "train")
  assert capfd.readouterr() == ("", "")


def test_prepares_once(prepared, monkeypatch):
  builder, *_ = prepared
  monkeypatch.setattr(mazes, "problems", None)
  synthetic.prepare(builder)


def test_tells_when_the_problems_run_out(tmp_path, caplog):
  config = maze_config(size=5, subgoals=2, num_train=999, num_eval=3)
  builder = Mazes(config=config, data_dir=tmp_path)
  synthetic.prepare(builder)
  maze = config.maze()
  exist = len(list(mazes.problems(maze, 2, "train", 0)))
  assert len(synthetic.open_split(builder, "train")) == exist < 42
  assert f"only {exist} of 999 train examples exist" in caplog.text


def test_reads_what_another_process_prepared(tmp_path):
  one, two = (
    Brackets(config=bracket_config(), data_dir=tmp_path) for _ in range(2)
  )
  synthetic.prepare(one)
  synthetic.prepare(two)
  assert len(synthetic.open_split(two, "train")) == 50


def test_first_of_two_processes_at_once_wins(tmp_path, monkeypatch):
  slow, quick = (
    Brackets(config=bracket_config(), data_dir=tmp_path) for _ in range(2)
  )
  words = brackets.words

  def meanwhile(*args):
    monkeypatch.setattr(brackets, "words", words)
    synthetic.prepare(quick)
    return words(*args)

  monkeypatch.setattr(brackets, "words", meanwhile)
  synthetic.prepare(slow)
  assert len(synthetic.open_split(slow, "train")) == 50
  assert os.listdir(pathlib.Path(slow.data_dir).parent) == ["1.0.0"]


def test_interrupted_preparation_is_redone(tmp_path, monkeypatch):
  builder = Brackets(config=bracket_config(), data_dir=tmp_path)
  words = brackets.words

  def interrupted(*args):
    yield from (word for word, _ in zip(words(*args), range(7), strict=False))
    raise KeyboardInterrupt

  monkeypatch.setattr(brackets, "words", interrupted)
  with pytest.raises(KeyboardInterrupt):
    synthetic.prepare(builder)
  with pytest.raises(InputError, match="call prepare first"):
    synthetic.open_split(builder, "train")
  monkeypatch.setattr(brackets, "words", words)
  synthetic.prepare(builder)
  assert len(synthetic.open_split(builder, "train")) == 50


KILLED = """
import os, signal, sys
import flexmdm_jax.tasks
from flexmdm_jax.data import loader
from flexmdm_jax.tasks.brackets import law
assert "tensorflow_datasets" not in sys.modules, "slow to import"
from flexmdm_jax.data import synthetic
from flexmdm_jax.tasks.brackets import dataset
words = law.words
def killed(split, *args):
  for i, word in enumerate(words(split, *args)):
    if split != "train" and i == 3:
      os.kill(os.getpid(), signal.SIGKILL)
    yield word
law.words = killed
config = dataset.BracketConfig(num_train=50, num_eval=20)
synthetic.prepare(dataset.Brackets(config=config, data_dir=sys.argv[1]))
"""


def test_killed_preparation_is_redone(tmp_path):
  done = subprocess.run(
    [sys.executable, "-c", KILLED, str(tmp_path)],
    cwd=ROOT,
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == -9, done.stderr
  builder = Brackets(config=bracket_config(), data_dir=tmp_path)
  left = os.listdir(pathlib.Path(builder.data_dir).parent)
  assert left and "1.0.0" not in left
  synthetic.prepare(builder)
  assert [len(records(builder, split)) for split in SPLITS] == [50, 20, 20]


def test_rejects_damaged_folder(tmp_path):
  builder = Brackets(config=bracket_config(), data_dir=tmp_path)
  os.makedirs(builder.data_dir)
  with pytest.raises(InputError, match="is damaged: remove that folder"):
    synthetic.prepare(builder)
  shutil.rmtree(builder.data_dir)
  synthetic.prepare(builder)


def test_rejects_folder_that_cannot_be_written(tmp_path):
  (tmp_path / "file").write_text("")
  builder = Brackets(
    config=bracket_config(), data_dir=tmp_path / "file" / "data"
  )
  with pytest.raises(InputError, match=r"cannot write .* \(Not a directory\)"):
    synthetic.prepare(builder)


@pytest.mark.parametrize(
  ("error", "reason"),
  [
    (PermissionError(13, "Permission denied"), "Permission denied"),
    # array_record's own, on a full disk.
    (RuntimeError("No space left on device; writing x"), "No space left"),
  ],
)
def test_rejects_folder_that_refuses(tmp_path, monkeypatch, error, reason):
  def refuse(*args, **kwargs):
    raise error

  builder = Brackets(config=bracket_config(), data_dir=tmp_path)
  monkeypatch.setattr(builder, "download_and_prepare", refuse)
  with pytest.raises(InputError, match=rf"\({reason}.*\): choose a data"):
    synthetic.prepare(builder)


def test_rejects_max_length_that_no_problem_fits(tmp_path):
  config = maze_config(size=5, max_length=2)
  builder = Mazes(config=config, data_dir=tmp_path)
  with pytest.raises(InputError, match="no train problem has a path of at"):
    synthetic.prepare(builder)


def test_rejects_split(prepared):
  with pytest.raises(InputError, match="split='dev' is unknown"):
    synthetic.open_split(prepared[0], "dev")


@pytest.mark.parametrize(
  ("kwargs", "message"),
  [
    ({"size": 8}, "size=8 must be odd"),
    ({"maze_seed": -1}, "maze_seed=-1"),
    ({"subgoals": 1}, "subgoals=1 must be at least 2"),
    ({"subgoals": 18}, "subgoals=18 .* 17 free cells"),
    ({"max_length": 0}, "max_length=0"),
    ({"num_train": 0}, "num_train=0"),
    ({"num_eval": -1}, "num_eval=-1"),
  ],
)
def test_rejects_maze_settings(kwargs, message):
  with pytest.raises(InputError, match=message):
    maze_config(**kwargs)


@pytest.mark.parametrize(
  ("kwargs", "message"),
  [
    ({"kinds": 1}, "kinds=1"),
    ({"data_seed": -1}, "data_seed=-1"),
    ({"num_train": 0}, "num_train=0"),
    ({"num_eval": 0}, "num_eval=0"),
  ],
)
def test_rejects_bracket_settings(kwargs, message):
  with pytest.raises(InputError, match=message):
    bracket_config(**kwargs)


@pytest.mark.parametrize(
  ("kwargs", "message"),
  [
    ({"symbols": 0}, "data.symbols=0"),
    ({"mean_length": 16}, "data.mean_length=16"),
    ({"num_train": 0}, "num_train=0"),
    ({"num_eval": 0}, "num_eval=0"),
  ],
)
def test_rejects_markov_settings(kwargs, message):
  with pytest.raises(InputError, match=message):
    markov_config(**kwargs)
