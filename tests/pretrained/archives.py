"""Archives as `torch.save` writes them, instruction by instruction."""

import struct
import zipfile

import numpy as np

REBUILD = b"ctorch._utils\n_rebuild_tensor_v2\n"
ORDERED = b"ccollections\nOrderedDict\n)R"


def text(value):
  return b"X" + struct.pack("<I", len(value)) + value.encode()


def whole(value):
  return b"J" + struct.pack("<i", value)


def tensor(
  shape=(2, 3),
  strides=(3, 1),
  offset=0,
  size=6,
  kind=b"FloatStorage",
  key="0",
  rebuild=REBUILD,
  hooks=ORDERED,
):
  """The instructions of one tensor, as torch writes them."""
  storage = b"(" + text("storage") + b"ctorch\n" + kind + b"\n" + text(key)
  storage += text("cpu") + whole(size) + b"tQ"
  axes = b"".join(
    b"(" + b"".join(map(whole, x)) + b"t" for x in (shape, strides)
  )
  values = storage + whole(offset) + axes + b"\x89" + hooks
  return rebuild + b"(" + values + b"tR"


def program(*pairs, before=b"", protocol=2):
  body = b"".join(text(key) + value for key, value in pairs)
  return bytes([0x80, protocol]) + before + b"}(" + body + b"u."


def archive(path, content, storages=None, compression=zipfile.ZIP_STORED):
  """Writes an archive of a pickle and its storages."""
  if storages is None:
    storages = {"0": np.arange(6, dtype=np.float32).tobytes()}
  with zipfile.ZipFile(path, "w", compression) as file:
    file.writestr("extras/data.pkl", content)
    file.writestr("extras/byteorder", "little")
    for key, data in storages.items():
      file.writestr(f"extras/data/{key}", data)
  return path
