"""Imports point one way, and each thing has its place; see WORKSPACE.md."""

import ast
import importlib
import pathlib
import re
import subprocess
import sys

import pytest

import flexmdm_jax as fm

ROOT = pathlib.Path(__file__).parents[1]

# Each may import from the floors before its own: the mathematics first, which
# knows neither meshes nor networks.
LAYERS = [
  {"errors", "kernels"},
  {"schema"},
  {"vocab", "schedules", "times", "gap_laws"},
  {"interpolant"},
  {"prediction", "alignment"},
  {"losses", "paths"},
  {"mesh", "files", "reading", "checksums", "rows", "metrics"},
  {"states", "likelihood", "chunked_loss"},
  {"models"},
  {"memory"},
  {"sampling"},
  {"pretrained"},
  {"convert", "exact"},
  {"data", "pictures"},
  {"tasks"},
  {"training"},
  {"settings", "inference"},
  {"runs"},
  {"loading"},
  {"evaluation", "dryrun", "demo", "__main__"},
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
      if parts[0] != "flexmdm_jax" or parts[1] == own:
        continue
      if RANK[parts[1]] >= RANK[own]:
        wrong.append((path.name, name))
  assert not wrong
  assert seen == set(RANK)


def test_kernels_are_a_leaf():
  for path in (ROOT / "kernels").rglob("*.py"):
    for name in imports(path):
      if name.startswith("flexmdm_jax"):
        assert name.startswith("flexmdm_jax.kernels."), (path, name)


def test_mains_are_thin():
  for path in (ROOT / "experiments").glob("*.py"):
    lines = path.read_text().splitlines()
    assert len(lines) <= 100, path


def test_no_library_file_names_a_flag():
  # A notebook has none: messages name the setting, a main adds its flags.
  named = [
    (path.name, node.value)
    for path in (ROOT / "flexmdm_jax").rglob("*.py")
    for node in ast.walk(ast.parse(path.read_text()))
    if isinstance(node, ast.Constant) and isinstance(node.value, str)
    # A style sheet's own properties have a colon.
    if re.search(r"(^|\s)--[a-z][\w-]*(?![\w-]*:)", node.value)
  ]
  assert not named


# Modules without a test file of their own, by the file that tests them.
TESTED_IN = {
  "data/test_records.py": ["data/cache", "data/splits"],
  "data/test_synthetic.py": ["tasks/maze/dataset"],
  "dryrun/test_dryrun.py": ["dryrun/devices", "dryrun/report"],
  "evaluation/test_generative_perplexity.py": [
    "evaluation/evaluation",
    "evaluation/lengths",
    "evaluation/samples",
  ],
  "evaluation/test_infilling.py": ["evaluation/judge"],
  "evaluation/test_maze_methods.py": [
    "evaluation/likelihood",
    "evaluation/maze",
    "evaluation/maze_table",
    "tasks/maze/task",
  ],
  "evaluation/test_scorers.py": ["evaluation/run_scorer"],
  "evaluation/test_text_methods.py": [
    "evaluation/text_table",
    "evaluation/train_once",
    "evaluation/variance",
  ],
  "exact/test_quality.py": ["exact/law"],
  "experiments/test_bad_input.py": ["errors"],
  "experiments/test_convert.py": ["pretrained/comparison"],
  "inference/test_folder.py": ["models/description"],
  "inference/test_model.py": ["inference/likelihood"],
  "experiments/test_sample.py": ["inference/replay"],
  "models/test_dit.py": ["models/denoiser", "models/gaps", "models/layers"],
  "models/test_transformer.py": ["models/lora", "mesh"],
  "pictures/test_figures.py": ["pictures/style", "tasks/maze/plots"],
  "pretrained/test_checkpoint.py": [
    "pretrained/folder",
    "pretrained/retrofit",
    "pretrained/source",
    "pretrained/weights",
  ],
  "pretrained/test_dit.py": ["convert"],
  "pretrained/test_families.py": [
    "pretrained/dream",
    "pretrained/family",
    "pretrained/llada",
  ],
  "sampling/test_canvas.py": ["sampling/placement"],
  "sampling/test_loop.py": ["sampling/step"],
  "tasks/test_text.py": ["tasks/task"],
  "test_exactness.py": ["sampling/chain"],
  "test_rows.py": ["tasks/maze/layouts"],
  "test_runs.py": ["models/parameters", "settings"],
  "test_wheel.py": ["kernels"],
  "training/test_frozen.py": ["training/partition"],
  "training/test_loop.py": ["training/metrics"],
  "training/test_step.py": ["training/objectives", "training/optimizer"],
}


def test_tests_mirror_the_tree():
  elsewhere = [name for names in TESTED_IN.values() for name in names]
  missing, without = [], set()
  for path in (ROOT / "flexmdm_jax").rglob("[!_]*.py"):
    module = path.relative_to(ROOT / "flexmdm_jax").with_suffix("")
    # A task's files are tested together, or each apart.
    own = [module.parent / f"test_{module.name}.py"]
    if len(module.parts) == 3:
      top, task, part = module.parts
      own = [f"{top}/test_{task}.py", f"{top}/test_{task}_{part}.py"]
    if any((ROOT / "tests" / file).exists() for file in own):
      continue
    without.add(str(module))
  for path in (ROOT / "kernels").glob("[!c]*/__init__.py"):
    if not (ROOT / "tests/kernels" / f"test_{path.parent.name}.py").exists():
      missing.append(path.parent.name)
  missing += [x for x in TESTED_IN if not (ROOT / "tests" / x).exists()]
  assert not missing
  assert without == set(elsewhere) and len(without) == len(elsewhere)


def test_the_top_imports_little_beside_jax_and_flax():
  # Data sets take seconds; `import flexmdm_jax` is for a notebook's first cell.
  text = "import sys, flexmdm_jax; print(*sys.modules)"
  out = subprocess.run(
    [sys.executable, "-c", text],
    cwd=ROOT,
    capture_output=True,
    text=True,
    check=True,
  ).stdout.split()
  heavy = {
    "array_record",
    "flexmdm_jax.convert",
    "gradio",
    "grain",
    "huggingface_hub",
    "jax.experimental.pallas",
    "jinja2",
    "matplotlib",
    "ml_collections",
    "optax",
    "orbax",
    "safetensors",
    "tensorboardX",
    "tensorflow_datasets",
    "tensorstore",
    "tokenizers",
    "torch",
    "tqdm",
    "transformers",
  }
  assert not heavy & set(out)


def test_names_that_are_imported_later_are_there():
  assert fm.convert is importlib.import_module("flexmdm_jax.convert")
  assert set(fm.__all__) <= set(dir(fm))
  assert all(getattr(fm, name) is not None for name in fm.__all__)
  with pytest.raises(AttributeError, match="no attribute 'nothing'"):
    _ = fm.nothing
