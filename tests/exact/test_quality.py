"""Distances from a law by hand, and samplers whose quality is known."""

import dataclasses
import json

import jax.numpy as jnp
import numpy as np
import pytest

import flexmdm_jax as fm
from flexmdm_jax.exact import (
  KnownLaw,
  ShortLaw,
  law_distance,
  markov_law,
  sampler_quality,
)
from flexmdm_jax.schedules import Linear
from flexmdm_jax.tasks.markov.law import MarkovLanguage
from tests.laws import PAPER, VOCAB

PAIR = ShortLaw({"0": 0.5, "01": 0.5}, VOCAB, 2)
LANGUAGE = markov_law(
  symbols=3, phases=3, stages=2, mean_length=7.0, max_length=24
)
LINEAR = fm.JointInterpolant(Linear(), Linear())


def test_distance_by_hand():
  # A thousand samples: half "01", a quarter "0", a quarter "", which cannot be.
  samples = [[0, 1]] * 500 + [[0]] * 250 + [[]] * 250
  distance = law_distance(PAIR, samples)
  assert distance.num == 1000
  assert distance.mean_length == 1.25
  # Of the law 50,000 draws are known: 4 standard errors.
  sigma = 4 * 0.5 / np.sqrt(50_000)
  assert distance.law_mean_length == pytest.approx(1.5, abs=sigma)
  assert distance.length_ks == pytest.approx(0.25, abs=sigma)
  assert distance.excess == pytest.approx(0, abs=1e-12)
  assert distance.excess_error == pytest.approx(0, abs=1e-12)
  assert distance.impossible == 0.25
  assert distance.sequence_tv == 0.25
  # Bigrams of the law, of 5 in two sequences: begin 0 (2), 0 end, 0 1, 1 end;
  # of the samples, of 9 in four: begin 0 (3), 0 end, 0 1 (2), 1 end (2),
  # begin end.
  law = np.array([2, 1, 1, 1, 0]) / 5
  made = np.array([3, 1, 2, 2, 1]) / 9
  tv = 0.5 * np.abs(law - made).sum()
  assert distance.bigram_tv == pytest.approx(tv, abs=sigma)


def test_excess_by_hand():
  law = ShortLaw({"0": 0.8, "1": 0.2}, VOCAB, 1)
  entropy = -0.8 * np.log(0.8) - 0.2 * np.log(0.2)
  nats = -np.log([0.8] * 30 + [0.2] * 10)
  distance = law_distance(law, [[0]] * 30 + [[1]] * 10)
  assert distance.excess == pytest.approx(nats.mean() - entropy)
  assert distance.excess_error == pytest.approx(nats.std(ddof=1) / np.sqrt(40))
  # The mode alone is more probable than the law's own draws.
  assert law_distance(law, [[0]] * 9).excess < 0


def test_excess_given_length_by_hand():
  # Of a sequence of one token -log p is as of "0" with 3/4 and "1" with 1/4.
  law = ShortLaw({"": 0.2, "0": 0.6, "1": 0.2}, VOCAB, 1)
  expected = -0.75 * np.log(0.6) - 0.25 * np.log(0.2)
  sigma = 4 * np.log(3) / np.sqrt(40_000)
  only_mode = law_distance(law, [[0]] * 20)
  given = -np.log(0.6) - expected
  assert only_mode.excess_given_length == pytest.approx(given, abs=sigma)
  # Wrong lengths alone are not seen: the empty sequence is as it must be.
  empty = law_distance(law, [[]] * 20)
  assert empty.excess_given_length == pytest.approx(0, abs=1e-9)
  assert abs(empty.excess) > 0.1
  # Nothing is known of longer ones than the law has; they are not possible.
  assert law_distance(law, [[0, 0]] * 2).excess_given_length is None


def test_the_length_explains_most_of_the_noise():
  distance = law_distance(LANGUAGE, LANGUAGE.draw(1000, seed=1))
  assert distance.excess_given_length_error < 0.6 * distance.excess_error
  error = abs(distance.excess_given_length)
  assert error < 4 * distance.excess_given_length_error


