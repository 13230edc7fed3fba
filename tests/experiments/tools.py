"""Runs the command line tools as a person does, without their start-up.

Each command is a process of its own, for flags are global, but a fork of one
that has imported the library and started no JAX backend. A fresh interpreter
imports for seconds before a main looks at its first flag.
"""

import atexit
import multiprocessing
import os
import pathlib
import runpy
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).parents[2]

_FORKS = multiprocessing.get_context("forkserver")
# The library and what it imports late; not `experiments`, which defines flags.
_FORKS.set_forkserver_preload(
  [
    "matplotlib.pyplot",
    "ml_collections.config_flags",
    "tensorflow_datasets",
    *(
      ".".join(path.relative_to(ROOT).with_suffix("").parts)
      for path in sorted(ROOT.glob("flexmdm_jax/**/[!_]*.py"))
    ),
  ]
)

# Small enough to compile and train in seconds.
TINY = [
  "--config.model.hidden_size=16",
  "--config.model.num_layers=1",
  "--config.model.num_heads=2",
  "--config.model.cond_size=8",
  "--config.train.batch_size=8",
  "--config.train.num_steps=40",
  "--config.train.report_every=5",
  "--config.train.checkpoint_every=5",
  "--config.optimizer.warmup_steps=2",
]
TINY_BRACKETS = [
  "--config=experiments/configs/brackets_quickstart.py",
  "--config.data.num_train=200",
  "--config.data.num_eval=20",
  *TINY,
]
TINY_MAZE = [
  "--config=experiments/configs/maze_quickstart.py",
  "--config.data.num_train=200",
  "--config.data.num_eval=20",
  *TINY,
]


class Command:
  """A process that runs, with what the tests use of `subprocess.Popen`."""

  def __init__(self, call, *arguments, xla_flags):
    self._out = tempfile.NamedTemporaryFile("r")
    self._err = tempfile.NamedTemporaryFile("r")
    self._process = _FORKS.Process(
      target=_in_fork,
      args=(call, arguments, xla_flags, self._out.name, self._err.name),
      daemon=True,  # ends with the tests
    )
    self._process.start()
    self.pid = self._process.pid
    self.kill = self._process.kill

  @property
  def returncode(self):
    """The exit status, None as long as it runs; negative: a signal's number."""
    return self._process.exitcode

  def poll(self):
    return self.returncode

  def send_signal(self, number):
    if self.poll() is None:
      os.kill(self.pid, number)

  def communicate(self, timeout=None):
    """Waits for the end; returns (stdout, stderr)."""
    self._process.join(timeout)
    if self.returncode is None:
      raise subprocess.TimeoutExpired(self._process.name, timeout)
    return self._out.read(), self._err.read()


def _in_fork(call, arguments, xla_flags, *paths):
  for descriptor, path in enumerate(paths, start=1):
    os.dup2(os.open(path, os.O_WRONLY), descriptor)
  os.chdir(ROOT)
  os.environ["XLA_FLAGS"] = xla_flags
  os.environ["TPU_LOG_DIR"] = "disabled"
  try:
    call(*arguments)
  finally:
    atexit._run_exitfuncs()  # multiprocessing leaves them out


def _run_module(name, flags):
  sys.argv = [name, *flags]
  runpy.run_module(name, run_name="__main__", alter_sys=True)


def _run_text(text, flags):
  sys.argv = ["-c", *flags]
  exec(text, {"__name__": "__main__"})


def start(module, *flags, xla_flags="--xla_backend_optimization_level=0"):
  """Starts what `python -m experiments.MODULE` would."""
  flags = list(map(str, flags))
  name = f"experiments.{module}"
  return Command(_run_module, name, flags, xla_flags=xla_flags)


def start_text(text, *flags):
  """Starts what `python -c TEXT` would."""
  return Command(_run_text, text, list(map(str, flags)), xla_flags="")


def run(module, *flags, **options):
  """Runs a main to its end; returns (exit status, stdout, stderr)."""
  return _end(start(module, *flags, **options))


def run_text(text, *flags):
  """Runs a program to its end; returns (exit status, stdout, stderr)."""
  return _end(start_text(text, *flags))


def _end(process):
  out, err = process.communicate(timeout=600)
  return process.returncode, out, err
