"""A hidden Markov language: its law is exact, and its draws follow it."""

import collections
import itertools
import math

import jax
import numpy as np
import pytest
from scipy import stats

from experiments.configs import markov as config_file
from flexmdm_jax.errors import InputError
from flexmdm_jax.evaluation.evaluation import evaluate
from flexmdm_jax.evaluation.likelihood import HeldOutLikelihood
from flexmdm_jax.models.denoiser import denoiser
from flexmdm_jax.runs import Run
from flexmdm_jax.tasks.markov.law import MarkovLanguage

# Of this seed no sequence is too rare for a chi-square test.
SMALL = MarkovLanguage(
  symbols=2, phases=3, mean_length=2.7, max_length=4, seed=4
)
DEFAULT = MarkovLanguage()


def all_sequences(language):
  return [
    sequence
    for n in range(1, language.max_length + 1)
    for sequence in itertools.product(range(language.symbols), repeat=n)
  ]


def by_paths(language, sequence):
  """The probability of a sequence, not conditioned: over all hidden paths."""
  total = 0.0
  for path in itertools.product(range(language.phases), repeat=len(sequence)):
    p = 1 / language.phases
    for n, (phase, token) in enumerate(zip(path, sequence, strict=True), 1):
      p *= language.emissions[phase, token]
      end = language.ends[n, phase]
      if n == len(sequence):
        p *= end
      else:
        p *= (1 - end) * language.transitions[phase, path[n]]
    total += p
  return total


def test_matrices_are_laws_without_absorbing_phases():
  for matrix in (DEFAULT.emissions, DEFAULT.transitions):
    np.testing.assert_allclose(matrix.sum(axis=1), 1, rtol=1e-12)
    assert (matrix > 0.006).all()
  assert DEFAULT.emissions.shape == (4, 8)
  assert DEFAULT.transitions.shape == (4, 4)


def test_the_last_phase_alone_ends_ever_more_likely():
  assert (DEFAULT.ends[:, :-1] == 0).all() and DEFAULT.ends[0, -1] == 0
  stay = np.log1p(-DEFAULT.ends[1:, -1])
  np.testing.assert_allclose(stay, stay[0] * np.arange(1, 97), rtol=1e-9)


def test_probabilities_are_sums_over_hidden_paths():
  sequences = all_sequences(SMALL)
  joint = np.array([by_paths(SMALL, sequence) for sequence in sequences])
  expected = joint / joint.sum()
  result = np.exp(SMALL.log_prob(sequences))
  np.testing.assert_allclose(result, expected, rtol=1e-10)
  assert result.sum() == pytest.approx(1, abs=1e-12)


def test_length_law_by_enumeration():
  expected = np.zeros(5)
  for sequence, log_p in zip(
    all_sequences(SMALL), SMALL.log_prob(all_sequences(SMALL)), strict=True
  ):
    expected[len(sequence)] += math.exp(log_p)
  np.testing.assert_allclose(SMALL.length_law(), expected, atol=1e-12)


def test_one_symbol_tells_its_length_only():
  language = MarkovLanguage(symbols=1)
  ones = [[0] * n for n in range(1, 97)]
  np.testing.assert_allclose(
    np.exp(language.log_prob(ones)), language.length_law()[1:], rtol=1e-9
  )


@pytest.mark.parametrize(
  "settings",
  [{}, {"phases": 1}, {"mean_length": 6}, {"mean_length": 64.0}, {"seed": 7}],
)
def test_mean_length_is_solved_for(settings):
  language = MarkovLanguage(**settings)
  law = language.length_law()
  assert law.shape == (97,) and law[0] == 0
  assert law.sum() == pytest.approx(1)
  assert law @ np.arange(97) == pytest.approx(language.mean_length, rel=1e-9)


def test_draws_follow_the_law_of_sequences():
  n = 20_000
  draws = SMALL.draw(n, seed=0)
  assert all(x.dtype == np.int32 and x.ndim == 1 for x in draws[:9])
  counts = collections.Counter(tuple(x.tolist()) for x in draws)
  sequences = all_sequences(SMALL)
  assert set(counts) <= set(sequences)
  observed = [counts[sequence] for sequence in sequences]
  expected = n * np.exp(SMALL.log_prob(sequences))
  assert expected.min() > 5
  assert stats.chisquare(observed, expected).pvalue > 1e-3


@pytest.mark.parametrize("mean_length", [40, 63])
def test_draws_follow_the_law_of_lengths(mean_length):
  language = MarkovLanguage(mean_length=mean_length)
  n = 10_000
  length = [len(x) for x in language.draw(n, seed=0)]
  # Bins of eight, so that each expects enough.
  observed = np.histogram(length, np.arange(1, 98, 8))[0]
  expected = n * language.length_law()[1:].reshape(-1, 8).sum(axis=1)
  assert expected.min() > 5
  assert stats.chisquare(observed, expected).pvalue > 1e-3


