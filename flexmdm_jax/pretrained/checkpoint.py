"""Pretrained weights as an Orbax folder, written and read tensor by tensor.

A network of eight billion parameters is converted in the memory of its largest
tensor: each tensor goes from its safetensors file to its place in the stacked
array on the disk. `load` restores them from there onto any mesh.

  FOLDER/params/          Orbax, one array a parameter
  FOLDER/pretrained.json  the network's config, and samples of the arrays
  FOLDER/source/          the other files of the Hugging Face folder

`flexmdm_checksums.json` notes what all of them are to be.
"""

import contextlib
import json
import logging
import math
import pathlib
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
import tensorstore as ts
from flax import traverse_util

from flexmdm_jax.errors import InputError
from flexmdm_jax.models import quantization
from flexmdm_jax.models.transformer import Transformer
from flexmdm_jax.pretrained import families, source, weights
from flexmdm_jax.pretrained import folder as folders
from flexmdm_jax.pretrained.source import Source
from flexmdm_jax.reading import Keys, read_json

_PARAMS, ABOUT, SOURCE = "params", "pretrained.json", "source"
# A device that holds a part of an array reads the chunks that hold the part.
_CHUNK_BYTES = 32 << 20
_SAMPLES = 16
# Keys of the description that the network needs, and its parameters.
_NETWORK: Keys = {
  "config": dict,
  "retrofit": (dict, type(None)),
  "flexmdm": (bool, type(None)),
}
_VALUES: Keys = {"samples": dict}
_WEIGHT_FILES = {".safetensors", ".bin", ".pt", ".pth", ".gguf", ".h5"}
_FILE_BYTES = 5 << 30


def from_hf(
  folder: str | pathlib.Path,
  output: str | pathlib.Path,
  retrofit_file: str | pathlib.Path | None = None,
) -> Transformer:
  """Converts a Hugging Face folder; nothing in it is executed.

  Args:
    folder: holds `config.json` and safetensors files; a FlexMDM's, its extras
      as well.
    output: folder to make; it must be empty or not exist.
    retrofit_file: safetensors file of the tensors that a retrofit adds.

  Returns:
    The network.

  Raises:
    InputError: `source.read` refuses the folder, or the output cannot be made.
  """
  found = source.read(folder, retrofit_file)
  leaves: dict[str, _Leaf] = {}
  for path, stored in weights.flat_params(found.model).items():
    leaves[path] = _Leaf(found, stored.shape)
  for key, place in found.places.items():
    leaves[place.row.ours].add(key, place)
  with folders.created(output) as path:
    _write(path / _PARAMS, traverse_util.unflatten_dict(leaves, sep="/"))
    about = {
      "config": found.config,
      "retrofit": found.retrofit,
      "flexmdm": found.model.shifted,
      "samples": {name: leaf.samples for name, leaf in leaves.items()},
    }
    (path / ABOUT).write_text(json.dumps(about, indent=1) + "\n")
    _copy_others(pathlib.Path(folder), path / SOURCE)
  return found.model


def to_hf(
  folder: str | pathlib.Path,
  output: str | pathlib.Path,
  max_bytes: int = _FILE_BYTES,
) -> None:
  """Converts a folder of `from_hf` back to a Hugging Face folder.

  Args:
    folder: a folder that `from_hf` made.
    output: folder to make; it must be empty or not exist. A retrofit's tensors
      go to `retrofit.safetensors`, a FlexMDM's to `flexmdm_extras.safetensors`.
    max_bytes: largest size of one file of weights.

  Raises:
    InputError: `from_hf` did not make the folder, or it is damaged; the output
      cannot be made.
  """
  folder = pathlib.Path(folder)
  about = _about(folder, _NETWORK)
  arrays = _Arrays(folder / _PARAMS)
  _verify_files(folder, arrays.shapes)
  model = _model(about, arrays)
  base = families.family_of(about["config"]).table
  places = families.places_of(model, base)
  added = families.added_to(model, places)

  def read(key):
    place = places[key]
    return place.row.to_theirs(arrays.read(place.row.ours, place.index))

  def specs(keys):
    return {
      key: (arrays.dtype(places[key].row.ours), places[key].their_shape)
      for key in keys
    }

  with folders.created(output) as path:
    for file in (folder / SOURCE).iterdir():
      shutil.copy(file, path)
    base_keys = [key for key in places if key not in added.keys]
    folders.write_files(path, specs(base_keys), read, max_bytes)
    if added.keys:
      folders.write_file(
        path / added.file, specs(sorted(added.keys)), read, about["retrofit"]
      )


