import json
import math
import sys

import numpy as np
import pytest

from experiments.configs import brackets_quickstart
from flexmdm_jax.errors import InputError
from flexmdm_jax.evaluation.evaluation import evaluate
from flexmdm_jax.evaluation.generative_perplexity import (
  GenerativePerplexity,
  mauve_of_scores,
  mauve_score,
  perplexity,
  perplexity_by_length,
  text_report,
)
from flexmdm_jax.evaluation.lengths import LengthLaw
from flexmdm_jax.evaluation.likelihood import HeldOutLikelihood
from flexmdm_jax.evaluation.maze import MazePlanning
from flexmdm_jax.evaluation.samples import held_out, read_samples
from flexmdm_jax.evaluation.scorers import Scores
from flexmdm_jax.runs import Run
from flexmdm_jax.vocab import Vocab
from tests.evaluation.fake_scorer import UniformScorer
from tests.evaluation.tiny import tiny


def test_perplexity_by_hand():
  # Three tokens of 1/2 and one of 1/8: 2^6 over 4 tokens, that is 2^(3/2).
  texts = [np.log([2, 2, 2]), np.log([8.0]), np.zeros(0)]
  result = perplexity(texts)
  assert result["perplexity"] == pytest.approx(2**1.5)
  assert result["mean_text_perplexity"] == pytest.approx(5)
  assert result["median_text_perplexity"] == pytest.approx(5)
  assert result["scored_texts"] == 2 and result["scored_tokens"] == 4
  # Residuals in bits: 3 - 1.5 * 3 and 3 - 1.5; N / (N - 1) = 2.
  bits = math.sqrt(2 * (1.5**2 + 1.5**2)) / 4
  stderr = 2**1.5 * bits * math.log(2)
  assert result["perplexity_stderr"] == pytest.approx(stderr)


def test_standard_error_is_the_spread_of_repetitions():
  rng = np.random.default_rng(0)

  def draw():
    lengths = rng.integers(1, 30, 200)
    return perplexity([rng.exponential(2.0, n) for n in lengths])

  results = [draw() for _ in range(400)]
  values = np.array([x["perplexity"] for x in results])
  stderr = np.mean([x["perplexity_stderr"] for x in results])
  # The standard deviation of 400 repetitions is known to 1 / sqrt(800).
  assert stderr / values.std() == pytest.approx(1, abs=4 / math.sqrt(800))


def test_nothing_scored_has_no_perplexity():
  result = perplexity([np.zeros(0)])
  assert result["perplexity"] is None and result["scored_texts"] == 0
  one = perplexity([np.log([4.0])])
  assert one["perplexity"] == pytest.approx(4)
  assert one["perplexity_stderr"] is None
  assert perplexity_by_length([np.zeros(0)]) == []


def test_bins_of_length_double():
  texts = [np.full(n, math.log(n + 1)) for n in (1, 2, 3, 4, 7, 0)]
  bins = perplexity_by_length(texts)
  ranges = [(x["min_tokens"], x["max_tokens"], x["scored_texts"]) for x in bins]
  assert ranges == [(1, 1, 1), (2, 3, 2), (4, 7, 2)]
  assert bins[0]["perplexity"] == pytest.approx(2)
  assert bins[1]["perplexity"] == pytest.approx((3**2 * 4**3) ** (1 / 5))


def test_a_uniform_scorer_has_the_perplexity_of_its_size():
  texts = ["(())", "", "()", "("]
  sequences = [[0, 0, 1, 1], [], [0, 1], [0]]
  report = text_report(sequences, texts, UniformScorer(50257).score(texts))
  assert report["perplexity"] == pytest.approx(50257, rel=1e-6)
  assert report["perplexity_stderr"] == pytest.approx(0, abs=1e-2)
  assert report["texts"] == 4 and report["empty_texts"] == 1
  assert report["scored_texts"] == 2 and report["scored_tokens"] == 4
  assert report["cut_texts"] == 0
  assert report["unigram_entropy"] == pytest.approx(2 * math.log(2) / 3)
  assert report["distinct_1"] == 2 / 7
  assert report["distinct_2"] == 3 / 4
  assert report["distinct_3"] == 1
  assert json.loads(json.dumps(report)) == report


@pytest.fixture(scope="module")
def run(tmp_path_factory):
  """An experiment on brackets that reads as text, and its denoiser."""
  folder = tmp_path_factory.mktemp("text")
  config = tiny(brackets_quickstart, folder, num_eval=30)
  experiment = Run.from_config(config)
  experiment.train(folder / "run", progress=False)
  experiment.task.to_text = lambda ids: "".join("()[]{}<>"[i] for i in ids)
  return experiment, experiment.restore(folder / "run")[1]


@pytest.mark.slow
def test_task_reports_samples_and_data_alike(run, tmp_path):
  evaluation = GenerativePerplexity(UniformScorer(7), plots=tmp_path)
  result = evaluate(evaluation, *run, num=4)
  assert json.loads(json.dumps(result)) == result
  assert result["samples"].keys() == result["data"].keys()
  assert result["perplexity_data"] == pytest.approx(7)
  assert result["samples"]["texts"] == result["data"]["texts"] == 4
  assert result["perplexity"] == result["samples"]["perplexity"]
  assert 0 <= result["length_tv"] <= 1 and "ks" in result["length_floor"]
  assert result["scorer"] == {"scorer": "uniform", "size": 7}
  assert "mauve" not in result
  for name in ("lengths", "perplexity_by_length"):
    assert (tmp_path / f"{name}.png").stat().st_size > 5000


