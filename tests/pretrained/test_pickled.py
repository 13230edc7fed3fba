"""Archives of `torch.save`: good ones are read, hostile ones run nothing."""

import collections
import io
import os
import pickle
import zipfile

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file

from flexmdm_jax.errors import InputError
from flexmdm_jax.pretrained import pickled
from flexmdm_jax.pretrained.folder import Tensors
from tests import fuzz
from tests.pretrained import hf
from tests.pretrained.archives import (
  ORDERED,
  REBUILD,
  archive,
  program,
  tensor,
  text,
  whole,
)

EXTRAS = hf.ROOT / "tests/golden/dream_flexmdm_tiny/flexmdm_extras.pt"


def read_all(path):
  return {key: pickled.load(path, x) for key, x in pickled.read(path).items()}


def test_the_public_form():
  expected = load_file(EXTRAS.with_suffix(".safetensors"))
  stored = pickled.read(EXTRAS)
  assert set(stored) == set(expected)
  for key, x in expected.items():
    found = pickled.load(EXTRAS, stored[key])
    assert found.dtype == ml_dtypes.bfloat16 and found.shape == x.shape
    np.testing.assert_array_equal(found.astype(np.float32), x)
  tensors = Tensors([EXTRAS])
  assert set(tensors) == set(expected)
  assert set(tensors.dtypes.values()) == {"bfloat16"}


def test_views_of_a_storage(tmp_path):
  content = program(
    ("whole", tensor()),
    ("transposed", tensor((3, 2), (1, 3))),
    ("part", tensor((2,), (1,), offset=4)),
    ("number", tensor((), (), offset=5)),
    ("empty", tensor((0, 3), (3, 1))),
  )
  found = read_all(archive(tmp_path / "a.pt", content))
  base = np.arange(6, dtype=np.float32).reshape(2, 3)
  np.testing.assert_array_equal(found["whole"], base)
  np.testing.assert_array_equal(found["transposed"], base.T)
  np.testing.assert_array_equal(found["part"], [4, 5])
  assert found["number"].shape == () and found["number"] == 5
  assert found["empty"].shape == (0, 3)


def test_newer_pickles(tmp_path):
  """Names from the stack, a memo without numbers, an ordered dict."""
  rebuild = text("torch._utils") + text("_rebuild_tensor_v2") + b"\x93\x94"
  content = b"\x80\x04" + ORDERED + text("a") + tensor(rebuild=rebuild) + b"s."
  found = read_all(archive(tmp_path / "a.pt", content))
  assert list(found) == ["a"] and found["a"].shape == (2, 3)


class Runs:
  """Pickles as a call of a function."""

  def __init__(self, function, *arguments):
    self.call = function, arguments

  def __reduce__(self):
    return self.call


def _code(path):
  return f"open({str(path)!r}, 'w').close()"


