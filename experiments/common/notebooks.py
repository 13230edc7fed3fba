"""Notebooks: made of their sources, executed, and compared with them.

A source is a Python file of cells, in jupytext's percent format. The notebook
beside it has the same cells, and the outputs of its last execution.
"""

import importlib
import os
import pathlib
import tempfile
from types import ModuleType
from typing import Any

from flexmdm_jax import files
from flexmdm_jax.errors import InputError

FOLDER = pathlib.Path(__file__).parents[1] / "colab"
ROOT = FOLDER.parents[1]
SETTINGS = ("tiny", "full")
# The variable that a notebook's first cell reads.
VARIABLE = "FLEXMDM_NOTEBOOKS"
_WIDGET = "application/vnd.jupyter.widget-view+json"
_METADATA = {
  "accelerator": "GPU",
  "kernelspec": {
    "display_name": "Python 3",
    "language": "python",
    "name": "python3",
  },
  "language_info": {"name": "python"},
}


def sources() -> dict[str, pathlib.Path]:
  """Lists the sources by name, in the order in which they are read."""
  return {path.stem: path for path in sorted(FOLDER.glob("[0-9]_*.py"))}


def cells(path: pathlib.Path) -> list[tuple[str, str]]:
  """Reads the cells of a source or a notebook: kinds and contents.

  Args:
    path: a file of either form; outputs are not looked at.
  """
  if path.suffix == ".py":
    found = _package("jupytext").read(path)
  else:
    found = _package("nbformat").read(path, as_version=4)
  return [(cell.cell_type, cell.source) for cell in found.cells]


def execute(source: pathlib.Path, settings: str, timeout: int = 3600) -> Any:
  """Executes a source from its first cell to its last, in a new folder.

  Args:
    source: the source.
    settings: "tiny", for seconds, or "full".
    timeout: seconds that a cell may take.

  Returns:
    The notebook with outputs.

  Raises:
    InputError: a cell failed, whose error the message has; or a package is
      missing.
  """
  nbclient = _package("nbclient")
  notebook = _package("jupytext").read(source)
  for i, cell in enumerate(notebook.cells):
    cell.id, cell.metadata = f"cell-{i}", {}
  notebook.metadata = _package("nbformat").from_dict(_METADATA)
  environment = {
    **os.environ,
    VARIABLE: settings,
    "PYTHONPATH": os.pathsep.join(
      filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])
    ),
    "TPU_LOG_DIR": "disabled",
  }
  if settings == "tiny":  # whose time is that of its compilation
    flags = os.environ.get("XLA_FLAGS", "")
    environment["XLA_FLAGS"] = f"{flags} --xla_backend_optimization_level=0"
  # The kernel starts where it is told to: results stay out of the tree.
  with tempfile.TemporaryDirectory() as folder:
    client = nbclient.NotebookClient(
      notebook,
      timeout=timeout,
      kernel_name="python3",
      record_timing=False,
      resources={"metadata": {"path": folder}},
    )
    try:
      client.execute(env=environment)
    except nbclient.exceptions.CellExecutionError as error:
      raise InputError(
        f"{source.name}: {error.ename}: {error.evalue}"
      ) from error
    _hide(notebook, folder)
  return notebook


def write(path: pathlib.Path, notebook: Any) -> None:
  """Writes a notebook, in place of the earlier one once it is complete."""
  nbformat = _package("nbformat")
  nbformat.validate(notebook)
  files.write_text(path, nbformat.writes(notebook) + "\n")


def _package(name: str) -> ModuleType:
  """Imports a package of the extra `[notebooks]`."""
  try:
    return importlib.import_module(name)
  except ImportError as error:
    raise InputError(
      f"notebooks need the package {name}: pip install"
      " 'flexmdm_jax[notebooks]'."
    ) from error


def _hide(notebook: Any, folder: str) -> None:
  """Shortens names of this machine's folders; takes off its progress."""
  for cell in notebook.cells:
    joined = []
    for output in cell.get("outputs", []):
      if output.get("name") == "stderr":
        continue  # how far it was, on this machine
      if output.output_type == "stream":
        for name, short in ((folder, "."), (str(ROOT), "flexmdm_jax")):
          output.text = output.text.replace(name, short)
        if joined and joined[-1].get("name") == output.name:
          joined[-1].text += output.text
          continue
      elif output.output_type == "display_data" and _WIDGET in output.data:
        continue  # a bar of progress, of a kernel that has ended
      joined.append(output)
    if "outputs" in cell:
      cell.outputs = joined
  notebook.metadata.pop("widgets", None)
