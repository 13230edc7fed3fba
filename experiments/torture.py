"""Kills trainings and damages checkpoints at random, and counts what happens.

  python -m experiments.torture --minutes=N --out=FILE.json [--seed=0]

Trains a tiny model on brackets in a temporary directory, on the CPU, and then
takes turns until the time is over:

  kills  a training is killed by SIGKILL or SIGTERM and started again, up to
         three times; its metrics and final state have to be those of a run
         that nobody touched, to the bit. A second training in its directory
         has to be refused.
  flips  a byte of the newest checkpoint is changed, or a file cut; the state
         and the EMA have to be the undamaged ones, or an older checkpoint's.
  inputs settings of a config get values that they cannot have; it is taken, or
         refused in one line.

Prints a line of figures each. Exits with status 1 if a restore gave other
values without a word, if work was lost, or if anything ended in a traceback or
not at all. One trial of each takes about a minute.
"""

import pathlib
import tempfile

import jax
from absl import flags

from experiments.benchmarks import torture
from experiments.benchmarks.flips import Flips
from experiments.benchmarks.inputs import Inputs
from experiments.benchmarks.kills import Kills
from experiments.common import cli
from experiments.configs import markov, maze_quickstart
from flexmdm_jax import files
from flexmdm_jax.errors import InputError
from flexmdm_jax.runs import Run

_MINUTES = flags.DEFINE_float("minutes", None, "Time to spend.")
_OUT = flags.DEFINE_string("out", None, "JSON file to write.")
_SEED = cli.seed("Seed of all that is random.")
flags.mark_flags_as_required(["minutes", "out"])


def main(_):
  if not 0 < _MINUTES.value < float("inf"):
    raise InputError(f"--minutes={_MINUTES.value} must be positive.")
  files.require_writable(_OUT.value)
  jax.config.update("jax_platforms", "cpu")
  with tempfile.TemporaryDirectory(prefix="torture-") as name:
    folder = pathlib.Path(name)
    kills = Kills(folder)
    loops = {
      "kills": kills,
      "flips": Flips(kills.whole, kills.abstract_state, folder / "flipped"),
      "inputs": Inputs(
        {
          "mazes": maze_quickstart.get_config().to_dict(),
          "markov": markov.get_config().to_dict(),
        },
        Run.from_config,
      ),
    }
    figures = torture.torture(loops, 60 * _MINUTES.value, _SEED.value)
  for line in torture.lines(figures):
    print(line)
  result = {"seed": _SEED.value, **figures, "versions": files.versions()}
  files.write_json(_OUT.value, result)
  return 1 if figures["defects"] else 0


if __name__ == "__main__":
  cli.run(main)
