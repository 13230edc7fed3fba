"""Film strips of a sample."""

import numpy as np
import pytest

from flexmdm_jax.errors import InputError
from flexmdm_jax.pictures.growth import growth_rows, plot_growth
from flexmdm_jax.pictures.trace_html import Render, trace_document
from tests.pictures.test_trace_html import make_frames

M = 99
ROWS = [[7], [7, M], [7, 5, M], [7, 5, 6]]


def document():
  return trace_document(
    make_frames(ROWS, frozen=(0,)), np.linspace(0, 1, 4), Render(labels=str)
  )


def test_rows_worked_by_hand():
  assert growth_rows(document()) == [
    [("frozen", "7")],
    [("frozen", "7"), ("inserted", "")],
    [("frozen", "7"), ("revealed", "5"), ("inserted", "")],
    [("frozen", "7"), ("kept", "5"), ("revealed", "6")],
  ]


def test_a_strip_is_drawn(tmp_path):
  for name in ("strip.svg", "strip.png"):
    plot_growth(tmp_path / name, document())
    assert (tmp_path / name).stat().st_size > 1000
  with pytest.raises(InputError, match=r"steps=\[9\]"):
    plot_growth(tmp_path / "x.svg", document(), steps=[9])
  still = trace_document(make_frames([[7], [7]]), [0.0, 1.0])
  with pytest.raises(InputError, match="that changes"):
    plot_growth(tmp_path / "x.svg", still)
  assert not (tmp_path / "x.svg").exists()
