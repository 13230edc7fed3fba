"""Kernels; they live in `kernels/`, beside this file once installed."""

import pathlib

_HERE = pathlib.Path(__file__).parent
__path__ = [str(p) for p in (_HERE / "kernels", _HERE.parent / "kernels")]
