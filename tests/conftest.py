"""Eight fake CPU devices, strict dtypes, checked shapes, and golden arrays."""

import json
import os
import pathlib

# Tests leave the user's own cache alone.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
  os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "false"

# JAX reads both when it starts its backend. Nearly all of a test's time goes
# into compilation, of which level 0 saves a third.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["XLA_FLAGS"] = (
  os.environ.get("XLA_FLAGS", "")
  + " --xla_force_host_platform_device_count=8"
  + " --xla_backend_optimization_level=0"
)

import jax
import jaxtyping
import pytest
from safetensors import numpy as safetensors

from tests.browser import browser  # noqa: F401, a fixture

jax.config.update("jax_numpy_dtype_promotion", "strict")

# Checks the annotated shapes of every call. These are the modules whose
# arguments are arrays; the others are handed what a person wrote, and say in
# their own words what is wrong with it. The hook rewrites modules as they are
# imported, so it precedes the first import of the library.
CHECKED = (
  "alignment",
  "chunked_loss",
  "gap_laws",
  "interpolant",
  "likelihood",
  "losses",
  "models",
  "prediction",
  "sampling.canvas",
  "sampling.chain",
  "sampling.draws",
  "sampling.events",
  "sampling.insertions",
  "sampling.methods",
  "sampling.midpoint",
  "times",
)
jaxtyping.install_import_hook(
  [f"flexmdm_jax.{name}" for name in CHECKED], "beartype.beartype"
)


@pytest.fixture(scope="module", autouse=True)
def _release_programs():
  """Drops a file's compiled programs once its tests are done.

  Each of them holds memory maps, of which Linux gives a process 65,530: a
  worker that keeps all of a run's programs ends in a crash of the compiler.
  """
  yield
  jax.clear_caches()


GOLDEN = pathlib.Path(__file__).parent / "golden"


@pytest.fixture(scope="session")
def golden():
  """Reads `tests/golden/NAME`: a dict of arrays, or parsed JSON."""

  def read(name):
    path = GOLDEN / name
    if path.suffix == ".json":
      return json.loads(path.read_text())
    return safetensors.load_file(path)

  return read


@pytest.fixture(scope="session")
def tpu_devices():
  """Devices of a TPU that is not here, to compile for.

  Called with a topology ("v5p:2x2x4") and the shape of a mesh; skips where
  libtpu is not installed.
  """
  pytest.importorskip("libtpu")
  from jax.experimental import mesh_utils

  from flexmdm_jax.dryrun.devices import topology

  def devices(name, shape):
    return mesh_utils.create_device_mesh(
      shape, topology(name).devices, allow_split_physical_axes=True
    )

  return devices