def test_seeds_determine_draws():
  def text(seed, language=DEFAULT):
    return np.concatenate(language.draw(20, seed)).tobytes()

  assert text(0) == text(0, MarkovLanguage())
  others = [text(1), text(0, MarkovLanguage(seed=1))]
  assert len({text(0), *others}) == 3


def test_entropy_by_enumeration():
  log_p = SMALL.log_prob(all_sequences(SMALL))
  entropy = -(np.exp(log_p) * log_p).sum()
  few, many = SMALL.entropy(1000), SMALL.entropy(16_000)
  assert abs(many[0] - entropy) < 3 * many[1]
  assert few[1] / many[1] == pytest.approx(4, rel=0.1)


def test_what_is_no_sequence_is_impossible():
  no = [[], [0] * 5, [2], [0, -1], [0, SMALL.vocab.mask]]
  yes = [[0, 1], np.array([1], np.int32)]
  result = SMALL.log_prob([*no, *yes])
  assert (result[: len(no)] == -np.inf).all()
  assert np.isfinite(result[len(no) :]).all()
  assert SMALL.log_prob([]).shape == (0,)


def test_batch_mates_change_nothing():
  draws = DEFAULT.draw(5, seed=3)
  alone = [DEFAULT.log_prob([x])[0] for x in draws]
  np.testing.assert_allclose(DEFAULT.log_prob(draws), alone, rtol=1e-12)


def test_vocab():
  vocab = SMALL.vocab
  assert (vocab.size, vocab.mask, vocab.pad) == (4, 2, 3)


@pytest.mark.parametrize(
  ("settings", "message"),
  [
    ({"symbols": 0}, "data.symbols=0 must be at least 1"),
    ({"phases": 0}, "data.phases=0 must be at least 1"),
    ({"max_length": 1}, "data.max_length=1 must be at least 2"),
    ({"seed": -1}, "data.seed=-1 must be at least 0"),
    ({"mean_length": 2}, "data.mean_length=2 must be between 4.9"),
    ({"mean_length": 70}, "=70 must be between .* 64.3.*max_length=96"),
    ({"mean_length": math.nan}, "mean_length=nan must be finite"),
  ],
)
def test_rejects_settings(settings, message):
  with pytest.raises(InputError, match=message) as error:
    MarkovLanguage(**settings)
  assert "\n" not in str(error.value)


def test_rejects_draws():
  with pytest.raises(InputError, match="num=0 must be at least 1"):
    SMALL.draw(0, seed=0)
  with pytest.raises(InputError, match="seed=-1 must be at least 0"):
    SMALL.draw(1, seed=-1)
  with pytest.raises(InputError, match="num=1 must be at least 2"):
    SMALL.entropy(1)


def experiment(method, folder):
  config = config_file.get_config()
  config.method = method
  config.data.update(
    folder=str(folder), mean_length=4.0, max_length=8, num_train=9, num_eval=9
  )
  config.model.update(hidden_size=8, num_layers=1, num_heads=2, cond_size=4)
  return Run.from_config(config.to_dict())


@pytest.mark.parametrize("method", ["flexmdm", "mdm", "autoregressive"])
def test_records_become_examples(method, tmp_path):
  task = experiment(method, tmp_path).task
  source = task.records("test")
  records = [source[i] for i in range(len(source))]
  rows = [task.encode(record) for record in records]
  tokens = [row.tokens for row in rows]
  assert {x.size for x in tokens} == {task.max_length}
  assert task.decode(tokens, [row.length for row in rows]) == [
    record["tokens"].tolist() for record in records
  ]
  assert task.start(records).tokens.shape == (9, task.max_length)


def test_likelihood_is_told_above_the_entropy(tmp_path):
  run = experiment("autoregressive", tmp_path)
  task = run.task
  tokens = np.zeros((1, task.max_length), np.int32)
  shapes = jax.eval_shape(
    run.model.init,
    jax.random.key(0),
    tokens,
    np.ones(1, np.int32),
    np.zeros(1, np.float32),
  )
  zero = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes["params"])
  result = evaluate(
    HeldOutLikelihood(), run, denoiser(run.model, zero), num=9, batch_size=9
  )
  records = [x["tokens"] for x in task.records("test")]
  # Every token and every end is one of all ids but the mask's.
  nats = (sum(map(len, records)) / 9 + 1) * math.log(9)
  entropy = -task.language.log_prob(records).mean()
  assert result["nats"] == pytest.approx(nats, rel=1e-5)
  assert result["entropy"] == pytest.approx(entropy)
  assert result["nats_above"] == pytest.approx(nats - entropy, rel=1e-4)
