"""The compilation cache of the command line tools, for short second starts.

Compiled programs are kept in a folder and found again by what they compute:
nothing has to be removed after a change of the code, of JAX or of a device.
Several processes may use one folder at the same time.
"""

import hashlib
import os
import pathlib
import platform
import sys
import tempfile

import jax
from absl import flags

# The user's own folder stays below this: at a start it loses the programs that
# were not used longest. A folder that somebody chose is theirs to keep small.
_MOST_BYTES = 4 * 2**30

_FOLDER = flags.DEFINE_string(
  "compilation_cache",
  None,
  "Folder for compiled programs, or off. Else JAX_COMPILATION_CACHE_DIR, or"
  " flexmdm_jax/xla in XDG_CACHE_HOME (~/.cache).",
)


def turn_on() -> None:
  """Keeps compiled programs from here on; a folder that fails is a warning.

  A flag goes before JAX's own environment variables: JAX_COMPILATION_CACHE_DIR
  moves the folder, JAX_ENABLE_COMPILATION_CACHE=false stops it.
  """
  if _FOLDER.value == "off":
    jax.config.update("jax_enable_compilation_cache", False)
  if not jax.config.jax_enable_compilation_cache:
    return
  chosen = _FOLDER.value or jax.config.jax_compilation_cache_dir
  if chosen and "://" in chosen:  # a bucket: JAX reads and writes it alone
    jax.config.update("jax_compilation_cache_dir", chosen)
    return
  folder = pathlib.Path(chosen).expanduser() if chosen else _default_folder()
  try:
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder):
      pass
    if not chosen:
      _trim(folder, _MOST_BYTES)
  except OSError as error:
    jax.config.update("jax_enable_compilation_cache", False)
    print(
      f"warning: the compilation cache {folder} cannot be written"
      f" ({error.strerror}): every start compiles anew. Choose another by"
      " --compilation_cache.",
      file=sys.stderr,
    )
    return
  jax.config.update("jax_compilation_cache_dir", str(folder))
  # Small programs too: a start has dozens.
  if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


def _default_folder() -> pathlib.Path:
  """Names the user's folder for machines like this one.

  A home may be shared by machines whose processors differ, and XLA compiles for
  the one that it runs on.
  """
  home = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
  processor = platform.processor() or platform.machine()
  try:
    lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    processor += next(x for x in lines if x.startswith(("flags", "Features")))
  except (OSError, StopIteration):
    pass
  digest = hashlib.sha256(processor.encode()).hexdigest()[:8]
  return (
    pathlib.Path(home) / "flexmdm_jax/xla" / f"{platform.machine()}-{digest}"
  )


def _trim(folder: pathlib.Path, most: int) -> None:
  """Removes the programs that were not used longest, if there are too many."""
  files = []
  for entry in os.scandir(folder):
    try:
      if entry.name.endswith("-cache"):
        status = entry.stat()
        last = max(status.st_atime, status.st_mtime)
        files.append((last, status.st_size, entry.path))
    except FileNotFoundError:  # another process trims too
      continue
  total = sum(size for _, size, _ in files)
  for _, size, path in sorted(files):
    if total <= most:
      break
    pathlib.Path(path).unlink(missing_ok=True)
    total -= size
