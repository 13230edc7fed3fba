"""Runs `experiments.convert`, which once knew LLaDA and Dream alone."""

from experiments.common import cli
from experiments.convert import main

if __name__ == "__main__":
  cli.run(main)
