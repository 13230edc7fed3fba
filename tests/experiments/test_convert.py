"""The command that converts pretrained weights."""

import shutil

import numpy as np
from safetensors.numpy import load_file, save_file

from tests.experiments.tools import run
from tests.pretrained import hf

FLEXMDM = hf.ROOT / "tests/golden/dream_flexmdm_tiny"


def test_there_and_back(tmp_path):
  orbax, back = tmp_path / "orbax", tmp_path / "back"
  status, out, err = run(
    "convert",
    f"--input={hf.GOLDEN}",
    f"--output={orbax}",
    f"--retrofit={hf.GOLDEN / 'retrofit.safetensors'}",
    f"--check={hf.GOLDEN / 'retrofit_io.safetensors'}",
  )
  assert status == 0, err
  difference = next(x for x in out.splitlines() if "largest difference" in x)
  assert float(difference.split()[-1]) < 1e-4
  status, _, err = run(
    "convert_llada", "--reverse", f"--input={orbax}", f"--output={back}"
  )
  assert status == 0, err
  for name in ("model.safetensors", "retrofit.safetensors"):
    actual, expected = load_file(back / name), load_file(hf.GOLDEN / name)
    assert set(actual) == set(expected)
    for key, x in expected.items():
      np.testing.assert_array_equal(actual[key], x)
  text = (back / "config.json").read_text()
  assert text == (hf.GOLDEN / "config.json").read_text()


def test_a_flexmdm_by_its_pickled_extras(tmp_path):
  source = tmp_path / "source"
  source.mkdir()
  for name in ("config.json", "model.safetensors", "flexmdm_extras.pt"):
    shutil.copy(FLEXMDM / name, source)
  orbax, back = tmp_path / "orbax", tmp_path / "back"
  status, out, err = run("convert", f"--input={source}", f"--output={orbax}")
  assert status == 0 and "3 layers of 64, 97 ids" in out, err
  status, _, err = run(
    "convert", "--reverse", f"--input={orbax}", f"--output={back}"
  )
  assert status == 0, err
  found = load_file(back / "flexmdm_extras.safetensors")
  expected = load_file(FLEXMDM / "flexmdm_extras.safetensors")
  assert set(found) == set(expected) and not list(back.glob("*.pt"))
  for key, x in expected.items():
    np.testing.assert_array_equal(found[key].astype(np.float32), x)
  (source / "flexmdm_extras.pt").write_bytes(b"cos\nsystem\n.")
  status, _, err = run(
    "convert", f"--input={source}", f"--output={tmp_path / 'none'}"
  )
  lines = [line for line in err.splitlines() if line.strip()]
  assert status == 2 and len(lines) == 1 and "flexmdm_extras.pt" in lines[0]


def test_one_line_that_names_the_value(tmp_path):
  truncated = hf.copy(tmp_path / "truncated")
  hf.BAD["truncated file"][0](truncated)
  save_file({"tokens": np.ones(3)}, tmp_path / "no_logits.safetensors")
  (tmp_path / "full").mkdir()
  (tmp_path / "full" / "precious").write_text("x")
  golden = f"--input={hf.GOLDEN}"
  cases = {
    "no folder": ([f"--input={tmp_path / 'none'}"], "config.json"),
    "truncated": ([f"--input={truncated}"], "model.safetensors"),
    "other weights": (
      [golden, f"--check={hf.GOLDEN / 'retrofit_io.safetensors'}"],
      "the logits differ by",
    ),
    "no logits": (
      [golden, f"--check={tmp_path / 'no_logits.safetensors'}"],
      "must hold input_ids and logits",
    ),
    "full": ([golden, f"--output={tmp_path / 'full'}"], "is there already"),
    "reverse of nothing": ([golden, "--reverse"], "pretrained.json"),
    "file size": ([golden, "--reverse", "--file_gb=0"], "--file_gb=0"),
  }
  for i, (name, (given, message)) in enumerate(cases.items()):
    if not any(flag.startswith("--output") for flag in given):
      given = [*given, f"--output={tmp_path / f'out{i}'}"]
    status, _, err = run("convert", *given)
    lines = [line for line in err.splitlines() if line.strip()]
    assert status == 2, (name, err)
    assert len(lines) == 1 and message in lines[0], (name, err)
  assert (tmp_path / "full" / "precious").read_text() == "x"
