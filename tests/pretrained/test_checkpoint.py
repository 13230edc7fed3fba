"""Folders through Orbax and back, tensor by tensor, onto any mesh."""

import json
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from flax import traverse_util
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from safetensors.numpy import load_file

import flexmdm_jax as fm
from flexmdm_jax import checksums
from flexmdm_jax.pretrained import FAMILIES, checkpoint, model_from_config
from flexmdm_jax.pretrained.families import places_of
from flexmdm_jax.pretrained.weights import flat_params
from tests.pretrained import hf
from tests.pretrained.test_families import DREAM

RETROFIT = hf.GOLDEN / "retrofit.safetensors"


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
  """The golden LLaDA with the public retrofit, as an Orbax folder."""
  folder = tmp_path_factory.mktemp("orbax") / "out"
  checkpoint.from_hf(hf.GOLDEN, folder, RETROFIT)
  return folder


def copied(converted, tmp_path):
  return shutil.copytree(converted, tmp_path / "copy")


def weights_of(folder):
  state = {}
  for path in folder.glob("model*.safetensors"):
    state |= load_file(path)
  return state


def assert_identical(actual, expected):
  assert set(actual) == set(expected)
  for key, x in expected.items():
    assert actual[key].dtype == x.dtype, key
    np.testing.assert_array_equal(
      actual[key].view(np.uint8), x.view(np.uint8), err_msg=key
    )


# --- There and back. ---


@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
@pytest.mark.parametrize("shards", [1, 3])
def test_there_and_back(tmp_path, dtype, shards):
  source = hf.copy(tmp_path / "in", shards, dtype=dtype)
  (source / "tokenizer_config.json").write_text("{}")
  expected = weights_of(source)
  checkpoint.from_hf(source, tmp_path / "orbax")
  checkpoint.to_hf(tmp_path / "orbax", tmp_path / "one")
  checkpoint.to_hf(tmp_path / "orbax", tmp_path / "many", max_bytes=300_000)
  for name in ("one", "many"):
    out = tmp_path / name
    assert_identical(weights_of(out), expected)
    for kept in ("config.json", "tokenizer_config.json"):
      assert (out / kept).read_text() == (source / kept).read_text()
    fm.convert.llada_from_hf(out)
  assert not (tmp_path / "one" / hf.INDEX).exists()
  assert len(list((tmp_path / "many").glob("model-*-of-*.safetensors"))) > 2


def test_a_retrofit_comes_back(converted, tmp_path):
  checkpoint.to_hf(converted, tmp_path / "out")
  out = tmp_path / "out"
  assert_identical(weights_of(out), load_file(hf.GOLDEN / "model.safetensors"))
  assert_identical(load_file(out / "retrofit.safetensors"), load_file(RETROFIT))
  again, _ = fm.convert.llada_from_hf(
    out, retrofit=out / "retrofit.safetensors"
  )
  assert again == fm.convert.llada_from_hf(hf.GOLDEN, retrofit=RETROFIT)[0]


def test_another_family(tmp_path):
  """Grouped heads, biases, a tied head."""
  config = {
    **DREAM,
    "vocab_size": 50,
    "mask_token_id": 49,
    "pad_token_id": 48,
    "bos_token_id": 48,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_attention_heads": 4,
    "num_hidden_layers": 3,
    "num_key_value_heads": 2,
    "tie_word_embeddings": True,
  }
  model = model_from_config(config)
  places = places_of(model, FAMILIES["DreamModel"].table)
  assert "lm_head.weight" not in places
  rng = np.random.default_rng(0)
  state = {
    key: rng.normal(size=place.their_shape).astype(np.float32)
    for key, place in places.items()
  }
  (tmp_path / "in").mkdir()
  (tmp_path / "in" / "config.json").write_text(json.dumps(config))
  hf.write(tmp_path / "in", state, shards=2)
  checkpoint.from_hf(tmp_path / "in", tmp_path / "orbax")
  checkpoint.to_hf(tmp_path / "orbax", tmp_path / "out")
  assert_identical(weights_of(tmp_path / "out"), state)

  model, expected = fm.convert.llada_from_hf(tmp_path / "in")
  assert model.begin == 48 and model.tied
  assert expected["blocks"]["k"]["bias"].shape == (3, 2, 4)
  abstract = checkpoint.spread(checkpoint.load_model(tmp_path / "orbax"))
  params = checkpoint.load(tmp_path / "orbax", abstract)
  jax.tree.map(np.testing.assert_array_equal, params, expected)


