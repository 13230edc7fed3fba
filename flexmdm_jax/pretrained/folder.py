"""Folders of Hugging Face: `config.json` and weights in safetensors files.

Nothing in them is executed: their Python files are not read, and an archive of
`torch.save` is read without running what it says, see `pickled`.
"""

import contextlib
import json
import math
import pathlib
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import ml_dtypes  # numpy reads bfloat16 once it is imported  # noqa: F401
import numpy as np
from safetensors import safe_open

from flexmdm_jax import checksums
from flexmdm_jax.errors import InputError, clear_library_errors
from flexmdm_jax.pretrained import pickled
from flexmdm_jax.reading import (
  clear_read_errors,
  open_file,
  read_json,
  require_keys,
)

RETROFIT_FILE = "retrofit.safetensors"
EXTRAS_FILE = "flexmdm_extras.safetensors"
_SINGLE = "model.safetensors"
_INDEX = "model.safetensors.index.json"
_AGAIN = "download it again"

_DTYPES = {
  "float32": "F32",
  "bfloat16": "BF16",
  "float16": "F16",
  "int8": "I8",
}
_NUMPY_NAMES = {theirs: ours for ours, theirs in _DTYPES.items()}


class Tensors(Mapping[str, np.ndarray]):
  """Tensors of some files, each read when it is asked for.

  The files are safetensors, or with the suffix .pt archives of `torch.save`.

  Attributes:
    metadata: the safetensors files' metadata, merged.
    shapes: shape of each tensor.
    dtypes: type of each tensor; None where no network's weights have it. int8
      are those of an exported model that is quantised.
  """

  def __init__(
    self, paths: Sequence[str | pathlib.Path], verified: bool = True
  ):
    """Reads the files' headers, and compares them with their checksums.

    Args:
      paths: the files.
      verified: read them whole, if there are checksums beside them.

    Raises:
      InputError: a file is missing, truncated, damaged or not of its kind; two
        files hold a tensor of the same name.
    """
    self.metadata: dict[str, str] = {}
    self.shapes: dict[str, tuple[int, ...]] = {}
    self.dtypes: dict[str, str | None] = {}
    self._paths: dict[str, pathlib.Path] = {}
    self._pickled: dict[str, pickled.Stored] = {}
    paths = [pathlib.Path(path) for path in paths]
    if verified:
      for folder in {path.parent for path in paths}:
        names = {path.name for path in paths if path.parent == folder}
        verify(folder, names.__contains__, "download it again")
    for path in paths:
      if path.suffix == ".pt":
        for key, stored in pickled.read(path).items():
          dtype = stored.dtype if stored.dtype in _DTYPES else None
          self._add(key, path, stored.shape, dtype)
          self._pickled[key] = stored
        continue
      with _opened(path) as file:
        self.metadata |= file.metadata() or {}
        for key in file.keys():  # it is no mapping
          stored = file.get_slice(key)
          dtype = _NUMPY_NAMES.get(stored.get_dtype())
          self._add(key, path, tuple(stored.get_shape()), dtype)

  def _add(self, key, path, shape, dtype):
    """Notes a tensor of a file."""
    if key in self._paths:
      raise InputError(
        f"{key} is in two files, {self._paths[key]} and {path}: keep one."
      )
    self._paths[key] = path
    self.shapes[key], self.dtypes[key] = shape, dtype

  def __getitem__(self, key: str) -> np.ndarray:
    if key in self._pickled:
      return pickled.load(self._paths[key], self._pickled[key])
    # Opened anew: a mapped file stays in memory as far as it was read.
    with _opened(self._paths[key]) as file:
      return file.get_tensor(key)

  def __iter__(self) -> Iterator[str]:
    return iter(self._paths)

  def __len__(self) -> int:
    return len(self._paths)

  def file_of(self, key: str) -> str:
    """Returns the name of the file that holds a tensor."""
    return self._paths[key].name


def read_config(folder: pathlib.Path) -> dict[str, Any]:
  """Reads and parses `config.json`; InputError if there is none."""
  return read_json(pathlib.Path(folder) / "config.json", fix=_AGAIN)


def weight_files(folder: pathlib.Path) -> list[pathlib.Path]:
  """Finds the files that hold a folder's weights.

  Raises:
    InputError: there are none; one is missing; a tensor is not in the file that
      the index names.
  """
  found = sorted(folder.glob("*.safetensors"))
  # What a FlexMDM adds is no part of its backbone.
  found = [path for path in found if path.name != EXTRAS_FILE]
  single = folder / _SINGLE
  if (folder / _INDEX).exists():
    keys = {"weight_map": dict}
    index = read_json(folder / _INDEX, keys, _AGAIN)["weight_map"]
    paths = sorted({folder / str(name) for name in index.values()})
    if missing := [path.name for path in paths if path not in found]:
      raise InputError(
        f"{folder} lacks {missing[0]}, which its {_INDEX} names: download it"
        " again."
      )
    tensors = Tensors(paths, verified=False)
    for key, name in index.items():
      if key not in tensors or tensors.file_of(key) != name:
        raise InputError(f"{folder / name} lacks {key}, which {_INDEX} names.")
    return paths
  if single in found:
    return [single]
  if not found:
    raise InputError(
      f"{folder} holds no .safetensors file: download the model's weights, or"
      " convert its .bin files with transformers first."
    )
  return found