def load_model(folder: str | pathlib.Path, **options: Any) -> Transformer:
  """Builds the network of a folder of `from_hf`, without its parameters.

  Args:
    folder: a folder that `from_hf` made.
    **options: further fields of `Transformer`, or other values of its fields,
      such as those of the retrofit that is to be trained.

  Raises:
    InputError: `from_hf` did not make the folder; a field is wrong.
  """
  folder = pathlib.Path(folder)
  model = _model(_about(folder, _NETWORK), _Arrays(folder / _PARAMS))
  return model.clone(**options)


def load(
  folder: str | pathlib.Path,
  abstract: Mapping[str, Any],
  wanted: Callable[[tuple[str, ...]], bool] = lambda path: True,
) -> dict:
  """Restores a network's parameters onto a mesh, and verifies them.

  Args:
    folder: a folder that `from_hf` made.
    abstract: `jax.ShapeDtypeStruct`s with shardings, in the tree of the
      parameters. It may have what the folder lacks: the parts of a retrofit.
    wanted: tells whether to read the parameter at a path.

  Returns:
    Those parameters of `abstract` that are wanted and that the folder has, in
    the types asked for. Kernels that are to be int8 are quantised, one stack
    after another.

  Raises:
    InputError: `from_hf` did not make the folder, or it is damaged; it has an
      array that `abstract` lacks, or one of another shape.
  """
  folder = pathlib.Path(folder).expanduser()
  _about(folder, _VALUES)
  arrays = _Arrays(folder / _PARAMS)
  stored = arrays.shapes
  known = traverse_util.flatten_dict(dict(abstract), sep="/")
  if unknown := set(stored) - set(known):
    raise InputError(
      f"{folder} has {weights.names(unknown)}, which the model lacks."
    )
  for path, shape in stored.items():
    if shape != known[path].shape:
      raise InputError(
        f"{folder} has {path} of the shape {list(shape)}, but the model needs"
        f" {list(known[path].shape)}."
      )
  target = {
    path: known[path] for path in stored if wanted(tuple(path.split("/")))
  }
  if not target:
    return {}
  _verify_files(folder, target)
  whole = set(quantization.int8_paths(target))
  flat = _restore(folder, {k: target[k] for k in target if k not in whole})
  for path in sorted(whole):
    read = target[path].update(dtype=arrays.dtype(path))
    flat |= quantization.quantized(
      path, _restore(folder, {path: read})[path], abstract
    )
  return traverse_util.unflatten_dict(flat, sep="/")


def _restore(folder: pathlib.Path, flat: Mapping[str, Any]) -> dict[str, Any]:
  """Restores parameters of a folder, by path, and verifies them."""
  if not flat:
    return {}
  target = traverse_util.unflatten_dict(dict(flat), sep="/")
  try:
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
      params = checkpointer.restore(
        (folder / _PARAMS).absolute(),
        args=ocp.args.PyTreeRestore(
          target,
          restore_args=ocp.checkpoint_utils.construct_restore_args(target),
          partial_restore=True,
        ),
      )
  except Exception as error:  # whatever a damaged file makes Orbax raise
    raise InputError(
      f"{folder} cannot be read ({str(error)[:200]}): convert it again."
    ) from error
  verify(folder, params)
  return traverse_util.flatten_dict(params, sep="/")


def _verify_files(folder: pathlib.Path, paths: Iterable[str]) -> None:
  """Compares the files of some parameters with their checksums."""
  arrays = {f"{_PARAMS}/{path.replace('/', '.')}" for path in paths}
  folders.verify(
    folder,
    lambda name: name == ABOUT or name.rpartition("/")[0] in arrays,
    "convert it again",
  )


