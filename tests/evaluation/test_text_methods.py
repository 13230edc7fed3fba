"""Methods on one text: likelihoods, curves, samples, and their table.

Here are the tests of `likelihood`, `variance`, `run_scorer`, `text_methods` and
`text_table`, which share three small runs.
"""

import dataclasses
import json
import math
import random

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.configs import shakespeare
from flexmdm_jax.errors import InputError
from flexmdm_jax.evaluation import text_table
from flexmdm_jax.evaluation.likelihood import (
  HeldOutLikelihood,
  make_batches,
  mean_error,
)
from flexmdm_jax.evaluation.run_scorer import RunScorer
from flexmdm_jax.evaluation.text_methods import Measurements
from flexmdm_jax.evaluation.train_once import train_once
from flexmdm_jax.evaluation.variance import GradientVariance
from flexmdm_jax.runs import Run
from tests.data.tiny_text import write_bpe, write_jsonl

METHODS = ("flexmdm", "mdm", "autoregressive")
L = 8


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
  """Each method, hardly trained, on texts of three tokens."""
  folder = tmp_path_factory.mktemp("text")
  paths = []
  for split, num in (("train", 80), ("test", 20), ("validation", 4)):
    draw = random.Random(split)
    texts = [
      "".join(draw.choices("abc", k=draw.randint(3, L))) for _ in range(num)
    ]
    paths.append(str(write_jsonl(folder / f"{split}.jsonl", texts)))
  result = {}
  for method in METHODS:
    config = shakespeare.get_config()
    config.method = method
    config.data.update(
      folder=str(folder / "cache"),
      train=paths[0],
      test=paths[1],
      validation=paths[2],
      tokenizer_folder=str(write_bpe(folder / "bpe")),
      merges=0,
      max_length=L,
      buckets=(L,),
    )
    config.model.update(hidden_size=8, num_layers=1, num_heads=2, cond_size=4)
    config.optimizer.warmup_steps = 1
    config.train.update(num_steps=4, batch_size=8, report_every=2)
    config.sampler.steps = 2
    experiment = Run.from_config(config.to_dict())
    denoiser, losses = train_once(experiment, folder / method)
    assert losses[0] == [2, 4]
    result[method] = (experiment, denoiser, folder / method)
  return result


def records(experiment, num=6):
  source = experiment.task.records("test")
  return [source[i] for i in range(num)]


def likelihood(run, batch_size=4, **options):
  experiment, denoiser, _ = run
  return HeldOutLikelihood(**options).measure(
    experiment, denoiser, records(experiment), jax.random.key(0), batch_size
  )


@pytest.mark.slow
def test_an_untrained_autoregressive_model_is_uniform(runs):
  experiment, denoiser, _ = runs["autoregressive"]
  zero = dataclasses.replace(
    denoiser, params=jax.tree.map(jnp.zeros_like, denoiser.params)
  )
  result = likelihood((experiment, zero, None))
  rows = records(experiment)
  tokens = sum(len(row["tokens"]) for row in rows)
  # Every token and every end is one of all ids but the mask's.
  nats = (tokens + len(rows)) * math.log(experiment.task.vocab.size - 1)
  assert result.kind == "exact" and result.calls == 1 and result.stderr == 0
  assert result.nats == pytest.approx(nats / len(rows))
  assert result.nats_per_token == pytest.approx(nats / tokens)
  assert result.bits_per_token == pytest.approx(nats / tokens / math.log(2))
  assert result.perplexity == pytest.approx(math.exp(nats / tokens))
  # These texts have a token a character.
  assert result.bits_per_character == pytest.approx(result.bits_per_token)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["flexmdm", "mdm"])
def test_bounds_have_errors_that_fall(runs, method):
  few = likelihood(runs[method], num_times=32)
  many = likelihood(runs[method], num_times=96)
  assert few.calls == 32 and many.calls == 96
  assert 0 < few.stderr and abs(few.nats - many.nats) < 5 * few.stderr
  enough = likelihood(runs[method], num_times=96, max_stderr=1e6)
  assert enough.calls == 32 and enough.nats == few.nats
  if method == "flexmdm":
    paper = likelihood(runs[method], num_times=96, kind="paper")
    assert paper.nats > many.nats


def test_mean_error_by_hand():
  assert mean_error(np.array([3.0, 4.0])) == 2.5


@pytest.mark.slow
def test_batches_are_of_like_lengths(runs):
  experiment, _, _ = runs["flexmdm"]
  rows = [experiment.task.encode({"tokens": [1] * n}) for n in (7, 1, 8, 2, 3)]
  batches = make_batches(rows, 2)
  assert [batch.places.tolist() for batch in batches] == [[1, 3], [4, 0], [2]]
  assert [batch.rows.length.tolist() for batch in batches] == [
    [1, 2],
    [3, 7],
    [8, 8],
  ]


@pytest.mark.slow
def test_variance_of_aligned_targets_is_smaller(runs):
  experiment, denoiser, _ = runs["flexmdm"]
  source = experiment.task.records("train")
  rows = [source[i % len(source)] for i in range(60)]
  result = GradientVariance(times=(0.5,))(
    experiment, denoiser, rows, jax.random.key(0)
  )
  assert result["sampled"][0] > result["aligned"][0] > 0
  assert result["ratio"][0] == pytest.approx(
    result["sampled"][0] / result["aligned"][0]
  )


