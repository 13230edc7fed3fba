"""Checksums of files, and what they notice."""

import json
import os

import pytest

from flexmdm_jax import checksums
from flexmdm_jax.checksums import DamageError

# Of the files "a" and "b", of ten letters each.
NOTED = {"a": [10, "4c11cdf0"], "b": [10, "422f4cf8"]}


@pytest.fixture
def folder(tmp_path):
  (tmp_path / "a" / "b").mkdir(parents=True)
  (tmp_path / "a" / "b" / "large").write_bytes(os.urandom(9 << 20))
  (tmp_path / "a" / "small").write_bytes(b"123456789")
  (tmp_path / "empty").write_bytes(b"")
  checksums.write(tmp_path)
  return tmp_path


def test_the_note_is_of_sizes_and_crc32(folder):
  noted = json.loads((folder / checksums.NAME).read_text())["crc32"]
  assert set(noted) == {"a/b/large", "a/small", "empty"}
  assert noted["a/small"] == [9, "cbf43926"]  # the check value of CRC-32
  assert noted["empty"] == [0, "00000000"]


def test_unchanged_files_pass_and_new_ones_do_not_matter(folder):
  (folder / "later").write_text("x")
  assert checksums.verify(folder)
  checksums.write(folder)  # again, without a sum of the note itself
  assert checksums.verify(folder)


@pytest.mark.parametrize("place", [0, 5 << 20, -1])
def test_a_flipped_bit_is_named(folder, place):
  path = folder / "a" / "b" / "large"
  content = bytearray(path.read_bytes())
  content[place] ^= 0x10
  path.write_bytes(content)
  with pytest.raises(DamageError, match="large has another content"):
    checksums.verify(folder)
  assert checksums.verify(folder, lambda name: "large" not in name)


def test_a_short_and_a_missing_file_are_named(folder):
  path = folder / "a" / "small"
  path.write_bytes(b"12345678")
  with pytest.raises(DamageError, match="small has 8 bytes instead of 9"):
    checksums.verify(folder)
  path.unlink()
  with pytest.raises(DamageError, match="small cannot be read"):
    checksums.verify(folder)


def test_a_folder_without_a_note_is_unknown(tmp_path):
  assert not checksums.verify(tmp_path)


def test_a_flip_in_the_note_changes_nothing_or_is_damage(tmp_path):
  for name in ("a", "b"):
    (tmp_path / name).write_bytes(name.encode() * 10)
  checksums.write(tmp_path)
  path = tmp_path / checksums.NAME
  content = path.read_bytes()
  damaged = 0
  for place in range(len(content)):
    for bit in range(8):
      changed = bytearray(content)
      changed[place] ^= 1 << bit
      path.write_bytes(changed)
      try:
        checksums.verify(tmp_path)
      except DamageError:
        damaged += 1
      else:  # white space, or a name twice: then the other file's own
        assert json.loads(changed)["crc32"].items() <= NOTED.items()
  assert damaged > 4 * len(content)


def test_a_note_of_something_else_is_damage(folder):
  for text in ("", "{", "[]", "{}", '{"crc32": 1}', '{"crc32": {"a": 1}}'):
    (folder / checksums.NAME).write_text(text)
    with pytest.raises(DamageError, match="is damaged"):
      checksums.verify(folder)


def test_checks_are_off_within_a_block_only(folder):
  (folder / "a" / "small").unlink()
  with checksums.unverified():
    assert checksums.verify(folder)
  with pytest.raises(DamageError):
    checksums.verify(folder)
