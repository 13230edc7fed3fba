"""Says what is installed here, and what is missing: `python -m flexmdm_jax`."""

import importlib.metadata
import os
import re
import sys

import jax

from flexmdm_jax import files

_NAME = "flexmdm_jax"
# "package[its extra]>=version; extra == 'ours'"
_LINE = re.compile(
  r"""([\w.-]+)(?:\[([\w-]+)\])?[^;]*;.*extra == ["']([\w-]+)["']"""
)


def extras(package: str = _NAME) -> dict[str, dict[str, str | None]]:
  """Finds the packages of a package's extras.

  Args:
    package: an installed package.

  Returns:
    extra -> package -> its version, or None where it is missing.
  """
  found = {}
  for line in importlib.metadata.requires(package) or []:
    if match := _LINE.match(line):
      name, its_extra, extra = match.groups()
      packages = found.setdefault(extra, {})
      packages[name] = _version(name)
      if its_extra and packages[name] and name != package:
        packages.update(extras(name).get(its_extra, {}))
  return found


def _version(package: str) -> str | None:
  """Finds the version of a package; None if it is missing."""
  try:
    return importlib.metadata.version(package)
  except importlib.metadata.PackageNotFoundError:
    return None


def main() -> None:
  """Prints versions, devices, and the packages that each extra lacks."""
  versions = {_NAME: _version(_NAME), **files.versions()}
  for name, version in versions.items():
    print(f"{name}: {version}")
  kinds = [device.device_kind for device in jax.devices()]
  print(f"devices: {len(kinds)} ({', '.join(sorted(set(kinds)))})")
  for extra, packages in extras().items():
    missing = [name for name, version in packages.items() if version is None]
    print(
      f"extra [{extra}]: "
      + (
        f"lacks {', '.join(missing)}: pip install '{_NAME}[{extra}]'"
        if missing
        else "complete"
      )
    )


if __name__ == "__main__":
  try:
    main()
    sys.stdout.flush()
  except BrokenPipeError:  # the reader has read enough, as `head` does
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
