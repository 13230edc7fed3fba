"""Pictures, pages and a text box within a notebook.

The pictures of this package are written to files. Here they are shown where a
cell stands, small enough to be kept in the notebook. Needs the extra
`[notebooks]`.
"""

import html
import io
import os
import pathlib
import tempfile
from collections.abc import Callable
from typing import Any

from flexmdm_jax.errors import InputError

# Colours of a picture that is kept in a notebook: a third of its size.
_COLOURS = 128


def show_picture(
  draw: Callable[..., None] | str | os.PathLike,
  *arguments: Any,
  width: int = 720,
  **options: Any,
) -> Any:
  """Draws a picture and shows it: the value of a cell's last line.

  Args:
    draw: a function that writes a PNG file to the path that is its first
      argument, such as `figures.plot_loss`; or a PNG file that is there.
    *arguments: its other arguments.
    width: largest width, in pixels.
    **options: its keyword arguments.

  Returns:
    An image of IPython.

  Raises:
    InputError: a package is missing, or there is no such file.
  """
  _require("IPython")
  from IPython.display import Image
  from PIL import Image as Pixels  # Matplotlib needs it

  with tempfile.TemporaryDirectory() as folder:
    path = draw
    if callable(draw):
      path = pathlib.Path(folder) / "picture.png"
      draw(path, *arguments, **options)
    elif not pathlib.Path(path).is_file():
      raise InputError(f"picture={path} is no file: draw it first.")
    with Pixels.open(path) as pixels:
      shown = pixels.convert("RGB")
  if shown.width > width:
    height = round(shown.height * width / shown.width)
    shown = shown.resize((width, height), Pixels.Resampling.LANCZOS)
  kept = io.BytesIO()
  shown.quantize(_COLOURS).save(kept, format="png", optimize=True)
  return Image(data=kept.getvalue(), format="png")


def show_page(
  write: Callable[..., None] | str | os.PathLike,
  *arguments: Any,
  height: int = 520,
  **options: Any,
) -> Any:
  """Shows a page, such as a trace that plays, in a frame of its own.

  The whole page is kept in the notebook. Where it is not trusted, as on GitHub,
  nothing is shown.

  Args:
    write: a function that writes an HTML file to the path that is its first
      argument, such as `inference.replay.write_page`; or a file that is there.
    *arguments: its other arguments.
    height: height of the frame, in pixels.
    **options: its keyword arguments.

  Returns:
    HTML of IPython.

  Raises:
    InputError: a package is missing, or there is no such file.
  """
  _require("IPython")
  from IPython.display import HTML

  with tempfile.TemporaryDirectory() as folder:
    path = write
    if callable(write):
      path = pathlib.Path(folder) / "page.html"
      write(path, *arguments, **options)
    elif not pathlib.Path(path).is_file():
      raise InputError(f"page={path} is no file: write it first.")
    page = pathlib.Path(path).read_text("utf-8")
  return HTML(_frame(page, height))


def _frame(page: str, height: int) -> str:
  """Makes a frame of a page, which may run its own scripts and no more."""
  return (
    f'<div><iframe srcdoc="{html.escape(page, quote=True)}"'
    f' sandbox="allow-scripts" width="100%" height="{height}"'
    ' style="border:0"></iframe></div>'
  )


def text_box(respond: Callable[[str], str], text: str, button: str) -> Any:
  """Makes a box to write in, and a button that answers what it holds.

  Without the package ipywidgets, or where a notebook cannot show its widgets,
  call `respond` in a cell instead: a line says so.

  Args:
    respond: gives the answer to a text. What it refuses is shown as its line.
    text: what the box holds at first.
    button: what stands on the button.

  Returns:
    A widget, to be a cell's last line; None without ipywidgets.
  """
  name = getattr(respond, "__name__", "the function")
  hint = f"No box above? Call {name}({text!r}) in a cell."
  try:
    import ipywidgets
  except ImportError:
    print(hint)
    return None
  box = ipywidgets.Textarea(
    value=text, layout=ipywidgets.Layout(width="100%", height="5em")
  )
  press = ipywidgets.Button(description=button, button_style="primary")
  answer = ipywidgets.Output()

  def answer_it(_):
    answer.clear_output()
    with answer:
      try:
        print(respond(box.value))
      except InputError as error:
        print(f"error: {error}")

  press.on_click(answer_it)
  return ipywidgets.VBox(
    [box, press, answer, ipywidgets.HTML(f"<small>{html.escape(hint)}</small>")]
  )


def _require(package: str) -> None:
  """Refuses to go on without a package."""
  try:
    __import__(package)
  except ImportError as error:
    raise InputError(
      f"a notebook needs the package {package}: pip install"
      " 'flexmdm_jax[notebooks]'."
    ) from error
