"""Torture of checkpoints: one byte of one file is changed, or its end is lost.

The newest checkpoint of a copy is damaged and then restored, in this process.
"""

import contextlib
import hashlib
import logging
import pathlib
import random
import shutil
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from experiments.benchmarks.torture import Outcome, in_time
from flexmdm_jax.errors import InputError
from flexmdm_jax.training.checkpoint import (
  Checkpointer,
  restore_ema,
  saved_steps,
)
from flexmdm_jax.training.step import TrainState

_TRUNCATED = 0.2  # share of the trials; in the others a byte is changed
_HANG_SECONDS = 120.0

Restored = tuple[int, str]  # the step, and a digest of all that came with it


class Flips:
  """Flips of bytes in the newest of a run's checkpoints."""

  def __init__(
    self,
    workdir: pathlib.Path,
    abstract_state: TrainState,
    scratch: pathlib.Path,
  ):
    """Restores every checkpoint once, undamaged.

    Args:
      workdir: a finished run with two checkpoints at least.
      abstract_state: shapes, types and shardings of its state.
      scratch: folder for the damaged copies.
    """
    self._folder = workdir / "checkpoints"
    self._abstract = abstract_state
    self._scratch = scratch
    self._restores = {"state": self._state, "ema": self._ema}
    self._newest = saved_steps(workdir)[-1]
    self._expected: dict[str, set[Restored]] = {"state": set(), "ema": set()}
    for step in saved_steps(workdir):
      copy = self._copy(step)
      for what, restore in self._restores.items():
        self._expected[what].add(restore(copy))

  def __call__(self, rng: random.Random) -> Iterator[Outcome]:
    """Damages a file, and restores the EMA, then the whole state."""
    copy = self._copy(self._newest)
    newest = copy / "checkpoints" / str(self._newest)
    paths = sorted(x for x in newest.rglob("*") if x.stat().st_size)
    path = rng.choice([x for x in paths if x.is_file()])
    damage = f"{path.relative_to(newest)}: {damage_file(path, rng)}"
    for what in ("ema", "state"):  # a restored state moves the damaged aside
      result, detail = self._class(what, copy)
      yield Outcome(what, result, f"{damage}; {detail}")

  def _class(self, what: str, copy: pathlib.Path) -> tuple[str, str]:
    """Restores from a damaged copy; returns a word, and what was said."""
    with _warnings() as said:
      try:
        found = in_time(lambda: self._restores[what](copy), _HANG_SECONDS)
      except TimeoutError as error:
        return "hang", str(error)
      except InputError as error:
        return "refused", str(error)
      except Exception as error:
        return "traceback", repr(error)
    detail = "; ".join(said)
    if found not in self._expected[what]:
      return "silent", f"step {found[0]} has other values. {detail}"
    if found[0] == self._newest:
      return "harmless", detail
    told = f"checkpoint {self._newest} cannot be read" in detail
    return ("older" if told else "silent"), detail

  def _copy(self, newest: int) -> pathlib.Path:
    """Copies the checkpoints up to one."""
    shutil.rmtree(self._scratch, ignore_errors=True)
    for path in self._folder.iterdir():
      if path.name.isdigit() and int(path.name) <= newest:
        shutil.copytree(path, self._scratch / "checkpoints" / path.name)
    return self._scratch

  def _state(self, workdir: pathlib.Path) -> Restored:
    position = Position()
    with contextlib.closing(Checkpointer(workdir)) as checkpointer:
      state = checkpointer.restore(self._abstract, position)
    return int(state.step), digest((state, position.value))

  def _ema(self, workdir: pathlib.Path) -> Restored:
    step, params, meta = restore_ema(workdir, self._abstract.ema)
    return step, digest((params, meta))


class Position:
  """Stands for the data: keeps the position that a checkpoint gives it."""

  value: Any = None

  def get_state(self) -> Any:
    return self.value

  def set_state(self, value: Any) -> None:
    self.value = value


def damage_file(path: pathlib.Path, rng: random.Random) -> str:
  """Changes one byte of a file, or cuts it; says what it did."""
  content = bytearray(path.read_bytes())
  place = rng.randrange(len(content))
  if rng.random() < _TRUNCATED:
    path.write_bytes(content[:place])
    return f"cut from {len(content)} to {place} bytes"
  change = rng.randrange(1, 256)
  content[place] ^= change
  path.write_bytes(content)
  return f"byte {place} of {len(content)} xor {change}"


def digest(tree: Any) -> str:
  """Computes a digest of all values in a tree, to the bit."""
  total = hashlib.sha256()
  for path, x in jax.tree_util.tree_leaves_with_path(tree):
    if isinstance(x, jax.Array) and jax.dtypes.issubdtype(
      x.dtype, jax.dtypes.prng_key
    ):
      x = jax.random.key_data(x)
    if isinstance(x, jax.Array | np.ndarray):
      x = np.asarray(x)
      x = (x.dtype, x.shape, x.tobytes())
    total.update(repr((path, x)).encode())
  return total.hexdigest()


@contextlib.contextmanager
def _warnings() -> Iterator[list[str]]:
  """Collects what is logged as a warning, instead of printing it."""
  said: list[str] = []

  class Collect(logging.Handler):
    def emit(self, record):
      said.append(record.getMessage())

  logger = logging.getLogger()
  handlers, logger.handlers = logger.handlers, [Collect(logging.WARNING)]
  try:
    yield said
  finally:
    logger.handlers = handlers
