"""The command, in processes of their own: libtpu is loaded once in each."""

import json

import pytest

from tests.experiments.tools import run

SMALL = (
  "--config.model.hidden_size=64",
  "--config.model.num_layers=2",
  "--config.model.num_heads=4",
  "--config.model.num_kv_heads=4",
  "--config.model.mlp_size=128",
  "--config.model.vocab.size=512",
  "--config.model.vocab.mask=510",
  "--config.model.vocab.pad=511",
  "--config.model.lora.rank=8",
  "--config.model.attention=xla",
  "--config.data.max_length=128",
  "--config.train.batch_size=16",
)


def dryrun(*flags):
  """Runs it on the retrofit's config; returns (exit status, stdout, stderr)."""
  config = "--config=experiments/configs/llada_8b_retrofit.py"
  return run("dryrun", config, *flags, xla_flags="")


def report(*flags):
  status, out, err = dryrun(*flags)
  assert status == 0, err[-2000:]
  return json.loads(out.splitlines()[-1])


@pytest.mark.slow
def test_8b_retrofit_fits_16_chips(tmp_path):
  pytest.importorskip("libtpu")
  out = tmp_path / "report.json"
  found = report("--topology=v5p:2x2x4", "--weak_scaling", f"--out={out}")
  assert json.loads(out.read_text()) == found
  assert found["parameters"]["trainable"] == 402_657_281
  assert found["devices"]["number"] == 16
  # 38 GB when written; 16 GB of weights lie in sixteenths.
  assert found["fits"]
  assert found["bytes_per_device"]["peak"] < 45e9
  assert found["bytes_per_device"]["arguments"] < 2.6e9
  # The weights are gathered, 16 GB; a gradient is of 0.4B.
  assert 15e9 < sum(found["collective_bytes"].values()) < 40e9
  assert found["weak_scaling"][-1]["devices"] == 4096


@pytest.mark.slow
def test_gpus_are_stood_for_by_cpu_devices():
  found = report(
    "--topology=gpu:h100:16", "--config.mesh.layout=16xh100", *SMALL
  )
  assert found["mesh"] == {"data": 2, "fsdp": 8, "tensor": 1}
  assert found["devices"]["compiled_for"] == "cpu"
  # The adapters' gradients are summed over both nodes.
  assert {2, 8} <= {one["group"] for one in found["collectives"]}
  assert 0 < found["bytes_per_device"]["temporaries"]


@pytest.mark.slow
def test_sampling_is_compiled_whole():
  pytest.importorskip("libtpu")
  flags = ("--topology=v5e:2x2", "--step=sample", "--batch_size=8")
  found = report(*flags, *SMALL)
  assert found["mesh"] == {"data": 1, "fsdp": 4, "tensor": 1}
  assert found["fits"]
  assert found["bytes_per_device"]["peak"] > 0
  assert found["prediction"]["call_seconds"] > 0


@pytest.mark.slow
def test_what_does_not_fit_is_one_line():
  pytest.importorskip("libtpu")
  # The logits of the whole batch: 16 GB on each of four chips of 16 GB.
  status, _, err = dryrun(
    "--topology=v5e:2x2",
    *SMALL,
    "--config.model.vocab.size=131072",
    "--config.train.batch_size=1024",
    "--config.train.loss_chunk=128",
  )
  assert status == 2
  assert "does not fit v5e (16 GB)" in err.splitlines()[-1]


@pytest.mark.parametrize(
  ("flags", "message"),
  [
    (("--topology=v5p",), "topology=v5p is unknown: there are v5p:2x2x4"),
    (("--topology=gpu:a100:8",), "gpu:a100:8 is unknown"),
    (("--topology=gpu:h100:3",), "multiple of 3"),
    (("--topology=gpu:h100:8", "--step=walk"), "--step=walk is unknown"),
    (("--topology=gpu:h100:9",), "must be a multiple of 8"),
  ],
)
def test_wrong_flags_are_one_line(flags, message):
  status, _, err = dryrun(*flags, *SMALL)
  assert status == 2
  assert message in err.splitlines()[-1]