# --- Onto a mesh. ---


def test_onto_a_mesh(converted):
  model, expected = fm.convert.llada_from_hf(hf.GOLDEN, retrofit=RETROFIT)
  assert checkpoint.load_model(converted) == model
  mesh = jax.make_mesh((2, 4), ("a", "b"), axis_types=(AxisType.Auto,) * 2)

  def place(x):
    # Split wherever it divides; layers too.
    axes = [
      name if size % mesh.shape[name] == 0 else None
      for size, name in zip(x.shape, ("a", "b"), strict=False)
    ]
    sharding = NamedSharding(mesh, PartitionSpec(*axes))
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)

  abstract = jax.tree.map(place, expected)
  params = checkpoint.load(converted, abstract)
  jax.tree.map(np.testing.assert_array_equal, params, expected)
  placed = jax.tree.map(
    lambda x, wanted: x.sharding.is_equivalent_to(wanted.sharding, x.ndim),
    params,
    abstract,
  )
  assert all(jax.tree.leaves(placed))
  kernel = params["blocks"]["gate"]["kernel"]
  assert kernel.sharding.spec == PartitionSpec("a", "b")


@pytest.mark.slow
def test_into_another_type(converted):
  model = checkpoint.load_model(converted, param_dtype=jnp.bfloat16)
  params = checkpoint.load(converted, checkpoint.spread(model))
  assert params["embed"].dtype == jnp.bfloat16
  assert len(params["embed"].sharding.device_set) == 8


def test_into_a_network_with_a_retrofit_to_train(tmp_path):
  checkpoint.from_hf(hf.GOLDEN, tmp_path / "base")
  model = checkpoint.load_model(
    tmp_path / "base", gap_head="log_rate", time_group=8, lora=fm.LoRA(rank=2)
  )
  params = checkpoint.load(tmp_path / "base", checkpoint.spread(model))
  missing = set(flat_params(model)) - set(
    traverse_util.flatten_dict(params, sep="/")
  )
  assert missing == {
    path
    for path in flat_params(model)
    if model.trainable(tuple(path.split("/")))
  }


# --- What is wrong. ---


@pytest.mark.parametrize("name", hf.BAD)
def test_bad_folders(tmp_path, name):
  spoil, named = hf.BAD[name]
  folder = hf.copy(tmp_path / "in")
  spoil(folder)
  with pytest.raises(fm.InputError) as error:
    checkpoint.from_hf(folder, tmp_path / "out")
  assert named in str(error.value) and "\n" not in str(error.value)
  assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_a_failure_leaves_nothing(tmp_path):
  folder = hf.copy(tmp_path / "in")
  # Only seen when the blocks of one array are written.
  key = "model.transformer.blocks.4.q_proj.weight"
  hf.edit_weights(folder, lambda x: x.update({key: x[key].astype(np.float16)}))
  with pytest.raises(fm.InputError, match=r"blocks.*float16|float16.*blocks"):
    checkpoint.from_hf(folder, tmp_path / "out")
  assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_earlier_output_stays(tmp_path):
  (tmp_path / "out").mkdir()
  (tmp_path / "out" / "precious").write_text("x")
  with pytest.raises(fm.InputError, match="is there already"):
    checkpoint.from_hf(hf.GOLDEN, tmp_path / "out")
  assert (tmp_path / "out" / "precious").read_text() == "x"