@pytest.mark.parametrize(
  "law",
  [PAPER, LANGUAGE, MarkovLanguage(symbols=3, mean_length=9, max_length=20)],
  ids=["short", "hidden", "language"],
)
def test_perfect_samples_are_at_the_floor(law):
  assert isinstance(law, KnownLaw)
  distance = law_distance(law, law.draw(2000, seed=0))
  floor = dataclasses.asdict(distance.floor)
  assert abs(distance.excess) < 4 * distance.excess_error
  error = distance.excess_given_length_error
  assert abs(distance.excess_given_length) < 4 * error
  assert distance.impossible == 0
  assert (distance.sequence_tv is None) == (law is not PAPER)
  for name in ("length_ks", "bigram_tv", "sequence_tv"):
    if getattr(distance, name) is not None:
      assert 0 < getattr(distance, name) < 2.5 * floor[name]
  error = distance.mean_length - distance.law_mean_length
  assert abs(error) < 5 * floor["mean_length"]
  assert distance == law_distance(law, law.draw(2000, seed=0))
  asdict = dataclasses.asdict(distance)
  assert json.loads(json.dumps(asdict)) == asdict


def test_floors_fall_with_the_number_of_samples():
  few, many = (
    dataclasses.asdict(law_distance(PAPER, PAPER.draw(num, 0)).floor)
    for num in (100, 2500)
  )
  # By the root of 25; a mean of 32 absolute values has an error of an eighth.
  ratio = {name: few[name] / many[name] for name in few}
  assert all(3 < x < 8 for x in ratio.values()), ratio


def test_nothing_possible():
  distance = law_distance(PAIR, [[1], [1]])
  assert (distance.impossible, distance.excess) == (1.0, None)
  assert distance.excess_error is None
  assert distance.excess_given_length is None


# One canvas compiles once.
STEPS = [fm.SamplerConfig(n, "tau_leaping", buckets=()) for n in (2, 16)]


@pytest.fixture(scope="module")
def rows():
  return sampler_quality(
    LANGUAGE, LINEAR, {"tau": STEPS}, num=1000, batch_size=600
  )


@pytest.mark.slow
def test_more_calls_come_closer(rows):
  coarse, fine = (row.distance for row in rows)
  assert [(row.name, row.calls) for row in rows] == [("tau", 2), ("tau", 16)]
  assert coarse.num == fine.num == 1000
  assert coarse.bigram_tv > 2 * fine.bigram_tv
  assert coarse.excess > 4 * coarse.excess_error
  assert fine.length_ks < 2.5 * fine.floor.length_ks
  assert fine.bigram_tv < 3 * fine.floor.bigram_tv
  assert all(0 <= row.truncated < 0.01 and row.seconds > 0 for row in rows)
  assert all(0 < row.mean_calls <= row.calls for row in rows)
  asdict = [dataclasses.asdict(row) for row in rows]
  assert json.loads(json.dumps(asdict)) == asdict


def test_own_denoiser_on_another_path():
  # The exact one, as a user's: a plain function.
  exact = LANGUAGE.denoiser(LINEAR.insertion, gap_law=True)
  (row,) = sampler_quality(
    LANGUAGE,
    LINEAR,
    {"mine": STEPS[1]},
    num=600,
    path=fm.lengths_first(0.5),
    denoiser=lambda *state: exact(*state),
  )
  distance = row.distance
  assert distance.length_ks < 2.5 * distance.floor.length_ks
  assert distance.bigram_tv < 3 * distance.floor.bigram_tv
  assert abs(distance.excess) < 4 * distance.excess_error


def test_a_wrong_denoiser_is_seen():
  def wrong(tokens, length, t):
    B, L = tokens.shape
    logits = jnp.zeros((B, L, LANGUAGE.vocab.size)).at[:, :, 3:].set(-jnp.inf)
    return fm.Prediction(logits, jnp.zeros((B, L + 1)))

  (row,) = sampler_quality(
    LANGUAGE, LINEAR, {"wrong": STEPS[1]}, num=300, denoiser=wrong
  )
  assert row.distance.bigram_tv > 10 * row.distance.floor.bigram_tv
  assert row.distance.excess > 10 * row.distance.excess_error


@pytest.mark.parametrize(
  ("change", "says"),
  [
    (dict(num=1), "num=1"),
    (dict(configs={}), "at least one SamplerConfig"),
    (dict(law=MarkovLanguage()), "MarkovLanguage has no exact denoiser"),
    (dict(law=ShortLaw({("0", (0,)): 1.0}, VOCAB, 2)), "frozen tokens"),
  ],
)
def test_bad_input_is_refused(change, says):
  settings = dict(law=PAIR, configs={"tau": STEPS}, num=10) | change
  with pytest.raises(fm.InputError, match=says):
    sampler_quality(interpolant=LINEAR, **settings)


def test_no_samples_are_refused():
  with pytest.raises(fm.InputError, match="at least one sample"):
    law_distance(PAIR, [])
