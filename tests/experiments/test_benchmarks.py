"""Every suite runs, and what it compares does the same work."""

import json

import jax
import numpy as np
import pytest

from experiments.benchmarks import (
  kernels,
  law,
  public_code,
  sampling,
  shapes,
  timing,
)
from flexmdm_jax.errors import InputError
from flexmdm_jax.evaluation.lengths import import_figures

pytestmark = pytest.mark.slow


def test_sampling_suite(tmp_path):
  result = sampling.measure(
    shape="golden",
    max_length=8,
    batch_size=2,
    steps=[4],
    repeats=1,
    buckets=(4,),
    baselines=["dense"],
    sweep=False,
  )
  quarter, full = result["rows"]
  assert quarter["mean_length"] < full["mean_length"] <= 8
  for row in result["rows"]:
    assert set(row["speedup"]) == {"dense"}
    assert all(x > 0 for x in row["share_of_floor"].values())
  result["sweep"] = dict(
    length={1: 0.1, 2: 0.2}, steps={4: 0.1}, batch={1: 1.0}
  )
  sampling.plot(result, tmp_path / "cost.png")
  assert (tmp_path / "cost.png").stat().st_size > 1000


def test_all_samplers_fill_rows_of_the_wanted_length():
  model, _ = shapes.make_model("golden", 16, None)
  denoiser = shapes.random_denoiser(model)
  runs = sampling.samplers(model, denoiser, 32, 16, (7,))
  for name in ("ours", "dense"):
    tokens = np.asarray(runs[name](8.0).tokens)
    assert not (tokens == model.vocab.mask).any()
    # 32 rows of about 8 tokens.
    assert 6 < (tokens != model.vocab.pad).sum(axis=1).mean() < 10, name


def test_public_code_is_checked_before_it_runs(tmp_path, monkeypatch):
  monkeypatch.setattr(public_code, "_PACKAGES", ("no_such_package",))
  with pytest.raises(
    InputError, match=r"no_such_package.*flexmdm_jax\[peers\]"
  ):
    public_code.require_checkout(str(tmp_path))
  monkeypatch.setattr(public_code, "_PACKAGES", ())
  (tmp_path / "sampling.py").touch()
  with pytest.raises(InputError, match=r"lacks interpolant\.py, model/"):
    public_code.require_checkout(str(tmp_path))


def test_times_are_taken_in_turns():
  order = []
  runs = {name: lambda name=name: order.append(name) for name in "ab"}
  seconds = timing.in_turns(runs, 3)
  assert "".join(order) == "ab" + "abbaab"  # once each to warm up
  assert [len(x) for x in seconds.values()] == [3, 3]


def test_kernel_suite():
  result = kernels.measure(
    names=list(kernels.KERNELS), shapes=["small"], repeats=1
  )
  assert [row["kernel"] for row in result["rows"]] == list(kernels.KERNELS)
  for row in result["rows"]:
    assert row["speedup_over_xla"] > 0 and row["share_of_roof"] > 0
  # Our token sampling holds fewer bytes than the logits.
  memory = result["rows"][1]["temporary_bytes"]
  assert memory["ours"] < memory["xla"]


def test_shapes():
  model, batch_size = shapes.make_model("llada_8b", None, None)
  assert (model.max_length, batch_size) == (1024, 8)
  tokens = jax.ShapeDtypeStruct((1, 1024), "int32")
  row = jax.ShapeDtypeStruct((1,), "int32")
  params = jax.eval_shape(
    model.init, jax.random.key(0), tokens, row, row.update(dtype="float32")
  )
  assert sum(x.size for x in jax.tree.leaves(params)) > 8.0e9
  with pytest.raises(InputError, match="--shape=huge"):
    shapes.make_model("huge", None, None)


def test_law_suite(tmp_path):
  methods = {
    "events": {"method": "events", "buckets": ()},
    "grid": {"method": "tau_leaping", "grid": "events", "buckets": ()},
  }
  settings = dict(
    law="short", methods=methods, heads=["law"], steps=[8], num=200
  )
  (measured,) = law.measure(paths=["power:2,power:2"], **settings)
  rows = measured.summary()
  assert [(row["name"], row["calls"]) for row in rows] == [
    ("events", 8),
    ("grid", 8),
  ]
  for row in rows:
    assert (row["path"], row["head"]) == ("power:2,power:2", "law")
    assert row["mean_calls"] <= 8
    distance = row["distance"]
    # A perfect sampler has the floor, one of empty sequences .9.
    assert distance["sequence_tv"] < distance["floor"]["sequence_tv"] + 0.2
  assert json.loads(json.dumps(rows)) == rows
  law.plot(tmp_path / "law.png", [measured], import_figures())
  assert (tmp_path / "law.png").stat().st_size > 1000
  for wrong, says in (
    (dict(paths=["nowhere"]), "path='nowhere'"),
    (dict(paths=["trained"], steps=[0]), "steps=0"),
  ):
    with pytest.raises(InputError, match=says):
      next(law.measure(**(settings | wrong)))
