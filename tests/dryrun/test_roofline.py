import dataclasses

import pytest

import flexmdm_jax as fm
from flexmdm_jax.dryrun import roofline
from flexmdm_jax.dryrun.devices import DEVICES
from flexmdm_jax.dryrun.hlo import Collective
from flexmdm_jax.models.lora import LoRA
from flexmdm_jax.models.parameters import abstract_params

D, L, V, B = 8, 16, 32, 4
VOCAB = fm.Vocab(V, 30, 31)


def work(remat="none", **changes):
  model = fm.Transformer(
    VOCAB,
    L,
    hidden_size=D,
    num_layers=3,
    num_heads=2,
    num_kv_heads=2,
    mlp_size=24,
    remat=remat,
    **changes,
  )
  return roofline.work_of(model, abstract_params(model), B, masked=0.25)


BLOCKS = 3 * (4 * D * D + 3 * D * 24)
HEAD = 0.25 * D * V
ATTENTION = 3 * 4 * D * L


def test_operations_of_a_model_trained_whole():
  whole = work()
  assert whole.tokens == B * L
  assert whole.model_flops == B * L * (6 * (BLOCKS + HEAD) + 3 * ATTENTION)
  assert whole.trainable == whole.parameters


def test_frozen_matrices_have_no_gradient():
  lora = work(lora=LoRA(rank=2, targets=("q", "head")))
  updates = 3 * 2 * (D + D) + 0.25 * 2 * (D + V)
  assert lora.model_flops == B * L * (
    4 * (BLOCKS + HEAD) + 6 * updates + 3 * ATTENTION
  )
  assert lora.trainable == 3 * 2 * (D + D) + 2 * (D + V)


def test_recomputing_is_work_of_the_hardware_only():
  extra = {
    remat: work(remat).hardware_flops - work(remat).model_flops
    for remat in ("none", "dots", "full")
  }
  assert extra["none"] == B * L * 2 * HEAD
  assert extra["dots"] == B * L * (2 * HEAD + ATTENTION)
  assert extra["full"] == B * L * (2 * (BLOCKS + HEAD) + ATTENTION)


def test_step_is_bound_by_the_slowest():
  device = DEVICES["h100"]
  step = dataclasses.replace(work(), model_flops=7e14, hardware_flops=7e14)
  fast = roofline.predict(step, device, 8, 8, link_seconds=0.0)
  # 70 % of the peak, nothing else of weight.
  assert fast.mfu == pytest.approx(0.7)
  slow = roofline.predict(step, device, 8, 8, link_seconds=1.0)
  assert slow.step_seconds == 1.0
  assert slow.step_seconds_without_overlap > 1.1


def test_links_within_and_between_nodes():
  device = DEVICES["h100"]
  sent = [
    Collective("all-gather", 8, 1, 450e9),
    Collective("all-reduce", 2, 1, 50e9),
  ]
  assert roofline.link_seconds(sent, device, 16) == pytest.approx(2.0)
  assert roofline.link_seconds(sent[:1], device, 8) == pytest.approx(1.0)


def test_weak_scaling():
  device = DEVICES["h100"]
  step = dataclasses.replace(work(), gradient_bytes=8 * 50e9, tokens=100)
  mesh = {"data": 1, "fsdp": 8, "tensor": 1}
  rows = roofline.weak_scaling(step, device, mesh, seconds=1.0, largest=40)
  assert [row["devices"] for row in rows] == [8, 16, 32]
  # Twice the share (n - 1) / n of 50 GB at 50 GB/s, for 1, 2 and 4 nodes.
  assert [row["step_seconds"] for row in rows] == pytest.approx([1.0, 2.0, 2.5])
  assert rows[2]["tokens_per_second"] == pytest.approx(400 / 2.5)
