"""Executes the notebooks of experiments/colab, and writes their outputs.

  make notebooks      (python -m experiments.notebooks [--settings=full])

Each is made of the Python file beside it. Tiny settings take seconds each and
show that all runs; full ones are those of a reader on Colab.
"""

import time

from absl import flags

from experiments.common import cli, notebooks

_SETTINGS = flags.DEFINE_enum(
  "settings", "tiny", notebooks.SETTINGS, "Size of what is trained."
)
_ONLY = flags.DEFINE_list("only", [], "Names of notebooks; all without.")
_WRITE = flags.DEFINE_bool("write", True, "Write the notebooks anew.")


def main(_):
  sources = notebooks.sources()
  cli.require_known("only", _ONLY.value, sources)
  for name, source in sources.items():
    if _ONLY.value and name not in _ONLY.value:
      continue
    begin = time.perf_counter()
    notebook = notebooks.execute(source, _SETTINGS.value)
    if _WRITE.value:
      notebooks.write(source.with_suffix(".ipynb"), notebook)
    print(f"{name}: {time.perf_counter() - begin:.0f} s", flush=True)


if __name__ == "__main__":
  cli.run(main)