# name -> (sentinel -> pickle, words of the error)
PICKLES = {
  "os.system": (
    lambda x: pickle.dumps(Runs(os.system, f"touch {x}"), 2),
    "asks for posix.system, which no tensor needs: it is not run",
  ),
  "os.system by its own name": (
    lambda x: program(before=b"cos\nsystem\n" + text(f"touch {x}") + b"\x85R"),
    "asks for os.system",
  ),
  "eval": (
    lambda x: pickle.dumps({"a": Runs(eval, _code(x))}, 2),
    "asks for __builtin__.eval",
  ),
  "exec, protocol 4": (
    lambda x: pickle.dumps({"a": Runs(exec, _code(x))}, 4),
    "asks for builtins.exec",
  ),
  "getattr of an allowed name": (
    lambda x: program(before=b"cbuiltins\ngetattr\n" + ORDERED),
    "asks for builtins.getattr",
  ),
  "a dotted name": (
    lambda x: program(
      before=b"ctorch._utils\n_rebuild_tensor_v2.__globals__\n"
    ),
    "asks for torch._utils._rebuild_tensor_v2.__globals__",
  ),
  "a pickle in a pickle": (
    lambda x: pickle.dumps(
      Runs(pickle.loads, pickle.dumps(Runs(os.system, f"touch {x}")))
    ),
    "asks for _pickle.loads",
  ),
  "a pickle as bytes": (
    lambda x: pickle.dumps(
      {"a": pickle.dumps(Runs(os.system, f"touch {x}"))}, 3
    ),
    "BINBYTES",
  ),
  "INST": (
    lambda x: b"(" + text(f"touch {x}") + b"ios\nsystem\n.",
    "has INST",
  ),
  "OBJ": (
    lambda x: b"(cos\nsystem\n" + text(f"touch {x}") + b"o.",
    "asks for os.system",
  ),
  "a call of a text": (
    lambda x: program(before=text("os system") + text(f"touch {x}") + b"\x85R"),
    "calls a str: it is not run",
  ),
  "a call of a storage": (
    lambda x: program(before=b"ctorch\nFloatStorage\n" + whole(9) + b"\x85R"),
    "calls torch.FloatStorage",
  ),
  "a state": (
    lambda x: program(before=ORDERED + text("x") + b"b"),
    "has BUILD",
  ),
  "an extension": (lambda x: b"\x80\x02\x82\x01.", "has EXT1"),
  "a name that is no text": (
    lambda x: b"\x80\x04" + whole(1) + text("system") + b"\x93.",
    "has no name",
  ),
  "no tensor": (lambda x: program(("a", whole(1))), "'a' is a int"),
  "no dict": (lambda x: b"\x80\x02" + tensor() + b".", "not a dict of tensors"),
  "a key twice": (
    lambda x: program(("a", tensor()), ("a", tensor())),
    "comes twice",
  ),
  "no storage": (lambda x: program(("a", tensor(key="1"))), "'1' is not in it"),
  "a storage outside": (
    lambda x: program(("a", tensor(key="../../data/0"))),
    "is not in it",
  ),
  "a huge storage": (
    lambda x: program(("a", tensor(size=2**31 - 1))),
    "to have 2147483647 numbers of float32, but has 24 bytes",
  ),
  "another type": (
    lambda x: program(("a", tensor(kind=b"DoubleStorage"))),
    "numbers of float64",
  ),
  "an unknown type": (
    lambda x: program(("a", tensor(kind=b"QInt8Storage"))),
    "asks for torch.QInt8Storage",
  ),
  "beyond the storage": (
    lambda x: program(("a", tensor((3, 3)))),
    "[3, 3] does not fit in its storage of 6 numbers",
  ),
  "an offset beyond": (
    lambda x: program(("a", tensor(offset=1))),
    "does not fit",
  ),
  "a negative offset": (
    lambda x: program(("a", tensor(offset=-1))),
    "in another form",
  ),
  "strides beyond": (
    lambda x: program(("a", tensor(strides=(4, 1)))),
    "does not fit",
  ),
  "negative strides": (
    lambda x: program(("a", tensor(strides=(3, -1)))),
    "in another form",
  ),
  "strides of another number": (
    lambda x: program(("a", tensor(strides=(1,)))),
    "in another form",
  ),
  "terabytes of one number": (
    lambda x: program(("a", tensor((2**30, 2**30), (0, 0)))),
    "does not fit",
  ),
  "hooks": (
    lambda x: program(("a", tensor(hooks=text("hook")))),
    "in another form",
  ),
  "a shape that is a tensor": (
    lambda x: program(("a", REBUILD + b"(" + tensor() * 6 + b"tR")),
    "in another form",
  ),
  "a full memo": (
    lambda x: program(before=text("a") + b"r\xff\xff\xff\x7f0"),
    "has POP",
  ),
  "an unknown memo": (lambda x: b"\x80\x02h\x05.", "takes more than it has"),
  "an empty stack": (lambda x: b"\x80\x02R.", "takes more than it has"),
  "nothing": (lambda x: b"", "pickle exhausted"),
  "no end": (lambda x: program(("a", tensor()))[:-1], "pickle exhausted"),
  "something after": (
    lambda x: program(("a", tensor())) + pickle.dumps(Runs(eval, _code(x)), 2),
    "something follows",
  ),
  "a text of 4 GB": (
    lambda x: b"\x80\x02X\xff\xff\xff\xff.",
    "expected 4294967295 bytes",
  ),
  "a number without end": (
    lambda x: b"\x80\x02\x8b\xff\xff\xff\x7f.",
    "cannot read",
  ),
  "levels without end": (
    lambda x: b"\x80\x02)" + b"\x85" * 100_000 + b".",
    "not a dict of tensors",
  ),
  "laughs": (
    lambda x: (
      b"\x80\x04" + text("ha") + (b"\x94h\x00h\x00\x86" * 60) + b"\x93."
    ),
    "cannot read",
  ),
}