def verify(folder: str | pathlib.Path, params: Mapping[str, Any]) -> None:
  """Compares samples of parameters with the tensors that were converted.

  A restored array is not trusted unseen: each device's part is looked at where
  `from_hf` took a sample. Nothing passes between devices.

  Args:
    folder: a folder that `from_hf` made.
    params: all or some of its parameters, wherever they lie.

  Raises:
    InputError: a parameter differs from its tensor.
  """
  folder = pathlib.Path(folder)
  samples = _about(folder, _VALUES)["samples"]
  for path, x in traverse_util.flatten_dict(dict(params), sep="/").items():
    try:
      expected = np.array(samples.get(path), np.float64).reshape(-1)
    except (TypeError, ValueError, OverflowError):
      expected = np.zeros(0)
    slices, *shape = x.shape if _stacked(path) else (1, *x.shape)
    points = np.stack(_points(shape), axis=-1)
    if _stacked(path):
      points = np.concatenate(
        [np.insert(points, 0, i, axis=1) for i in range(slices)]
      )
    if expected.size != len(points):
      raise InputError(
        f"{folder / ABOUT} has no samples of {path}: convert the model again."
      )
    for shard in x.addressable_shards:
      bounds = [
        i.indices(n)[:2] for i, n in zip(shard.index, x.shape, strict=True)
      ]
      start, stop = np.transpose(bounds)
      here = ((points >= start) & (points < stop)).all(axis=-1)
      found = shard.data[tuple((points[here] - start).T)]
      # As far apart as rounding to another type takes them.
      if not np.allclose(
        np.asarray(found, np.float32), expected[here], rtol=1e-2, atol=1e-6
      ):
        raise InputError(
          f"{folder}: {path} is not what was converted; convert it again."
        )


def spread(model: Transformer) -> dict:
  """Makes abstract parameters, each split over all devices where it divides.

  Good enough to run a network that fits no single device; training has `Rules`.
  """
  num = jax.device_count()
  mesh = jax.make_mesh(
    (num,), ("all",), axis_types=(jax.sharding.AxisType.Auto,)
  )

  def one(x):
    axes = [i for i, size in enumerate(x.shape) if size % num == 0]
    largest = max(axes, key=lambda i: x.shape[i], default=None)
    spec = ["all" if i == largest else None for i in range(x.ndim)]
    sharding = jax.sharding.NamedSharding(
      mesh, jax.sharding.PartitionSpec(*spec)
    )
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)

  flat = weights.flat_params(model)
  return traverse_util.unflatten_dict(
    {path: one(x) for path, x in flat.items()}, sep="/"
  )


