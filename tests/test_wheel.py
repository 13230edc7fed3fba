"""The wheel, installed in another folder, is whole."""

import os
import pathlib
import shutil
import subprocess
import sys
import zipfile

import pytest

ROOT = pathlib.Path(__file__).parents[1]

SMOKE = """
import pathlib, sys
import jax
import flexmdm_jax as fm
from flexmdm_jax.kernels.insert_unmask import insert_unmask
assert pathlib.Path(fm.__file__).is_relative_to(sys.argv[1]), fm.__file__
kernel = pathlib.Path(sys.modules[insert_unmask.__module__].__file__)
assert kernel.is_relative_to(sys.argv[1]), kernel
vocab = fm.Vocab(5, mask=3, pad=4)
model = fm.DiT(
  vocab, 6, hidden_size=8, num_layers=1, num_heads=2, cond_size=4
)
start = fm.prompt_start([[0, 1], [2]], 6, vocab)
params = model.init(
  jax.random.key(0), start.tokens, start.length, jax.numpy.zeros(2)
)["params"]
linear = fm.schedules.Linear()
samples = fm.sample(
  jax.random.key(1),
  fm.denoiser(model, params),
  start,
  fm.JointInterpolant(linear, linear),
  vocab,
  fm.SamplerConfig(steps=4),
)
assert samples.tokens[0, :2].tolist() == [0, 1]
print("smoke test passed")
"""


def pip(command, *arguments):
  subprocess.run(
    [sys.executable, "-m", "pip", command, "--no-deps", "-q", *arguments],
    check=True,
  )


@pytest.mark.slow
def test_installed_wheel_samples(tmp_path):
  # Built from a copy: setuptools leaves a build folder where it builds.
  copy = tmp_path / "source"
  copy.mkdir()
  for name in ("setup.py", "pyproject.toml", "README.md"):
    shutil.copy(ROOT / name, copy)
  for name in ("flexmdm_jax", "kernels"):
    shutil.copytree(ROOT / name, copy / name)
  pip("wheel", str(copy), "--no-build-isolation", f"--wheel-dir={tmp_path}")
  (wheel,) = tmp_path.glob("*.whl")
  names = zipfile.ZipFile(wheel).namelist()
  tops = {name.split("/")[0] for name in names}
  assert {top for top in tops if not top.endswith(".dist-info")} == {
    "flexmdm_jax"
  }
  site = tmp_path / "site"
  pip("install", f"--target={site}", str(wheel))
  result = subprocess.run(
    [sys.executable, "-c", SMOKE, str(site)],
    cwd=tmp_path,
    env={**os.environ, "PYTHONPATH": str(site), "XLA_FLAGS": ""},
    capture_output=True,
    text=True,
  )
  assert result.returncode == 0, result.stderr
  assert "smoke test passed" in result.stdout
