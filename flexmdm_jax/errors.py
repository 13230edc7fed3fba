"""The exceptions that the command line tools print as one line."""

import contextlib
from collections.abc import Iterator


class InputError(ValueError):
  """Input that cannot be used: one line that names the value and the fix.

  The command line tools print it without a traceback and exit with status 2;
  any other exception is a defect of ours and keeps its traceback.
  """

  def __str__(self) -> str:
    """Returns the message on one line, whatever the names in it hold."""
    text = super().__str__()
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


class DivergedError(RuntimeError):
  """Training met a loss or a gradient that is not finite, and stopped."""


def first_line(error: BaseException) -> str:
  """Shortens an error's message to its first line; its name if it has none."""
  return ((str(error).splitlines() or [""])[0] or repr(error))[:200]


@contextlib.contextmanager
def clear_library_errors(what: str, fix: str) -> Iterator[None]:
  """Makes one InputError of whatever a library raises for an odd file.

  Only the library's own calls are to be inside. A library written in Rust may
  panic, which Python sees as an exception that is no `Exception`.

  Args:
    what: what was wrong, such as "cannot read a.json"; begins the error.
    fix: what to do about it; ends the error.
  """
  try:
    yield
  except InputError:
    raise
  except BaseException as error:
    panic = type(error).__module__ == "pyo3_runtime"
    if not panic and not isinstance(error, Exception):
      raise
    raise InputError(f"{what} ({first_line(error)}): {fix}.") from error
