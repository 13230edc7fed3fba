"""Shows a name once in the API: where it is defined, not where it is exported.

The top package is the exception: its page lists what `fm.` offers.
"""

import griffe

_HIDDEN = ("__all__", "__version__", "__post_init__")


class Once(griffe.Extension):
  """Hides what a subpackage exports of its own modules, and some methods."""

  def on_package(self, *, pkg: griffe.Module, **_):
    """Marks these names as not public, all through the package."""
    _hide(pkg, exports=False)


def _hide(parent: griffe.Module | griffe.Class, exports: bool) -> None:
  for name, member in parent.members.items():
    if member.is_alias:
      if exports:
        member.public = False
    elif name in _HIDDEN:
      member.public = False
    elif member.is_class or member.is_module:
      _hide(member, exports=member.is_module and member.is_init_module)
