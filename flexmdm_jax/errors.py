"""The exceptions that the command line tools print as one line."""


class InputError(ValueError):
  """Input that cannot be used: one line that names the value and the fix.

  The command line tools print it without a traceback and exit with status 2;
  any other exception is a defect of ours and keeps its traceback.
  """


class DivergedError(RuntimeError):
  """Training met a loss or a gradient that is not finite, and stopped."""


def first_line(error: Exception) -> str:
  """Shortens an error's message to its first line; its name if it has none."""
  return ((str(error).splitlines() or [""])[0] or repr(error))[:200]