def load_error(folder, **options):
  with pytest.raises(fm.InputError) as error:
    model = checkpoint.load_model(folder, **options)
    checkpoint.load(folder, checkpoint.spread(model))
  assert "\n" not in str(error.value)
  return str(error.value)


def test_no_folder(tmp_path):
  assert "pretrained.json" in load_error(tmp_path / "missing")
  with pytest.raises(fm.InputError, match=r"pretrained\.json"):
    checkpoint.to_hf(tmp_path / "missing", tmp_path / "out")


def test_another_network(converted):
  assert "gap_head/in/bias" in load_error(converted, gap_head=None)
  line = load_error(converted, mlp_size=128)
  assert "blocks/down/kernel" in line and "[10, 96, 64]" in line


def test_a_lost_file(converted, tmp_path):
  folder = copied(converted, tmp_path)
  (folder / "params" / "blocks.q.kernel" / "3.0.0.0").unlink()
  assert "convert it again" in load_error(folder)


def test_layers_that_changed_places(converted, tmp_path):
  folder = copied(converted, tmp_path)
  array = folder / "params" / "blocks.q.kernel"
  shutil.copy(array / "3.0.0.0", array / "4.0.0.0")
  assert "/4.0.0.0 has " in load_error(folder)
  (folder / checksums.NAME).unlink()  # as of an older version
  assert "blocks/q/kernel" in load_error(folder)


