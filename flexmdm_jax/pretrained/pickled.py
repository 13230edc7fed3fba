"""Tensors in the archives of `torch.save`, read without running anything.

Such an archive is a zip file: a pickle that says what there is, and the bytes
of each storage, uncompressed. A pickle is a program for a stack machine, and
Python's runs whatever the program names. This one knows the few instructions
that a dict of tensors needs. It imports nothing and calls nothing: a name such
as `torch.FloatStorage` is a row of a table here, and one that is in no table
ends the reading. A tensor's bytes are read when they are asked for.
"""

import io
import math
import pathlib
import pickletools
import zipfile
from typing import Any, NamedTuple

import ml_dtypes  # numpy reads bfloat16 once it is imported  # noqa: F401
import numpy as np

from flexmdm_jax.errors import clear_library_errors
from flexmdm_jax.reading import open_file

_FIX = "take a good copy, or its tensors as a safetensors file"
# The pickle of a network of a thousand tensors has 100 kB.
_PICKLE_BYTES = 16 << 20
_MOST_AXES = 8
_REBUILD = "torch._utils _rebuild_tensor_v2"
_ORDERED_DICT = "collections OrderedDict"
_STORAGES = {
  "torch FloatStorage": "float32",
  "torch HalfStorage": "float16",
  "torch BFloat16Storage": "bfloat16",
  "torch DoubleStorage": "float64",
  "torch LongStorage": "int64",
  "torch IntStorage": "int32",
  "torch ShortStorage": "int16",
  "torch CharStorage": "int8",
  "torch ByteStorage": "uint8",
  "torch BoolStorage": "bool",
}
_VALUES = {
  **dict.fromkeys(("BININT", "BININT1", "BININT2", "LONG1")),
  **dict.fromkeys(("BINUNICODE", "SHORT_BINUNICODE")),
  "NEWTRUE": True,
  "NEWFALSE": False,
}
_TUPLES = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


class Stored(NamedTuple):
  """Tensor that lies in an archive.

  Attributes:
    member: name of the archive's member that holds its storage.
    dtype: type of its numbers.
    shape: its shape.
    strides: numbers of the storage between neighbours along each axis.
    offset: number of the storage at which it begins.
  """

  member: str
  dtype: str
  shape: tuple[int, ...]
  strides: tuple[int, ...]
  offset: int


def read(path: str | pathlib.Path) -> dict[str, Stored]:
  """Reads what an archive holds, all but the tensors' bytes.

  Args:
    path: a file that `torch.save` wrote of a dict of tensors.

  Raises:
    InputError: it cannot be read, is no such archive, or asks for anything
      that a dict of tensors does not need; the error names it.
  """
  with open_file(path, _FIX) as file, _clear_errors(path):
    with zipfile.ZipFile(file) as archive:
      members = _members(archive)
      pickles = [name for name in members if name.endswith("/data.pkl")]
      if len(pickles) != 1:
        raise ValueError("it is no archive of torch.save")
      (name,) = pickles
      root = name.removesuffix("data.pkl")
      if members[name].file_size > _PICKLE_BYTES:
        raise ValueError(f"its pickle is larger than {_PICKLE_BYTES >> 20} MiB")
      order = members.get(root + "byteorder")
      if order is not None and order.file_size < 16:
        if archive.read(order).strip() != b"little":
          raise ValueError("its numbers are not little-endian")
      return _Machine(root, members).run(archive.read(name))


def load(path: str | pathlib.Path, stored: Stored) -> np.ndarray:
  """Reads the numbers of one tensor that `read` found.

  Raises:
    InputError: the archive cannot be read.
  """
  with open_file(path, _FIX) as file, _clear_errors(path):
    with zipfile.ZipFile(file) as archive:
      content = archive.read(_members(archive)[stored.member])
    flat = np.frombuffer(content, stored.dtype)
    _require_inside(stored, flat.size)
    strides = [flat.itemsize * stride for stride in stored.strides]
    view = np.lib.stride_tricks.as_strided(
      flat[stored.offset :], stored.shape, strides, writeable=False
    )
    return np.ascontiguousarray(view).reshape(stored.shape)


