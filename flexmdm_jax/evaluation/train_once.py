"""Training that is not done twice: comparisons go on where they stopped."""

import pathlib

from flexmdm_jax.models.denoiser import ModelDenoiser
from flexmdm_jax.runs import Run
from flexmdm_jax.training.metrics import read_metrics


def train_once(
  run: Run, workdir: pathlib.Path, *, overwrite: bool = False
) -> tuple[ModelDenoiser, tuple[list[int], list[float]]]:
  """Trains to the end, unless done before.

  Args:
    run: what to train.
    workdir: directory of the run.
    overwrite: move a run with another config aside.

  Returns:
    The denoiser, and the (steps, losses) of the training.

  Raises:
    SystemExit: a SIGTERM stopped the training; its state is saved.
  """
  last = run.train(workdir, overwrite=overwrite)
  if last["step"] < run.loop.num_steps:
    raise SystemExit(0)  # half a training has no score
  _, denoiser = run.restore(workdir)
  lines = [x for x in read_metrics(workdir) if "loss" in x]
  return denoiser, ([x["step"] for x in lines], [x["loss"] for x in lines])
