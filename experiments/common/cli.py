"""Helpers of the command line tools: errors in one line, and exit codes."""

import contextlib
import logging
import os
import pathlib
import sys
import threading
from collections.abc import Callable, Collection, Sequence

import jax
from absl import app, flags
from ml_collections import config_flags

from experiments.common import compilation_cache, host_memory
from flexmdm_jax import checksums, schema
from flexmdm_jax.errors import DivergedError, InputError, first_line

_VERIFY = flags.DEFINE_bool(
  "verify_checkpoints",
  True,
  "Compare checkpoints and converted weights with their checksums.",
)

# Flags that are defined by calls from here on belong to the module that asks.
flags.disclaim_key_flags()

# Of several processes one that fails waits so long for the others to end too.
_WAIT_SECONDS = 10


def run(
  main: Callable[[Sequence[str]], int | None], *, trains: bool = False
) -> None:
  """Parses the flags, turns the compilation cache on, calls `main`, exits.

  Wrong input ends with one line on stderr and status 2, a diverged training
  with status 3; any other exception keeps its traceback.

  Args:
    main: what the command does.
    trains: keep freed memory, which makes steps on the CPU shorter.
  """

  def guarded(argv):
    # Libraries log at INFO; a reader wants their warnings and our own words.
    for library in ("absl", "jax", "matplotlib"):
      logging.getLogger(library).setLevel(logging.WARNING)
    # On a full disk each of Orbax's tasks prints what we say once.
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    try:
      if len(argv) > 1:
        raise InputError(
          f"unexpected argument {argv[1]!r}: flags start with --"
        )
      compilation_cache.turn_on()
      if trains:
        host_memory.keep_freed()
      with contextlib.ExitStack() as stack:
        if not _VERIFY.value:
          stack.enter_context(checksums.unverified())
        return main(argv)
    except InputError as error:
      return leave(fail(error, 2))
    except DivergedError as error:
      return leave(fail(error, 3))
    except Exception:
      leave(1)
      raise

  # A main's --help lists its key flags.
  for name in ("compilation_cache", _VERIFY.name):
    flag = flags.FLAGS[name]
    flags.FLAGS.register_key_flag_for_module(sys.argv[0], flag)
  app.run(guarded, flags_parser=parse)


def leave(status: int) -> int:
  """Makes sure that a process which fails alone, of several, ends.

  JAX's runtime lets a process exit when all do, and after minutes aborts.
  """
  if jax.distributed.is_initialized():
    last = threading.Timer(_WAIT_SECONDS, os._exit, [status])
    last.daemon = True
    last.start()
  return status


def parse(argv: Sequence[str]) -> list[str]:
  """Parses the flags; a wrong one is a one-line error, status 2."""
  try:
    rest = flags.FLAGS(argv)
    if "config" in flags.FLAGS:
      # ml_collections keeps a file that failed to load until it is used.
      _ = flags.FLAGS.config and flags.FLAGS.config.to_dict
    return rest
  except (AttributeError, KeyError) as error:  # of a config's key
    sys.exit(fail(f"unknown config key: {error}", 2))
  except (TypeError, ValueError) as error:  # of a config's value
    sys.exit(fail(f"wrong config value: {error}", 2))
  except flags.Error as error:
    # It quotes the traceback of a config that failed.
    lines = str(error).splitlines()
    wrong = lines[0] if len(lines) == 1 else f"{lines[0]} ... {lines[-1]}"
    sys.exit(fail(wrong, 2))
  except Exception as error:  # the config is a program of the user's
    given = [word for word in argv if word.lstrip("-").startswith("config=")]
    problem = f"{type(error).__name__}: {first_line(error)}"
    if given and not pathlib.Path(given[-1].partition("=")[2]).is_file():
      problem = "there is no such file"
    sys.exit(fail(f"cannot read {' '.join(given[-1:])} ({problem})", 2))


def count(
  name: str, default: int | None, meaning: str, least: int = 1
) -> flags.FlagHolder[int | None]:
  """Defines the flag of a number of things, at most a billion.

  Args:
    name: name of the flag.
    default: its value where it is not given.
    meaning: the line of `--help`.
    least: smallest value.
  """
  return flags.DEFINE_integer(
    name, default, meaning, lower_bound=least, upper_bound=schema.MAX_COUNT
  )


def seed(meaning: str) -> flags.FlagHolder[int]:
  """Defines `--seed`, of 32 bits; `meaning` is its line of `--help`."""
  return flags.DEFINE_integer(
    "seed", 0, meaning, lower_bound=0, upper_bound=schema.MAX_SEED
  )


def config(meaning: str) -> flags.FlagHolder:
  """Defines `--config`, whose `--help` lists all settings.

  Args:
    meaning: the first line of its help.
  """
  # Here, since a second of imports is of no use to commands without it.
  from flexmdm_jax.settings import settings_help

  return config_flags.DEFINE_config_file(
    "config",
    None,
    f"{meaning} Its settings, as in --config.train.seed=1:\n{settings_help()}",
    lock_config=True,
  )


def force() -> Callable[[Callable[[], None]], None]:
  """Defines `--force`, which skips an estimate of the memory.

  Returns:
    Calls an estimate, which raises an InputError, unless the flag is given.
  """
  given = flags.DEFINE_bool(
    "force",
    False,
    "Try it where an estimate says that the memory is too small.",
  )

  def unless_given(estimate):
    try:
      if not given.value:
        estimate()
    except InputError as error:
      raise InputError(f"{error} --force tries it all the same.") from error

  return unless_given


def parse_ints(name: str, words: Sequence[str]) -> list[int]:
  """Parses the numbers of things of a list flag.

  Raises:
    InputError: a word is no integer, or below 1; or there is none.
  """
  try:
    numbers = [int(word) for word in words]
  except ValueError as error:
    raise InputError(
      f"--{name}={','.join(words)} must be integers separated by commas."
    ) from error
  if not numbers:
    raise InputError(f"--{name} is empty: give at least one integer.")
  for number in numbers:
    schema.require_value(
      f"--{name}", number, int, schema.Range(least=1, most=schema.MAX_COUNT)
    )
  return numbers


def require_known(
  name: str, words: Sequence[str], known: Collection[str]
) -> None:
  """Refuses words of a flag that are not `known`, by an InputError."""
  if wrong := set(words) - set(known):
    raise InputError(
      f"--{name}={wrong.pop()} is unknown: choose one of {', '.join(known)}."
    )


def fail(error: object, status: int) -> int:
  """Prints an error on one line and returns the status."""
  text = " ".join(str(error).split())
  print(f"error: {text}", file=sys.stderr)
  return status
