"""Estimates of memory are too low, never too high."""

import jax
import pytest

import flexmdm_jax as fm
from flexmdm_jax import memory
from flexmdm_jax.errors import InputError
from tests.training import tiny

MODEL = fm.DiT(
  fm.Vocab(8, 6, 7), 16, hidden_size=16, num_layers=2, num_heads=2, cond_size=8
)


def test_training_counts_the_state_and_the_residuals():
  parameters = memory.num_parameters(MODEL)
  assert memory.of_training(MODEL, 8, 1) == 20 * parameters + 2 * 8 * 16 * 32
  # Parts of a batch are one after another.
  assert memory.of_training(MODEL, 8, 3) == 20 * parameters + 2 * 3 * 16 * 32


def test_sampling_counts_all_rows_on_the_host_and_a_batch():
  few, many = (memory.of_sampling(MODEL, num, 4) for num in (4, 1004))
  assert many - few == 6 * 1000 * 16
  assert memory.of_sampling(MODEL, 4, 100) == few


def test_an_estimate_is_below_what_a_step_takes():
  step = tiny.train_step()
  found = step.update_with.lower(
    step.abstract_state, tiny.batch(), step.abstract_base
  ).compile()
  found = found.memory_analysis()
  takes = found.argument_size_in_bytes + found.temp_size_in_bytes
  assert memory.of_training(tiny.model(), tiny.BATCH, 1) < takes


def test_what_cannot_fit_is_refused_with_both_numbers():
  there = memory.available()
  assert there > 1e8
  memory.require("a run", there, "nothing")
  with pytest.raises(
    InputError, match=r"a run needs at least 9.* GB .* lower B"
  ):
    memory.require("a run", int(9e18), "B")


def test_a_gpu_is_asked_for_its_limit(monkeypatch):
  class Device:
    platform = "gpu"

    def memory_stats(self):
      return {"bytes_limit": 100}

  monkeypatch.setattr(jax, "devices", lambda: [Device()] * 4)
  monkeypatch.setattr(jax, "local_devices", lambda: [Device()] * 2)
  assert memory.available() == 400
