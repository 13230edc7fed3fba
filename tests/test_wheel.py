"""The wheel, installed in another folder, is whole."""

import os
import pathlib
import re
import runpy
import shutil
import subprocess
import sys
import zipfile

import pytest
import setuptools

import flexmdm_jax as fm
from tests.test_layers import imports

ROOT = pathlib.Path(__file__).parents[1]

SMOKE = """
import importlib, pathlib, pkgutil, sys
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
# Every module comes with what pip installed for it, but for programs.
programs = ("__main__", ".supervisor", "sandbox.kernel", "sandbox.runner")
for module in pkgutil.walk_packages(fm.__path__, "flexmdm_jax."):
  if not module.name.endswith(programs):
    importlib.import_module(module.name)
print("smoke test passed")
"""


# Extras that hold no package of which a file of ours imports something: a
# notebook's are imported by their names, a browser's by tests.
TOOLS = {"cuda12", "cuda13", "tpu", "docs", "dev", "notebooks", "browser"}
# Modules that have another name than their package.
MODULES = {
  "backports.zstd": "backports",
  "lm-eval": "lm_eval",
  "math-verify": "math_verify",
  "mauve-text": "mauve",
}
# Packages that others import: the authors' code.
OTHERS = {"einops"}


@pytest.fixture
def metadata(monkeypatch):
  """What setup.py gives to setuptools."""
  given = {}
  monkeypatch.setattr(setuptools, "setup", given.update)
  runpy.run_path(str(ROOT / "setup.py"))
  return given


def test_extras_are_used(metadata):
  extras = metadata["extras_require"]
  wanted = {
    re.match(r"[\w.-]+", line)[0]
    for name in extras.keys() - TOOLS
    for line in extras[name]
  }
  found = {
    name.split(".")[0]
    for folder in ("flexmdm_jax", "experiments")
    for path in (ROOT / folder).rglob("*.py")
    for name in imports(path)
  }
  assert {MODULES.get(name, name) for name in wanted - OTHERS} <= found


def test_messages_name_extras_that_there_are(metadata):
  named = {
    extra
    for folder in ("flexmdm_jax", "experiments", "docs")
    for path in (ROOT / folder).rglob("*.*")
    if path.suffix in (".py", ".md")
    for extra in re.findall(
      r"(?:flexmdm_jax|'\.)\[([\w,]+)\]'", path.read_text("utf-8")
    )
  }
  extras = {name for names in named for name in names.split(",")}
  assert "text" in extras and extras <= metadata["extras_require"].keys()


def test_versions_and_pages_agree(metadata):
  assert metadata["version"] == fm.__version__
  assert metadata["long_description"].startswith("# FlexMDM")
  for minor in (11, 12):
    language = f"Programming Language :: Python :: 3.{minor}"
    assert language in metadata["classifiers"]


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
  for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
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
  told = "".join(name for name in names if name.endswith("/METADATA"))
  text = zipfile.ZipFile(wheel).read(told).decode()
  for line in (
    "License-Expression: Apache-2.0",
    "Description-Content-Type: text/markdown",
    "Project-URL: Paper, https://arxiv.org/abs/2509.01025",
  ):
    assert f"\n{line}\n" in text
  assert any(name.endswith("/licenses/LICENSE") for name in names)
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
