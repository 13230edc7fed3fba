"""Imports point one way; WORKSPACE.md has the map."""

import ast
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[1]

# Each may import those to its left, and what stands beside it.
LAYERS = [
  {"errors", "kernels"},
  {"vocab", "files", "mesh"},
  {"schedules", "rows"},
  {"interpolant", "times", "gap_laws"},
  {"prediction", "alignment"},
  {"paths"},
  {"states", "losses", "chunked_loss", "models"},
  {"likelihood", "sampling", "pretrained"},
  {"convert"},
  {"metrics", "data"},
  {"pictures"},
  {"tasks"},
  {"training"},
  {"settings"},
  {"runs"},
  {"evaluation", "dryrun"},
]
RANK = {name: i for i, layer in enumerate(LAYERS) for name in layer}


def imports(path):
  """Dotted names that a file imports."""
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.Import):
      yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
      yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_the_library_imports_only_lower_layers():
  wrong, seen = [], set()
  for path in (ROOT / "flexmdm_jax").rglob("*.py"):
    own = path.relative_to(ROOT / "flexmdm_jax").parts[0].removesuffix(".py")
    if own == "__init__":
      continue
    seen.add(own)
    for name in imports(path):
      parts = name.split(".")
      if parts[0] in ("experiments", "tests"):
        wrong.append((path.name, name))
      if parts[0] != "flexmdm_jax":
        continue
      if RANK[parts[1]] > RANK[own]:
        wrong.append((path.name, name))
  assert not wrong
  assert seen == set(RANK)


def test_kernels_are_a_leaf():
  for path in (ROOT / "kernels").rglob("*.py"):
    for name in imports(path):
      if name.startswith("flexmdm_jax"):
        assert name.startswith("flexmdm_jax.kernels."), (path, name)


def test_binaries_are_thin():
  for path in (ROOT / "experiments").glob("*.py"):
    lines = path.read_text().splitlines()
    assert len(lines) < 200, path


def test_the_top_imports_neither_plots_nor_data_sets():
  # Both take seconds; `import flexmdm_jax` is for a notebook's first cell.
  text = "import sys, flexmdm_jax; print(*sys.modules)"
  out = subprocess.run(
    [sys.executable, "-c", text],
    cwd=ROOT,
    capture_output=True,
    text=True,
    check=True,
  ).stdout.split()
  heavy = {
    "matplotlib",
    "tensorflow_datasets",
    "orbax",
    "grain",
    "tensorboardX",
  }
  assert not heavy & set(out)
