"""Draws the pictures of the pages, from what the pages say and from the code.

  make figures        (python -m experiments.figures --out=docs/images)

The picture of the mazes is the quickstart's: `make mazes`.
"""

import pathlib
import time

from absl import flags

from experiments.common import cli
from flexmdm_jax.errors import InputError

_OUT = flags.DEFINE_string("out", "docs/images", "Folder to write.")
_ONLY = flags.DEFINE_list(
  "only", [], "Pictures to draw, as bound,house; by default, all."
)


def main(_):
  from experiments.common.page_pictures import PICTURES  # matplotlib

  if unknown := sorted(set(_ONLY.value) - PICTURES.keys()):
    raise InputError(
      f"--only={unknown[0]} is no picture: choose of {', '.join(PICTURES)}."
    )
  for name in _ONLY.value or PICTURES:
    begin = time.perf_counter()
    path = pathlib.Path(_OUT.value, f"{name}.svg")
    PICTURES[name](path)
    print(f"{path}: {time.perf_counter() - begin:.1f} s", flush=True)


if __name__ == "__main__":
  cli.run(main)