@pytest.mark.slow
def test_samples_of_a_file_are_judged_without_a_model(run, tmp_path):
  experiment, _ = run
  records = held_out(experiment, 3)
  true = [[int(i) for i in record["tokens"]] for record in records]
  path = tmp_path / "samples.jsonl"
  lines = [json.dumps({"tokens": x, "truncated": False}) for x in true]
  path.write_text("\n".join(lines) + "\n")
  evaluation = GenerativePerplexity(UniformScorer(7), samples=path)
  result = evaluate(evaluation, experiment, None, num=3)
  assert result["samples"] == result["data"]
  assert result["length_tv"] == result["length_wasserstein_1"] == 0
  assert result["truncated"] == 0
  evaluation = LengthLaw(samples=path, plots=tmp_path)
  lengths = evaluate(evaluation, experiment, None, num=3)
  assert lengths["length_ks"] == 0 and lengths["balanced"] == 1
  assert lengths["length_p_value"]["tv"] == 1
  assert (tmp_path / "lengths.png").exists()


@pytest.mark.slow
def test_lengths_and_likelihood_of_brackets(run):
  lengths = evaluate(LengthLaw(), *run, num=4)
  assert 0 <= lengths["length_tv"] <= 1 and 0 <= lengths["balanced"] <= 1
  assert lengths["num_samples"] == 4
  likelihood = HeldOutLikelihood(num_times=32)
  bound = evaluate(likelihood, *run, num=4, split="validation")
  assert bound["split"] == "validation"
  assert bound["nats"] > 0 and bound["stderr"] >= 0
  assert "entropy" not in bound
  with pytest.raises(InputError, match=r"maze needs mazes, but .* brackets"):
    evaluate(MazePlanning(), *run, num=3)


def test_damaged_samples_are_refused(tmp_path):
  vocab, path = Vocab(6, 4, 5), tmp_path / "x.jsonl"
  with pytest.raises(InputError, match=r"cannot read .*x\.jsonl"):
    read_samples(path, vocab)
  for text, message in (
    ("", "is empty"),
    ('{"tokens": [1]}\nhello', "line 2"),
    ('{"tokens": [6]}', r"line 1 .* \[0, 5\]"),
    ('{"tokens": [1.0]}', "line 1"),
    ('{"tokens": 3}', "line 1"),
    ('{"text": "a"}', "line 1"),
    ("[1, 2]", "line 1"),
    ('{"tokens": [1], "truncated": "no"}', "'truncated' must be true or"),
    ('{"tokens": [1], "truncated": [[]]}', "line 1"),
  ):
    path.write_text(text)
    with pytest.raises(InputError, match=message):
      read_samples(path, vocab)
  path.write_text('{"tokens": [1, 2]}\n{"tokens": [], "truncated": true}\n')
  assert read_samples(path, vocab) == ([[1, 2], []], None)


def test_perplexity_needs_text(run, monkeypatch):
  monkeypatch.setattr(run[0].task, "to_text", lambda ids: None)
  with pytest.raises(InputError, match="needs text, but this run is on brack"):
    evaluate(GenerativePerplexity(UniformScorer(7)), *run, num=2)


def test_a_missing_mauve_is_named_before_any_work(monkeypatch):
  monkeypatch.setitem(sys.modules, "mauve", None)
  with pytest.raises(InputError, match="mauve: pip install"):
    GenerativePerplexity(UniformScorer(7), mauve=True)


def test_mauve_tells_laws_apart():
  pytest.importorskip("mauve")
  rng = np.random.default_rng(0)
  a, b = rng.normal(size=(2, 200, 8)).astype(np.float32)
  same = mauve_score(a, b)
  far = mauve_score(a, b + 3)
  assert same["mauve"] > 0.8 and far["mauve"] < 0.1
  assert same["texts"] == 200 and same["num_buckets"] == 20
  assert json.loads(json.dumps(same)) == same
  assert mauve_score(a, b) == same


def test_mauve_of_scores_leaves_empty_texts_out_and_takes_equal_numbers():
  pytest.importorskip("mauve")
  rng = np.random.default_rng(0)
  data, samples = rng.normal(size=(2, 40, 4)).astype(np.float32)
  samples[3] = np.nan
  result = mauve_of_scores(
    Scores([], np.zeros(0), data[:30]), Scores([], np.zeros(0), samples)
  )
  assert result["texts"] == 30


def test_too_few_texts_with_features_cost_only_mauve():
  features = np.full((25, 4), np.nan, np.float32)
  features[:19] = 0
  scores = Scores([], np.zeros(0), features)
  assert mauve_of_scores(scores, scores) == {
    "mauve": None,
    "mauve_star": None,
    "texts": 19,
  }


def test_mauve_refuses_what_says_nothing():
  few = np.zeros((19, 4))
  with pytest.raises(InputError, match="19 texts"):
    mauve_score(few, few)
  with pytest.raises(InputError, match="two sets of N"):
    mauve_score(few, np.zeros((20, 4)))
  with pytest.raises(InputError, match="finite"):
    mauve_score(np.full((20, 4), np.nan), np.zeros((20, 4)))