def check_tokenizer(folder: pathlib.Path, vocab_size: int) -> None:
  """Raises an InputError if `tokenizer.json` has ids that the network lacks."""
  path = pathlib.Path(folder) / "tokenizer.json"
  if not path.exists():
    return
  tokenizer = read_json(path, {"model": dict}, _AGAIN)
  with clear_read_errors(path, _AGAIN):
    require_keys(tokenizer["model"], {"vocab": (dict, list, type(None))})
    require_keys(tokenizer, {"added_tokens": (list, type(None))})
    vocab = tokenizer["model"].get("vocab") or []
    ids = list(vocab.values() if isinstance(vocab, dict) else range(len(vocab)))
    for token in tokenizer.get("added_tokens") or []:
      require_keys(token, {"id": int})
      ids.append(token["id"])
    if odd := [x for x in ids if type(x) is not int]:
      raise ValueError(f"the id {odd[0]!r} is no whole number")
  if ids and max(ids) >= vocab_size:
    raise InputError(
      f"{path} has the id {max(ids)}, but the vocabulary of config.json has"
      f" {vocab_size} ids: they are not of one model."
    )


def write_file(
  path: pathlib.Path,
  specs: Mapping[str, tuple[np.dtype, tuple[int, ...]]],
  read: Callable[[str], np.ndarray],
  metadata: Mapping[str, str] | None = None,
) -> None:
  """Writes a safetensors file, one tensor after another.

  The library's own writer wants all of them in memory.

  Args:
    path: the file.
    specs: type and shape of each tensor by key.
    read: gives the tensor of a key.
    metadata: is written too.
  """
  header: dict[str, Any] = {
    "__metadata__": {"format": "pt", **(metadata or {})}
  }
  end = 0
  for key, (dtype, shape) in specs.items():
    begin, end = end, end + _num_bytes(dtype, shape)
    header[key] = {
      "dtype": _DTYPES[np.dtype(dtype).name],
      "shape": list(shape),
      "data_offsets": [begin, end],
    }
  text = json.dumps(header, separators=(",", ":")).encode()
  text += b" " * (-len(text) % 8)
  with path.open("wb") as file:
    file.write(len(text).to_bytes(8, "little") + text)
    for key, (dtype, shape) in specs.items():
      tensor = np.ascontiguousarray(read(key))
      assert (tensor.dtype, tensor.shape) == (dtype, tuple(shape)), key
      file.write(tensor.reshape(-1).view(np.uint8).data)


def write_files(
  folder: pathlib.Path,
  specs: Mapping[str, tuple[np.dtype, tuple[int, ...]]],
  read: Callable[[str], np.ndarray],
  max_bytes: int,
) -> None:
  """Writes the weights of a folder, with an index if one file is too small.

  Args:
    folder: must exist.
    specs: as in `write_file`.
    read: as in `write_file`.
    max_bytes: of a file, unless one tensor is larger.
  """
  parts, size = [{}], 0
  for key, spec in specs.items():
    size += _num_bytes(*spec)
    if parts[-1] and size > max_bytes:
      parts.append({})
      size = _num_bytes(*spec)
    parts[-1][key] = spec
  if len(parts) == 1:
    write_file(folder / _SINGLE, parts[0], read)
    return
  index = {}
  for i, part in enumerate(parts, 1):
    name = f"model-{i:05d}-of-{len(parts):05d}.safetensors"
    write_file(folder / name, part, read)
    index |= dict.fromkeys(part, name)
  total = sum(_num_bytes(*spec) for spec in specs.values())
  index = {"metadata": {"total_size": total}, "weight_map": index}
  (folder / _INDEX).write_text(json.dumps(index, indent=1) + "\n")


@contextlib.contextmanager
def created(folder: str | pathlib.Path) -> Iterator[pathlib.Path]:
  """A folder to write in, which gets its name when all is written.

  Checksums of its files are written last.

  Raises:
    InputError: there is something of that name, or it cannot be made.
  """
  folder = pathlib.Path(folder).absolute()
  if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
    raise InputError(f"{folder} is there already: remove it or name another.")
  partial = folder.with_name(folder.name + ".partial")
  try:
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
  except OSError as error:
    raise InputError(f"cannot make {folder}: {error}.") from error
  try:
    yield partial
    checksums.write(partial)
    partial.replace(folder)
  except BaseException:
    shutil.rmtree(partial, ignore_errors=True)
    raise


def verify(
  folder: pathlib.Path, covers: Callable[[str], bool], fix: str
) -> None:
  """Compares files of a folder with its checksums, if it has any.

  Args:
    folder: the folder.
    covers: as for `checksums.verify`.
    fix: what to do about a damaged file.

  Raises:
    InputError: a file is damaged.
  """
  try:
    checksums.verify(folder, covers)
  except checksums.DamageError as error:
    raise InputError(f"{error}: {fix}.") from error


def _num_bytes(dtype, shape) -> int:
  return math.prod(shape) * np.dtype(dtype).itemsize


@contextlib.contextmanager
def _opened(path: pathlib.Path) -> Iterator[safe_open]:
  """Opens a safetensors file; InputError for whatever it raises inside."""
  open_file(path, _AGAIN).close()
  with clear_library_errors(f"cannot read {path}", _AGAIN):
    with safe_open(path, "numpy") as file:
      yield file
