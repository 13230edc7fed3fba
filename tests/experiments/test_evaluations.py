"""Evaluations made of flags."""

import pytest
from absl import flags
from absl.testing import flagsaver

from experiments.common.evaluations import TASKS, make_evaluation
from flexmdm_jax.errors import InputError
from flexmdm_jax.evaluation.lengths import LengthLaw
from flexmdm_jax.evaluation.likelihood import HeldOutLikelihood
from flexmdm_jax.evaluation.maze import MazePlanning
from flexmdm_jax.evaluation.variance import GradientVariance


@pytest.fixture(autouse=True)
def parsed():
  if not flags.FLAGS.is_parsed():
    flags.FLAGS(["test"], known_only=True)


def test_options_go_to_the_evaluation_that_has_them():
  with flagsaver.flagsaver(kind="paper", num_times=64, stderr=0.5, plots="x"):
    assert make_evaluation("likelihood") == HeldOutLikelihood("paper", 64, 0.5)
    assert make_evaluation("lengths") == LengthLaw(plots="x")
    assert make_evaluation("maze") == MazePlanning()
    assert make_evaluation("gradient_variance") == GradientVariance()
  with flagsaver.flagsaver(samples="x.jsonl"):
    assert make_evaluation("lengths") == LengthLaw(samples="x.jsonl")


def test_what_cannot_be_made_is_refused():
  with pytest.raises(InputError, match="--task=perplexity is unknown"):
    make_evaluation("perplexity")
  with pytest.raises(InputError, match="needs a scorer: give --scorer"):
    make_evaluation("generative_perplexity")
  with flagsaver.flagsaver(samples="x.jsonl"):
    for task in TASKS.keys() - {"lengths", "generative_perplexity"}:
      with pytest.raises(InputError, match=f"of no use to --task={task}"):
        make_evaluation(task)
  with (
    flagsaver.flagsaver(kind="loose"),
    pytest.raises(InputError, match="kind='loose' must be one of"),
  ):
    make_evaluation("likelihood")
