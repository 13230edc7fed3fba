import builtins
import html
import io
import re

import numpy as np
import pytest
from PIL import Image

from flexmdm_jax.errors import InputError
from flexmdm_jax.pictures import figures
from flexmdm_jax.pictures.notebook import show_page, show_picture, text_box


def test_a_picture_is_small_and_within_the_notebook(tmp_path):
  curve = {"FlexMDM": (np.arange(9), 1 / (1 + np.arange(9)))}
  shown = show_picture(figures.plot_loss, curve, ylabel="nats")
  pixels = Image.open(io.BytesIO(shown.data))
  assert pixels.width == 720 and len(shown.data) < 40_000
  figures.plot_loss(tmp_path / "loss.png", curve)
  again = show_picture(tmp_path / "loss.png", width=300)
  assert Image.open(io.BytesIO(again.data)).width == 300
  with pytest.raises(InputError, match=r"none\.png is no file"):
    show_picture(tmp_path / "none.png")


def test_a_page_is_shut_in(tmp_path):
  page = '<p>"a" & b</p><script>1 < 2</script>'
  shown = show_page(lambda path: path.write_text(page), height=300).data
  (within,) = re.findall(r'srcdoc="([^"]*)"', shown)
  assert html.unescape(within) == page
  # Its scripts cannot reach the notebook's own page.
  assert 'sandbox="allow-scripts"' in shown and 'height="300"' in shown
  (tmp_path / "page.html").write_text(page)
  assert show_page(tmp_path / "page.html", height=300).data == shown
  with pytest.raises(InputError, match=r"none\.html is no file"):
    show_page(tmp_path / "none.html")


def fill(text):
  if not text:
    raise InputError("the text is empty: write one.")
  return text.upper()


def test_a_box_answers_what_it_holds(capsys):
  box, press, answer, hint = text_box(fill, "a ___", "Fill").children
  press.click()
  assert "A ___" in capsys.readouterr().out
  box.value = ""
  press.click()
  assert "error: the text is empty" in capsys.readouterr().out
  assert "fill(" in hint.value and not answer.outputs


def test_without_widgets_a_line_says_what_to_do(monkeypatch, capsys):
  real = builtins.__import__

  def without(name, *arguments):
    if name == "ipywidgets":
      raise ImportError(name)
    return real(name, *arguments)

  monkeypatch.setattr(builtins, "__import__", without)
  assert text_box(fill, "a ___", "Fill") is None
  assert "fill('a ___')" in capsys.readouterr().out
