"""Helpers of the command line tools: errors in one line, and exit codes."""

import contextlib
import logging
import os
import sys
import threading
from collections.abc import Callable, Collection, Sequence

import jax
from absl import app, flags

from experiments.common import compilation_cache
from flexmdm_jax import checksums
from flexmdm_jax.errors import DivergedError, InputError

_VERIFY = flags.DEFINE_bool(
  "verify_checkpoints",
  True,
  "Compare checkpoints and converted weights with their checksums.",
)

# Of several processes one that fails waits so long for the others to end too.
_WAIT_SECONDS = 10


def run(main: Callable[[Sequence[str]], int | None]) -> None:
  """Parses the flags, turns the compilation cache on, calls `main`, exits.

  Wrong input ends with one line on stderr and status 2, a diverged training
  with status 3; any other exception keeps its traceback.
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
  except flags.Error as error:
    sys.exit(fail(error, 2))
  except (AttributeError, KeyError) as error:  # of a config's key
    sys.exit(fail(f"unknown config key: {error}", 2))
  except (OSError, ImportError) as error:
    sys.exit(fail(f"cannot read the config: {error}", 2))
  except (TypeError, ValueError) as error:  # of a config's value
    sys.exit(fail(f"wrong config value: {error}", 2))


def require_least(**values: tuple[int | None, int]) -> None:
  """Refuses numeric flags that are too small; those not given are None.

  Args:
    **values: `(value, least)` of each flag.

  Raises:
    InputError: names the first flag that is too small.
  """
  for name, (value, least) in values.items():
    if value is not None and value < least:
      raise InputError(f"--{name}={value} must be at least {least}.")


def parse_ints(name: str, words: Sequence[str]) -> list[int]:
  """Parses the integers of a list flag; InputError if a word is none."""
  try:
    numbers = [int(word) for word in words]
  except ValueError as error:
    raise InputError(
      f"--{name}={','.join(words)} must be integers separated by commas."
    ) from error
  if not numbers:
    raise InputError(f"--{name} is empty: give at least one integer.")
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
