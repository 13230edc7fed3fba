"""The one exception that a person's wrong input raises."""


class InputError(ValueError):
  """Input that cannot be used: one line that names the value and the fix.

  The command line tools print it without a traceback and exit with status 2;
  any other exception is a defect of ours and keeps its traceback.
  """