@pytest.mark.slow
def test_a_run_scores_as_its_likelihood_says(runs):
  experiment, _, workdir = runs["autoregressive"]
  scorer = RunScorer(workdir, batch_size=4)
  rows = records(experiment)
  texts = [experiment.task.to_text(row["tokens"]) for row in rows]
  scores = scorer.score([*texts, "", "a" * (L + 1)])
  total = sum(nats.sum() for nats in scores.nats[: len(rows)])
  exact = likelihood(runs["autoregressive"])
  assert total / len(rows) == pytest.approx(exact.nats, rel=1e-5)
  # A text and its end; nothing; what fits of a text, without an end.
  lengths = [len(nats) for nats in scores.nats]
  assert lengths == [*(len(row["tokens"]) + 1 for row in rows), 0, L]
  assert scores.truncated.tolist() == [False] * (len(rows) + 1) + [True]
  json.dumps(scorer.describe())
  with pytest.raises(InputError, match="mauve needs features"):
    scorer.score(texts, features=True)
  with pytest.raises(InputError, match="is a run of mdm"):
    RunScorer(runs["mdm"][2])


@pytest.mark.slow
def test_methods_are_compared_in_tables(runs, tmp_path):
  scorer = RunScorer(runs["autoregressive"][2])
  paths = ("lengths_first", "trained")
  measurements = Measurements(paths, (1, 2), num_times=32, batch_size=4)
  rows = []
  for experiment, denoiser, workdir in runs.values():
    some = records(experiment)
    rows.append(
      {
        **text_table.describe(experiment, 1.0),
        "curve": measurements.curve(experiment, workdir, some),
        "likelihood": measurements.likelihoods(experiment, denoiser, some),
        "samples": measurements.samples(experiment, denoiser, some, scorer),
      }
    )
  flexmdm, mdm, autoregressive = json.loads(json.dumps(rows))

  def bounds(row):
    return [(x["path"], x["kind"]) for x in row["likelihood"]]

  def samples(row):
    return [(x["path"], x["calls"]) for x in row["samples"]]

  assert bounds(flexmdm) == [
    ("lengths_first", "tight"),
    ("trained", "tight"),
    ("trained", "paper"),
  ]
  assert bounds(mdm) == [("", "tight")]
  assert bounds(autoregressive) == [("", "exact")]
  assert samples(flexmdm) == [(p, n) for p in paths for n in (1, 2)]
  assert samples(mdm) == [("", 1), ("", 2)]
  assert samples(autoregressive) == [("", L + 1)]
  # The newest checkpoint of each curve is what the table measures.
  for row in rows:
    steps, nats = row["curve"]
    assert steps == sorted(steps) and len(nats) == len(steps)
    assert nats[-1] == pytest.approx(row["likelihood"][0]["nats"])
  text_table.write(tmp_path, "tiny", {"rows": rows, "num": 6})
  written = json.loads((tmp_path / "tiny.json").read_text())
  assert written["num"] == 6 and written["versions"]["jax"]
  lines = (tmp_path / "tiny.md").read_text().splitlines()
  assert len(lines) == 2 + 5 + 1 + 2 + 7
  assert len({line.count("|") for line in lines[:7]}) == 1
  assert (tmp_path / "tiny.png").stat().st_size > 1000


@pytest.mark.slow
def test_tables_grow_by_a_method_and_train_nothing_twice(runs, tmp_path):
  experiment = runs["flexmdm"][0]
  for method, (_, _, folder) in runs.items():
    (tmp_path / f"tiny_{method}").symlink_to(folder)
  measurements = Measurements(("trained",), (1,), num_times=32, batch_size=4)
  tables = text_table.make_tables(
    experiment.config, "tiny", tmp_path, measurements, num=4, curve_num=2
  )
  found = [
    (len(x["rows"]), x["rows"][-1]["method"], x["num"], x["scorer"]["scorer"])
    for x in tables
  ]
  assert found == [
    (i, method, 4, "autoregressive run")
    for i, method in enumerate(text_table.METHODS, 1)
  ]


@pytest.mark.slow
def test_a_model_samples_with_its_own_schedules_only(runs):
  experiment, _, workdir = runs["flexmdm"]
  config = json.loads(json.dumps(experiment.config))
  config["insertion"] = {"name": "sine"}
  with pytest.raises(InputError, match="trained with the schedules"):
    Run.from_config(config).restore(workdir)


@pytest.mark.slow
@pytest.mark.parametrize(
  ("options", "named"),
  [
    ({"kind": "loose"}, "kind='loose' must be one of"),
    ({"num_times": 16}, "num_times=16"),
    ({"max_stderr": -1.0}, "max_stderr=-1"),
    ({"batch_size": 0}, "batch_size=0"),
  ],
)
def test_settings_are_checked(runs, options, named):
  with pytest.raises(InputError, match=named):
    likelihood(runs["flexmdm"], **options)


@pytest.mark.slow
def test_variance_is_of_a_model_that_inserts(runs):
  with pytest.raises(InputError, match="method is mdm"):
    GradientVariance()(*runs["mdm"][:2], [], jax.random.key(0))
  with pytest.raises(InputError, match="num=0 must be"):
    GradientVariance()(*runs["flexmdm"][:2], [], jax.random.key(0))
  with pytest.raises(InputError, match=r"times=\(1.0,\)"):
    GradientVariance(times=(1.0,))


@pytest.mark.slow
def test_a_causal_model_has_no_trace(runs):
  experiment, denoiser, _ = runs["autoregressive"]
  start = experiment.task.start(records(experiment))
  with pytest.raises(InputError, match="has no trace"):
    experiment.trace(jax.random.key(0), denoiser, start)