def _clear_errors(path):
  return clear_library_errors(f"cannot read {path}", _FIX)


def _members(archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
  """Lists an archive's members by name; ValueError for what torch never makes.

  Nothing is compressed, so that no member is larger than the file itself.
  """
  archive.fp.seek(0, io.SEEK_END)
  size = archive.fp.tell()
  members = {}
  for info in archive.infolist():
    if info.filename in members:
      raise ValueError(f"it holds {info.filename!r} twice")
    if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1:
      raise ValueError(f"{info.filename!r} is compressed or encrypted")
    if info.file_size != info.compress_size or info.file_size > size:
      raise ValueError(f"the size of {info.filename!r} is not its bytes'")
    members[info.filename] = info
  return members


def _require_inside(stored: Stored, size: int) -> None:
  """Raises ValueError unless a tensor lies within a storage of `size`."""
  axes = list(zip(stored.shape, stored.strides, strict=True))
  last = stored.offset + sum((n - 1) * stride for n, stride in axes)
  numbers = math.prod(stored.shape)
  # A stride of 0 could make terabytes of one number.
  if numbers and (last >= size or stored.offset + numbers > size):
    raise ValueError(
      f"a tensor of the shape {list(stored.shape)} does not fit in its storage"
      f" of {size} numbers"
    )


class _Name(str):
  """Name of something in a module of Python, as a pickle asks for it."""


class _Storage(NamedTuple):
  """Storage of an archive: its member, its type, and its numbers."""

  member: str
  dtype: str
  size: int


class _Mark:
  """Mark on the stack, up to which an instruction takes values."""


class _Machine:
  """Stack machine of the instructions that a dict of tensors needs."""

  def __init__(self, root: str, members: dict[str, zipfile.ZipInfo]):
    self._root, self._members = root, members
    self._stack: list[Any] = []
    self._memo: dict[int, Any] = {}

  def run(self, program: bytes) -> dict[str, Stored]:
    """Runs a pickle; ValueError for what it must not hold."""
    end = 0
    for instruction, argument, at in pickletools.genops(program):
      self._do(instruction.name, argument)
      end = at + 1
    if end != len(program):
      raise ValueError("something follows its pickle")
    found = self._pop()
    if self._stack or type(found) is not dict:
      raise ValueError(f"it holds {_kind(found)}, not a dict of tensors")
    for key, value in found.items():
      if not isinstance(value, Stored):
        raise ValueError(f"{key[:80]!r} is {_kind(value)}, not a tensor")
    return found

  def _do(self, name: str, argument: Any) -> None:
    push = self._stack.append
    if name in ("PROTO", "FRAME", "STOP"):
      pass
    elif name in _VALUES:
      push(argument if _VALUES[name] is None else _VALUES[name])
    elif name == "GLOBAL":
      push(_known(argument))
    elif name == "STACK_GLOBAL":
      found, module = self._pop(), self._pop()
      if type(found) is not str or type(module) is not str:
        raise ValueError("its pickle asks for what has no name")
      push(_known(f"{module} {found}"))
    elif name in ("BINPUT", "LONG_BINPUT"):
      self._memo[argument] = self._top()
    elif name == "MEMOIZE":
      self._memo[len(self._memo)] = self._top()
    elif name in ("BINGET", "LONG_BINGET"):
      if argument not in self._memo:
        raise ValueError("its pickle takes more than it has")
      push(self._memo[argument])
    elif name == "MARK":
      push(_Mark)
    elif name in _TUPLES:
      values = [self._pop() for _ in range(_TUPLES[name])]
      push(tuple(reversed(values)))
    elif name == "TUPLE":
      push(tuple(self._to_mark()))
    elif name == "EMPTY_DICT":
      push({})
    elif name == "SETITEM":
      value, key = self._pop(), self._pop()
      self._set([key, value])
    elif name == "SETITEMS":
      self._set(self._to_mark())
    elif name == "BINPERSID":
      push(self._storage(self._pop()))
    elif name == "REDUCE":
      arguments, function = self._pop(), self._pop()
      push(self._made(function, arguments))
    else:
      raise ValueError(f"its pickle has {name}, which no dict of tensors needs")

  def _top(self) -> Any:
    if not self._stack:
      raise ValueError("its pickle takes more than it has")
    return self._stack[-1]

  def _pop(self) -> Any:
    self._top()
    return self._stack.pop()

  def _to_mark(self) -> list[Any]:
    values = []
    while (value := self._pop()) is not _Mark:
      values.append(value)
    return values[::-1]

  def _set(self, values: list[Any]) -> None:
    """Sets keys of the dict on top of the stack to values, in turn."""
    target = self._top()
    if type(target) is not dict or len(values) % 2:
      raise ValueError("its pickle sets keys of what is no dict")
    for key, value in zip(values[::2], values[1::2], strict=True):
      if type(key) is not str or key in target:
        raise ValueError("a key of its dict is no text, or comes twice")
      target[key] = value

  def _storage(self, told: Any) -> _Storage:
    """Finds the storage that a pickle tells of."""
    kinds = [str, _Name, str, str, int]
    if type(told) is not tuple or [*map(type, told)] != kinds:
      raise ValueError("its pickle tells of a storage in another form")
    what, kind, key, _, size = told
    if what != "storage" or kind not in _STORAGES:
      raise ValueError("its pickle tells of a storage in another form")
    dtype, member = _STORAGES[kind], f"{self._root}data/{key}"
    if member not in self._members:
      raise ValueError(f"the storage {key[:40]!r} is not in it")
    there = self._members[member].file_size
    if size * np.dtype(dtype).itemsize != there:
      raise ValueError(
        f"the storage {key[:40]!r} is to have {size} numbers of {dtype}, but"
        f" has {there} bytes"
      )
    return _Storage(member, dtype, size)

  def _made(self, function: Any, arguments: Any) -> Any:
    """Makes what the two functions that there are would give."""
    if type(function) is not _Name:
      raise ValueError(f"its pickle calls {_kind(function)}: it is not run")
    if function == _ORDERED_DICT and arguments == ():
      return {}
    if function != _REBUILD:
      raise ValueError(f"its pickle calls {_kind(function)}: it is not run")
    if type(arguments) is not tuple or len(arguments) not in (6, 7):
      raise ValueError("its pickle rebuilds a tensor in another form")
    storage, offset, shape, strides, needs_gradient, hooks = arguments[:6]
    whole = [offset, *shape, *strides] if _are_axes(shape, strides) else [None]
    if (
      type(storage) is not _Storage
      or any(type(x) is not int or x < 0 for x in whole)
      or type(needs_gradient) is not bool
      or hooks != {}
      or arguments[6:] not in ((), ({},))
    ):
      raise ValueError("its pickle rebuilds a tensor in another form")
    stored = Stored(storage.member, storage.dtype, shape, strides, offset)
    _require_inside(stored, storage.size)
    return stored


def _are_axes(shape: Any, strides: Any) -> bool:
  """Tells whether the two are tuples of one length, and that a tensor's."""
  tuples = type(shape) is tuple and type(strides) is tuple
  return tuples and len(shape) == len(strides) <= _MOST_AXES


def _known(name: str) -> _Name:
  """Returns the name of a global; ValueError if no dict of tensors needs it."""
  if name not in (_REBUILD, _ORDERED_DICT, *_STORAGES):
    dotted = ".".join(name.split(" ", 1))
    raise ValueError(
      f"its pickle asks for {dotted[:80]}, which no tensor needs: it is not run"
    )
  return _Name(name)


def _kind(value: Any) -> str:
  """Says what a value is, without writing it out."""
  if type(value) is _Name:
    return value.replace(" ", ".")
  return f"a {type(value).__name__.strip('_').lower()}"