def flip(path):
  content = bytearray(path.read_bytes())
  content[len(content) // 2] ^= 1
  path.write_bytes(content)


def test_a_flipped_bit_of_an_array(converted, tmp_path):
  folder = copied(converted, tmp_path)
  flip(folder / "params" / "blocks.q.kernel" / "3.0.0.0")
  assert "3.0.0.0 has another content than was written" in load_error(folder)
  with pytest.raises(fm.InputError, match=r"3\.0\.0\.0.*convert it again"):
    checkpoint.to_hf(folder, tmp_path / "back")


def test_an_array_that_is_not_read_is_not_looked_at(converted, tmp_path):
  folder = copied(converted, tmp_path)
  flip(folder / "params" / "blocks.q.kernel" / "3.0.0.0")
  abstract = checkpoint.spread(checkpoint.load_model(folder))
  params = checkpoint.load(folder, abstract, lambda path: path == ("embed",))
  assert list(params) == ["embed"]


def test_a_flipped_bit_of_a_safetensors_file(converted, tmp_path):
  checkpoint.to_hf(converted, tmp_path / "back")
  (tmp_path / "back" / "config.json").open("a").write("\n")  # may be edited
  for name in ("model.safetensors", "retrofit.safetensors"):
    folder = shutil.copytree(tmp_path / "back", tmp_path / name)
    flip(folder / name)
    with pytest.raises(fm.InputError, match=rf"{name} has another content"):
      checkpoint.from_hf(
        folder, tmp_path / "out", folder / "retrofit.safetensors"
      )


# --- Memory. ---

# Under 1 GiB of weights, the largest tensor 64 MiB.
_MAKE = """
import json, pathlib, sys
import ml_dtypes, numpy as np
from flexmdm_jax.pretrained import folder, families
from tests.pretrained import hf
out = pathlib.Path(sys.argv[1])
config = json.loads((hf.GOLDEN / "config.json").read_text())
config |= dict(d_model=1024, n_heads=8, n_kv_heads=8, n_layers=24,
               mlp_hidden_size=4096, vocab_size=32768, embedding_size=32768)
(out / "config.json").write_text(json.dumps(config))
model = families.model_from_config(config)
places = families.places_of(model, families.FAMILIES["LLaDAModelLM"].table)
noise = np.random.default_rng(0).normal(size=1 << 20).astype(ml_dtypes.bfloat16)
specs = {key: (noise.dtype, place.their_shape) for key, place in places.items()}
read = lambda key: np.resize(noise, specs[key][1])
folder.write_files(out, specs, read, max_bytes=200 << 20)
"""
# The same size, as a FlexMDM with pickled extras.
_MAKE_FLEXMDM = """
import json, math, pathlib, sys
import ml_dtypes, numpy as np
from flexmdm_jax.pretrained import dream_flexmdm, folder, families
from tests.pretrained import archives, hf
out = pathlib.Path(sys.argv[1])
golden = hf.ROOT / "tests/golden/dream_flexmdm_tiny"
config = json.loads((golden / "config.json").read_text())
config |= dict(hidden_size=1024, num_attention_heads=8, num_key_value_heads=8,
               num_hidden_layers=21, intermediate_size=4096, vocab_size=32768)
(out / "config.json").write_text(json.dumps(config))
model = dream_flexmdm.extended(families.model_from_config(config), config)
places = families.places_of(model, families.FAMILIES["DreamModel"].table)
added = set(families.added_to(model, places).keys)
noise = np.random.default_rng(0).normal(size=1 << 20).astype(ml_dtypes.bfloat16)
def read(key):
  shape = places[key].their_shape
  return np.resize(noise, math.prod(shape)).reshape(shape)
specs = {key: (noise.dtype, places[key].their_shape)
         for key in places if key not in added}
folder.write_files(out, specs, read, 200 << 20)
pairs, storages = [], {}
for i, key in enumerate(sorted(added)):
  value = read(key)
  strides = (value.shape[-1], 1)[-value.ndim:]
  pairs.append((key, archives.tensor(value.shape, strides, size=value.size,
                                     kind=b"BFloat16Storage", key=str(i))))
  storages[str(i)] = value.tobytes()
archives.archive(out / "flexmdm_extras.pt", archives.program(*pairs), storages)
"""

_CONVERT = """
import pathlib, re, sys
import jax
from flexmdm_jax.pretrained import FAMILIES, checkpoint, model_from_config
from flexmdm_jax.pretrained.families import places_of
from tests.pretrained import hf
# Not ru_maxrss, which a process has from its parent.
def peak():
  status = pathlib.Path("/proc/self/status").read_text()
  return int(re.search(r"VmHWM:\\s+(\\d+) kB", status)[1]) << 10
source, middle, small, out = sys.argv[1:]
if source != "-":
  checkpoint.from_hf(hf.GOLDEN, small)  # what is loaded once
  before = peak()
  checkpoint.from_hf(source, middle)
else:
  checkpoint.to_hf(small, small + "_back")
  before = peak()
  checkpoint.to_hf(middle, out, max_bytes=200 << 20)
print(peak() - before)
"""


@pytest.mark.slow
@pytest.mark.parametrize("make", [_MAKE, _MAKE_FLEXMDM], ids=["llada", "pt"])
def test_memory_is_that_of_the_largest_tensor(tmp_path, make):
  def run(text, *arguments):
    arguments = [str(argument) for argument in arguments]
    done = subprocess.run(
      [sys.executable, "-c", text, *arguments],
      capture_output=True,
      text=True,
      check=False,
      env={"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(hf.ROOT)},
    )
    assert not done.returncode, done.stderr
    return done.stdout

  source, middle, small, out = (tmp_path / name for name in "abcd")
  source.mkdir()
  run(make, source)
  total = sum(path.stat().st_size for path in source.iterdir())
  assert len(list(source.glob("*.safetensors"))) > 3
  largest = 64 << 20
  there = int(run(_CONVERT, source, middle, small, out))
  back = int(run(_CONVERT, "-", middle, small, out))
  print(f"{total >> 20} MiB: {there >> 20} MiB there, {back >> 20} MiB back")
  assert min(there, back) > largest  # it is measured at all
  assert max(there, back) < 1.5 * largest + (256 << 20) < total / 2
  for path in source.glob("*.safetensors"):
    assert path.read_bytes() == (out / path.name).read_bytes()
