"""The demo's page, drawn by gradio, with one tab for each thing to do.

It asks nothing of other hosts: system fonts, no analytics, no uploads.
"""

import html
import importlib.util
import os
import socket
from typing import Any

from flexmdm_jax.demo import render, server
from flexmdm_jax.demo.bounds import MARK, doubled
from flexmdm_jax.demo.writer import OWN, Choices, Writer
from flexmdm_jax.errors import InputError
from flexmdm_jax.models.parameters import num_parameters

_FONTS = ("system-ui", "sans-serif")
_MONO = ("ui-monospace", "monospace")
_CSS = """
footer, .fx-hidden {display: none !important}
.gradio-container {max-width: 1100px !important; margin: 0 auto !important}
"""


def require_gradio() -> None:
  """Refuses to go on without the package that draws the page."""
  if importlib.util.find_spec("gradio") is None:
    raise InputError(
      "the demo needs the package gradio: pip install 'flexmdm_jax[demo]'."
    )


def serve(writer: Writer, name: str, port: socket.socket) -> None:
  """Serves the page of a model until it is interrupted.

  Args:
    writer: the model.
    name: what it is called, plain text.
    port: where, from `server.listen`.
  """
  server.serve(application(writer, name), port)


def application(writer: Writer, name: str) -> server.App:
  """Makes the page's application; `server.guarded` is to shut it in.

  Args:
    writer: the model.
    name: what it is called, plain text.
  """
  # Read when the package is imported.
  os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
  import fastapi
  import gradio

  blocks = _page(gradio, writer, name)
  blocks.queue(
    max_size=writer.bounds.waiting, default_concurrency_limit=1, api_open=False
  )
  theme = gradio.themes.Default(font=_FONTS, font_mono=_MONO)
  return gradio.mount_gradio_app(
    fastapi.FastAPI(),
    blocks,
    "/",
    server_name=server.HOST,
    allowed_paths=[],
    blocked_paths=["/"],
    css=_CSS + render.CSS,
    enable_monitoring=False,
    footer_links=[],
    max_file_size=1,
    run_history=False,
    show_error=False,
    ssr_mode=False,
    theme=theme,
  )


def _page(gradio: Any, writer: Writer, name: str) -> Any:
  """Lays out the page."""
  bounds, model = writer.bounds, writer.model
  blocks = gradio.Blocks(title=f"FlexMDM: {name}", analytics_enabled=False)
  words = "text" if model.tokenizer else "token ids, with spaces between them"

  def box(label, placeholder, lines):
    return gradio.Textbox(
      label=label,
      placeholder=placeholder,
      lines=lines,
      max_lines=12,
      max_length=bounds.characters,
    )

  def run(write, button, stop, inputs, out):
    # Only what is written as a generator is shown as it goes on.
    def stream(*values):
      yield from write(*values)

    event = button.click(
      stream,
      inputs,
      out,
      concurrency_id="model",
      concurrency_limit=1,
      show_progress="hidden",
      api_visibility="private",
    )
    stop.click(None, cancels=[event], queue=False, api_visibility="private")

  def buttons(word):
    with gradio.Row():
      return gradio.Button(word, variant="primary"), gradio.Button("Stop")

  with blocks:
    gradio.HTML(_heading(writer, name))
    with gradio.Tab("Prompt"):
      text = box(
        "The beginning",
        f"The beginning of a sample, as {words}; empty for one from nothing",
        2,
      )
      chat = gradio.Checkbox(
        False,
        label="Answer as in a chat",
        visible=model.template is not None,
      )
      choices = _choices(gradio, writer)
      go, stop = buttons("Write")
      gradio.HTML(render.legend())
      out = gradio.HTML()
      run(
        lambda text, chat, *x: writer.prompt(text, _chosen(*x), chat),
        *(go, stop, [text, chat, *choices], out),
      )
    with gradio.Tab("Infilling"):
      text = box(
        f"A text with holes, each written as {MARK}",
        f"Once upon a time {MARK} and {MARK}.",
        2,
      )
      choices = _choices(gradio, writer)
      go, stop = buttons("Fill the holes")
      gradio.HTML(render.legend())
      out = gradio.HTML()
      run(
        lambda text, *x: writer.infill(text, _chosen(*x)),
        *(go, stop, [text, *choices], out),
      )
    with gradio.Tab("Likelihood"):
      text = box(
        f"Texts, one on each line, at most {bounds.texts}",
        f"A text a line, as {words}",
        4,
      )
      with gradio.Row():
        calls = gradio.Dropdown(
          writer.score_calls,
          value=writer.score_calls[len(writer.score_calls) // 2],
          label="Network calls a text",
        )
        seed = gradio.Number(0, label="Seed", precision=0)
      go, stop = buttons("Score")
      out = gradio.HTML()
      run(writer.score, go, stop, [text, calls, seed], out)
  return blocks


def _choices(gradio: Any, writer: Writer) -> list[Any]:
  """Lays out what is chosen for samples, in the order of `Choices`."""
  model, bounds, lengths = writer.model, writer.bounds, writer.lengths
  causal = model.method == "autoregressive"
  nearest = min(writer.calls, key=lambda n: abs(n - model.sampler.steps))
  with gradio.Row():
    samples = gradio.Dropdown(
      doubled(1, bounds.samples), value=2, label="Samples", min_width=100
    )
    calls = gradio.Dropdown(
      writer.calls,
      value=nearest,
      label="Network calls, at most",
      interactive=not causal,
      min_width=100,
    )
    sampler = gradio.Dropdown(
      [*writer.samplers], value=OWN, label="Sampler", min_width=150
    )
    temperature = gradio.Slider(
      0, 2, value=1, step=0.1, label="Temperature", min_width=150
    )
  with gradio.Row():
    free = len(lengths) > 1
    length = gradio.Slider(
      lengths[0],
      lengths[-1],
      value=lengths[-1],
      step=lengths[1] - lengths[0] if free else 1,
      label="Most tokens",
      info="A limit only: the model chooses the length."
      if free
      else "This model has one length.",
      interactive=free,
      min_width=150,
    )
    seed = gradio.Number(0, label="Seed", precision=0, min_width=100)
    seconds = gradio.Slider(
      0,
      bounds.seconds,
      value=0 if causal else 4,
      step=1,
      label="Seconds to watch",
      info="Slows a fast model down.",
      interactive=not causal,
      min_width=150,
    )
  return [samples, calls, sampler, temperature, length, seed, seconds]


def _chosen(samples, calls, sampler, temperature, length, seed, seconds):
  """Reads what `_choices` give: sliders may make floats of integers."""
  return Choices(
    samples, calls, sampler, temperature, int(length), seed, seconds
  )


def _heading(writer: Writer, name: str) -> str:
  """Makes the heading: what the model is."""
  model = writer.model
  facts = [
    f"{num_parameters(model.denoiser.model) / 1e6:,.1f} million parameters",
    f"at most {model.max_length:,} tokens",
    f"{model.vocab.size:,} ids",
  ]
  kinds = {
    "flexmdm": "A FlexMDM: it inserts places and fills them, in any order",
    "mdm": "A fixed-length MDM: it fills the places that are there",
    "autoregressive": "An autoregressive model: it writes from left to right,"
    " and a sample is shown once it is done",
  }
  told = html.escape(f"{kinds[model.method]}. {', '.join(facts)}.")
  return (
    f'<div class="fx"><h1>{html.escape(name)}</h1>'
    f'<div class="fx-soft">{told}</div></div>'
  )
