"""The interpreter's own words around a program; its text is run by `-c`.

The process stops itself where the program begins and where it has ended. The
supervisor compares the two places; see supervisor.py.
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
      "sys.settrace",
    )
    or event[:7] == "ctypes."
    or (event == "object.__setattr__" and args[1] == "__code__")
  ):
    raise RuntimeError(f"{event} is not in the sandbox")


def _run(path):
  import sys
  from posix import getpid, kill

  names = globals()
  guard = names.pop("_guard")
  for name in ("_run", "__annotations__", "__doc__"):
    names.pop(name, None)
  names["__file__"] = path
  sys.argv = [path]
  me, stop = getpid(), 19
  sys.addaudithook(guard)
  del guard, sys, name
  # Same function, same place in the stack, each line run once: the two stops
  # differ in nothing that the kernel sees. Between them no handler of
  # exceptions, and nothing that reads a name.
  kill(me, stop)
  with open(path, "rb") as file:
    text = file.read()
  code = compile(text, path, "exec", 0, True)
  del text, file
  exec(code, names)
  kill(me, stop)