def error_of(path):
  with pytest.raises(InputError) as error:
    read_all(path)
  line = str(error.value)
  assert "\n" not in line and str(path) in line and len(line) < 500
  return line


@pytest.mark.parametrize("name", PICKLES)
def test_hostile_pickles(tmp_path, name):
  make, words = PICKLES[name]
  sentinel = tmp_path / "sentinel"
  path = archive(tmp_path / "a.pt", make(sentinel))
  assert words in error_of(path)
  assert not sentinel.exists()


def test_the_sentinel_is_one(tmp_path):
  """Python's own reader runs what the suite above holds."""
  sentinel = tmp_path / "sentinel"
  pickle.loads(PICKLES["eval"][0](sentinel))
  assert sentinel.exists()


def test_hostile_archives(tmp_path):
  good = program(("a", tensor()))
  path = archive(tmp_path / "a.pt", good)
  content = path.read_bytes()
  cases = {
    "cut": (content[:-30], "cannot read"),
    "cut in the middle": (content[: len(content) // 2], "cannot read"),
    "no zip": (pickle.dumps({"a": 1}), "cannot read"),
    "empty": (b"", "cannot read"),
    "flipped": (
      content.replace(np.float32(5).tobytes(), np.float32(6).tobytes()),
      "CRC",
    ),
  }
  for name, (changed, words) in cases.items():
    other = tmp_path / f"{name}.pt"
    other.write_bytes(changed)
    assert words in error_of(other), name
  # A bomb: a million zeros in a kilobyte.
  bomb = archive(
    tmp_path / "bomb.pt", good, {"0": bytes(10**6)}, zipfile.ZIP_DEFLATED
  )
  assert bomb.stat().st_size < 10_000
  assert "compressed" in error_of(bomb)


def test_archives_of_another_form(tmp_path):
  good = program(("a", tensor()))

  def write(name, **members):
    path = tmp_path / name
    with zipfile.ZipFile(path, "w") as file:
      for member, data in members.items():
        file.writestr(member, data)
    return path

  none = write("none.pt", **{"a/b": b"x"})
  assert "no archive of torch.save" in error_of(none)
  two = write("two.pt", **{"a/data.pkl": good, "b/data.pkl": good})
  assert "no archive of torch.save" in error_of(two)
  order = write("big.pt", **{"a/data.pkl": good, "a/byteorder": b"big"})
  assert "little-endian" in error_of(order)
  large = write("large.pt", **{"a/data.pkl": bytes((16 << 20) + 1)})
  assert "larger than 16 MiB" in error_of(large)
  with zipfile.ZipFile(tmp_path / "same.pt", "w") as file:
    file.writestr("a/data.pkl", good)
    with pytest.warns(UserWarning, match="Duplicate"):
      file.writestr("a/data.pkl", good)
  assert "twice" in error_of(tmp_path / "same.pt")


def test_what_is_no_file(tmp_path):
  os.mkfifo(tmp_path / "pipe.pt")
  for name in ("pipe.pt", "missing.pt", ""):
    error_of(tmp_path / name)


@pytest.mark.parametrize("examples", fuzz.EXAMPLES)
def test_any_archive(tmp_path, examples):
  content = archive(tmp_path / "a.pt", program(("a", tensor()))).read_bytes()
  path = tmp_path / "b.pt"

  def act(changed):
    path.write_bytes(changed)
    read_all(path)

  fuzz.each(examples, fuzz.spoiled(content), act)


@pytest.mark.parametrize("examples", fuzz.EXAMPLES)
def test_any_pickle(tmp_path, examples):
  path = tmp_path / "b.pt"

  def act(changed):
    read_all(archive(path, changed))

  fuzz.each(examples, fuzz.spoiled(program(("a", tensor()))), act)


def test_an_ordered_dict_that_python_makes():
  """The names are those that Python writes."""
  names = io.BytesIO()
  pickle.Pickler(names, 2).dump(collections.OrderedDict())
  assert b"ccollections\nOrderedDict\n" in names.getvalue()