class _Leaf:
  """Parameter that is still in safetensors files.

  Attributes:
    samples: sample of each tensor's numbers, once it is written; see `verify`.
  """

  def __init__(self, found: Source, shape: tuple[int, ...]):
    self._found, self.shape = found, shape
    self._keys: dict[int | None, list[str]] = {}
    self.samples: list[list[float]] = []

  def add(self, key, place):
    self._keys.setdefault(place.index, []).append(key)

  @property
  def dtype(self) -> np.dtype:
    dtypes = self._found.tensors.dtypes
    first, *others = {dtypes[keys[0]] for keys in self._keys.values()}
    if others:
      raise InputError(
        f"{next(iter(self._keys.values()))[0]} and those of other blocks are of"
        f" the types {first} and {others[0]}: they must be of one."
      )
    return np.dtype(first)

  def parts(self) -> Iterator[tuple[int | None, np.ndarray]]:
    """Yields pairs (index in the stack, array), one tensor after another."""
    for index, (first, *others) in self._keys.items():
      tensors = self._found.tensors
      tensor = tensors[first]
      for key in others:
        weights.require_equal(key, tensors[key], first, tensor)
      place = self._found.places[first]
      value = place.row.to_ours(tensor, place.shape)
      sample = value[_points(value.shape)].astype(np.float32)
      self.samples.append(sample.tolist())
      yield index, value

  def chunks(self) -> list[int]:
    """Returns the shape of the chunks on the disk: no two tensors share one."""
    chunks = list(self.shape)
    stacked = None not in self._keys
    if stacked:
      chunks[0] = 1
    if len(chunks) > stacked:
      row = math.prod(chunks[stacked + 1 :]) * self.dtype.itemsize
      chunks[stacked] = min(chunks[stacked], max(1, _CHUNK_BYTES // row))
    return chunks


class _LeafHandler(ocp.type_handlers.NumpyHandler):
  """Orbax handler that writes a `_Leaf` like a numpy array, part by part."""

  async def serialize(self, values, infos, args=None):
    for leaf, info in zip(values, infos, strict=True):
      await info.await_path_creation()
      array = await ts.open(
        {
          **_array_spec(info.parent_dir / info.name),
          "metadata": {
            "shape": leaf.shape,
            "chunks": leaf.chunks(),
            "compressor": {"id": "zstd", "level": 1},
          },
          # A chunk that is not there is then known to be lost.
          "store_data_equal_to_fill_value": True,
        },
        dtype=ts.dtype(leaf.dtype.name),
        create=True,
      )
      for index, part in leaf.parts():
        at = array if index is None else array[index]
        await at.write(part, can_reference_source_data_indefinitely=True)
    return []


class _Arrays:
  """Arrays of an Orbax folder, which can be read in part."""

  def __init__(self, folder: pathlib.Path):
    self.folder = folder
    try:
      with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
        tree = checkpointer.metadata(folder.absolute()).item_metadata.tree
    except Exception as error:  # whatever a damaged file makes Orbax raise
      raise InputError(
        f"{folder} cannot be read ({str(error)[:200]}): convert it again."
      ) from error
    self._metadata = traverse_util.flatten_dict(tree, sep="/")
    self.shapes = {k: tuple(x.shape) for k, x in self._metadata.items()}

  def dtype(self, path: str) -> np.dtype:
    return np.dtype(self._metadata[path].dtype)

  def read(self, path: str, index: int | None) -> np.ndarray:
    spec = _array_spec(self.folder.absolute() / path.replace("/", "."))
    array = ts.open(spec, open=True).result()
    return (array if index is None else array[index]).read().result()


def _write(folder: pathlib.Path, tree: Mapping[str, Any]) -> None:
  """Writes a tree of `_Leaf`s as an Orbax folder."""
  with _quiet_orbax():
    handler = ocp.PyTreeCheckpointHandler(
      use_ocdbt=False,
      type_handler_registry=ocp.type_handlers.create_type_handler_registry(
        (_Leaf, _LeafHandler())
      ),
    )
    with ocp.Checkpointer(handler) as checkpointer:
      checkpointer.save(folder, args=ocp.args.PyTreeSave(tree))


@contextlib.contextmanager
def _quiet_orbax() -> Iterator[None]:
  """Silences Orbax's warnings that this is not the way it mostly writes."""
  logger = logging.getLogger("absl")
  level = logger.level
  logger.setLevel(logging.ERROR)
  try:
    yield
  finally:
    logger.setLevel(level)


def _array_spec(path) -> dict[str, Any]:
  kvstore = {"driver": "file", "path": f"{path}/"}
  return {"driver": "zarr", "kvstore": kvstore}


def _about(folder: pathlib.Path, keys: Keys) -> dict[str, Any]:
  """Reads the description that `from_hf` wrote, which must have `keys`."""
  path = folder / ABOUT
  if not path.exists():
    raise InputError(
      f"{folder} holds no {ABOUT}: convert a Hugging Face folder with"
      " experiments.convert first."
    )
  return read_json(path, keys, "convert the model again")


def _model(about: Mapping[str, Any], arrays: _Arrays) -> Transformer:
  model = source.rebuilt(
    about["config"],
    about["retrofit"],
    arrays.shapes,
    bool(about.get("flexmdm")),
  )
  if "embed" not in arrays.shapes:
    raise InputError(f"{arrays.folder} lacks embed: convert the model again.")
  dtype = arrays.dtype("embed")
  return model.clone(dtype=dtype, param_dtype=dtype)


def _stacked(path: str) -> bool:
  """Returns whether a parameter is stacked over blocks or groups of them."""
  return path.startswith(("blocks/", "modulation/"))


def _points(shape: Sequence[int]) -> tuple[np.ndarray, ...]:
  """Indices, along each axis, of the numbers that are sampled of an array."""
  flat = np.linspace(0, math.prod(shape) - 1, _SAMPLES).astype(np.int64)
  return np.unravel_index(flat, shape)


def _copy_others(folder: pathlib.Path, output: pathlib.Path) -> None:
  """Copies the files that `transformers` needs beside the weights."""
  output.mkdir()
  for path in folder.iterdir():
    weight = path.suffix in _WEIGHT_FILES or path.name.endswith(".index.json")
    if path.is_file() and not weight:
      shutil.copyfile(path, output / path.name)
