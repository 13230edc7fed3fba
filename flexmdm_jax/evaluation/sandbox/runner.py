"""The interpreter's own words around a program; their text is run by `-c`.

The process stops itself where the program begins and where it has ended, in one
function at one depth of the stack. The supervisor compares the two places.
For that to be a proof, no code of the program may run in that function's own
place, or nearer to the stack's bottom:

- It calls builtins alone, which are constants of its code: variables and names
  can be changed through frames, constants cannot.
- It is never left. Of whatever the program raises, the first call is `_exit`;
  a handler of signals runs after a call at the earliest. So there are no exit
  handlers and no hooks of exceptions, which run nearer to the bottom.
- No tracing, profiling or monitoring, which could leave it or jump in it.
"""


def _guard(event, args):
  """Forbids what would let Python code leave its place in the stack.

  Nothing here looks up a name or a method that the program could replace.
  """
  if event == "import":
    # Of a text that poses as another, join makes a true one.
    name = "".join((args[0],)).rpartition(".")[2]
    if name in (
      "_ctypes",
      "_interpreters",
      "_testcapi",
      "_testinternalcapi",
      "_testlimitedcapi",
      "_xxsubinterpreters",
    ):
      raise ImportError(f"{name} is not in the sandbox")
  elif (
    event
    in (
      "gc.get_objects",
      "gc.get_referents",
      "gc.get_referrers",
      "sys.monitoring.register_callback",
      "sys.setprofile",
      "sys.settrace",
    )
    or event[:7] == "ctypes."
    # Of asyncio, say, but not of this function.
    or (
      event == "object.__setattr__"
      and args[1] == "__code__"
      and args[0].__code__.co_name == "_guard"
    )
  ):
    raise RuntimeError(f"{event} is not in the sandbox")


# Texts in capitals stand for constants that `_prepare` puts in their place. A
# bare `except` looks up no name.
def _run():
  "KILL"("PID", 19)  # SIGSTOP
  try:
    "EXEC"("BODY", "NAMES")
  except:  # noqa: E722
    "EXIT"(1)
  "KILL"("PID", 19)


def _body():
  try:
    "EXEC"("COMPILE"("TEXT", "PATH", "exec", 0, True), "NAMES")
  except:
    "SHOW"(*"INFO"())
    raise


def _settrace(function):
  # doctest, for one, sets what it found: nothing.
  if function is not None:
    raise RuntimeError("sys.settrace is not in the sandbox")


def _prepare(path):
  import posix
  import sys

  with open(path, "rb") as file:
    text = file.read()
  names = globals()
  constants = {
    "KILL": posix.kill,
    "PID": posix.getpid(),
    "EXIT": posix._exit,
    "EXEC": exec,
    "COMPILE": compile,
    "SHOW": sys.__excepthook__,
    "INFO": sys.exc_info,
    "TEXT": text,
    "PATH": path,
    "NAMES": names,
  }
  run, body, guard = (names.pop(n) for n in ("_run", "_body", "_guard"))
  for function in (body, run):
    code = function.__code__
    function.__code__ = code.replace(
      co_consts=tuple(
        constants.get(x, x) if isinstance(x, str) else x for x in code.co_consts
      )
    )
    constants["BODY"] = function.__code__
  sys.settrace = names.pop("_settrace")
  for name in ("_prepare", "__annotations__", "__doc__"):
    names.pop(name, None)
  names["__file__"] = path
  sys.argv = [path]
  sys.addaudithook(guard)
  return run
