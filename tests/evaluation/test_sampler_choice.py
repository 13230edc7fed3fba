"""The choice of a sampler: what it makes small, by task."""

import json
import math

import jax
import numpy as np
import pytest

from experiments.configs import markov, maze_quickstart
from flexmdm_jax.errors import InputError
from flexmdm_jax.evaluation import sampler_choice
from flexmdm_jax.evaluation.sampler_choice import SamplerChoice, Trial, best
from flexmdm_jax.evaluation.samples import held_out
from flexmdm_jax.models.denoiser import denoiser
from flexmdm_jax.models.parameters import abstract_params
from flexmdm_jax.runs import Run
from tests.evaluation.tiny import tiny

SAMPLERS = {"grid": {"method": "tau_leaping", "buckets": ()}}


def trial(sampler, calls, error):
  return Trial("trained", sampler, calls, error, {})


def test_the_first_of_the_least_errors_wins():
  trials = [
    trial("a", 16, 0.5),
    trial("a", 8, math.inf),
    trial("b", 8, 0.2),
    trial("c", 8, 0.2),
    trial("b", 16, 0.7),
  ]
  assert best(trials) == {8: trials[2], 16: trials[0]}
  assert list(best(trials)) == [8, 16]
  assert trials[1].summary()["error"] is None
  json.dumps(trials[1].summary(), allow_nan=False)


@pytest.mark.parametrize(
  ("change", "says"),
  [
    (dict(paths=()), "paths is empty"),
    (dict(samplers={}), "samplers is empty"),
    (dict(calls=()), "calls is empty"),
    (dict(calls=(0,)), "steps=0"),
    (dict(samplers={"x": {"method": "x"}}), "method='x'"),
  ],
)
def test_wrong_settings_are_refused(change, says):
  settings = dict(paths=("trained",), samplers=SAMPLERS, calls=(2,)) | change
  with pytest.raises(InputError, match=says):
    SamplerChoice(**settings)


def untrained(module, folder, **data):
  """A run, with parameters that are all small."""
  run = Run.from_config(tiny(module, folder, **data))
  params = jax.tree.map(
    lambda x: np.full(x.shape, 0.01, x.dtype), abstract_params(run.model)
  )
  return run, denoiser(run.model, params)


@pytest.mark.slow
def test_a_known_law_is_measured_against_its_floor(tmp_path):
  run, network = untrained(
    markov, tmp_path, num_eval=30, mean_length=6.0, max_length=12
  )
  choice = SamplerChoice(
    ("trained", "power:4,power:1"), SAMPLERS, (2,), num_times=32
  )
  given = run, network, held_out(run, 20), jax.random.key(0)
  bounds = choice.bounds(*given)
  assert list(bounds) == list(choice.paths)
  assert all(bound["nats_above"] > 0 for bound in bounds.values())
  trials = list(choice.trials(*given))
  assert [x.path for x in trials] == list(choice.paths)
  for x in trials:
    law = x.report["law"]
    lengths = law["length_ks"] / law["floor"]["length_ks"]
    floor = law["floor"]["excess_given_length"]
    excess = abs(law["excess_given_length"]) / floor
    assert x.error == pytest.approx((lengths + excess) / 2)
    json.dumps(x.summary(), allow_nan=False)
  with pytest.raises(InputError, match="a scorer needs text"):
    scored = SamplerChoice(("trained",), SAMPLERS, (2,), scorer=object())
    next(scored.trials(*given))


@pytest.mark.slow
def test_other_sequences_by_lengths_and_by_a_scorer(tmp_path, monkeypatch):
  run, network = untrained(
    markov, tmp_path, num_eval=30, mean_length=6.0, max_length=12
  )
  records = held_out(run, 10)
  # As if nothing were known of the law.
  monkeypatch.setattr(sampler_choice, "MarkovTask", ())
  given = run, network, records, jax.random.key(0)
  (one,) = SamplerChoice(("trained",), SAMPLERS, (2,)).trials(*given)
  assert one.error == one.report["length_ks"]

  class Scorer:
    """Gives each letter of a text a nat, and half of one more for samples."""

    calls = 0

    def score(self, texts):
      Scorer.calls += 1
      nats = [np.full(len(text), 0.5 + 0.5 * Scorer.calls) for text in texts]
      return type("Scores", (), {"nats": nats})

  monkeypatch.setattr(
    type(run.task), "to_text", lambda self, tokens: "a" * len(tokens)
  )
  choice = SamplerChoice(("trained",), SAMPLERS, (2,), scorer=Scorer())
  (one,) = choice.trials(*given)
  assert one.report["perplexity_data"] == pytest.approx(math.e)
  assert one.error == pytest.approx(0.5)


@pytest.mark.slow
def test_mazes_have_no_bound(tmp_path):
  run, network = untrained(maze_quickstart, tmp_path)
  choice = SamplerChoice(("trained",), SAMPLERS, (2,))
  given = run, network, held_out(run, 4), jax.random.key(0)
  assert choice.bounds(*given) == {}
  (one,) = choice.trials(*given)
  assert one.error == 1 - one.report["success"]
