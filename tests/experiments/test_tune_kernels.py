"""The tuner, with a kernel that runs here in place of an accelerator's."""

import json

from tests.experiments.tools import run_text

SCRIPT = """
from experiments import tune_kernels
from experiments.common import cli
from flexmdm_jax.kernels.common import Implementation
from flexmdm_jax.kernels.insert_unmask import api, arg_specs, config, ref

def run(*arrays, config, interpret, **kwargs):
  if config.block_rows == 16:
    raise NotImplementedError("no sixteen")
  return ref.insert_unmask(*arrays, **kwargs)

api.IMPLEMENTATIONS["mosaic_tpu"] = Implementation(run, config=config.TpuConfig)
arg_specs.SPECS = {"tiny": arg_specs.Spec(2, 8)}
cli.run(tune_kernels.main)
"""


def test_measures_what_runs_and_prints_the_best(tmp_path):
  out = tmp_path / "tuning.json"
  flags = ["--kernel=insert_unmask", f"--out={out}", "--repeats=2"]
  status, printed, err = run_text(SCRIPT, *flags)
  assert status == 0, err
  found = json.loads(out.read_text())
  assert [row["config"] for row in found["rows"]] == [
    "TpuConfig(block_rows=8)",
    "TpuConfig(block_rows=32)",
  ]
  assert all(row["seconds"]["tiny"] > 0 for row in found["rows"])
  assert found["bytes"] == {"tiny": 16 * 2 * 8}
  assert printed.endswith(f'"cpu": {found["best"]},\n')
  assert "no sixteen" in printed
