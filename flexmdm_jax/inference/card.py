"""The card of an exported model: what it is, how good it is, how to use it."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from flexmdm_jax import files
from flexmdm_jax.errors import InputError
from flexmdm_jax.models.parameters import num_parameters

_LONGEST = 200  # characters of a value
# Characters that Markdown, HTML or a table gives a meaning to; an underscore
# inside a word has none, nor has a reference such as "&#124;" any but its own.
_MARKUP = re.compile(
  r"[&<>|\\`*\[\]~#$@]|://|www\.|(?<![^\W_])_|_(?![^\W_])", re.IGNORECASE
)
# Parts of an evaluation that are no numbers of it.
_LEFT_OUT = ("task", "versions", "config", "sampler", "train_steps", "seconds")


def model_card(
  model: Any,
  evaluations: Sequence[Mapping[str, Any]] = (),
  dtype: str | None = None,
) -> str:
  """Writes the card of a model, in Markdown with the hub's front matter.

  Args:
    model: an `inference.Model`.
    evaluations: results of `experiments.evaluate`.
    dtype: type of the weights, if it is not the model's own.

  Raises:
    InputError: an evaluation is no result.
  """
  network = model.denoiser.model
  rows = {
    "network": f"{type(network).__name__}, {network.num_layers} layers of"
    f" {network.hidden_size}",
    "parameters": f"{num_parameters(network):,}",
    "weights": dtype or _dtypes(model),
    "longest sequence": f"{model.max_length} tokens",
    "ids": f"{model.vocab.size:,}, of which the mask is {model.vocab.mask} and"
    f" the pad {model.vocab.pad}",
    "schedules of the training": _schedules(model.interpolant),
    "path of sampling": _schedules(model.path),
    "sampler": f"{model.sampler.method}, {model.sampler.steps} calls",
    "presets": ", ".join(model.presets) or "none",
  }
  training = model.about.get("training")
  if isinstance(training, Mapping):
    rows |= {f"training: {name}": value for name, value in training.items()}
  text = model.tokenizer is not None
  lines = [
    "---",
    "library_name: flexmdm_jax",
    *(["pipeline_tag: text-generation"] if text else []),
    "tags: [flexmdm, masked-diffusion, jax]",
    "# license: the model's, which only its makers know",
    "---",
    "",
    f"# {_TITLES[model.method]}",
    "",
    _MEANINGS[model.method],
    "",
    "```python",
    "import flexmdm_jax as fm",
    "",
    "# From a hub: hf download OWNER/NAME prints FOLDER",
    'model = fm.load("FOLDER")',
    *_example(model),
    "```",
    "",
    "## Use and limits",
    "",
    "It is made for research on diffusion models of sequences, and for the kind"
    " of data that it was trained on. Nothing was done to make what it writes"
    " true or harmless, or unlike its data: judge it before others read it.",
    "",
    *(f"- {limit}" for limit in _limits(model)),
    "",
    "## The model",
    "",
    *_table(rows),
    "## Evaluation",
    "",
  ]
  if not evaluations:
    lines += ["None was given when this folder was exported.", ""]
  for evaluation in evaluations:
    lines += _evaluation(evaluation)
  lines += [
    "## Sources",
    "",
    "*Any-Order Flexible Length Masked Diffusion*,"
    " [arXiv 2509.01025](https://arxiv.org/abs/2509.01025), is the method.",
    f"Exported by flexmdm_jax {files.package_version()}.",
    "",
  ]
  return "\n".join(lines)


_TITLES = {
  "flexmdm": "A FlexMDM",
  "mdm": "A masked diffusion model of a fixed length",
  "autoregressive": "An autoregressive model",
}
_MEANINGS = {
  "flexmdm": (
    "A masked diffusion model of any order and flexible length"
    " (arXiv 2509.01025): it inserts masks and reveals them, and so decides"
    " the length itself."
  ),
  "mdm": "A baseline of FlexMDM: it reveals a fixed number of masks.",
  "autoregressive": "A baseline of FlexMDM: it samples from left to right.",
}


def _example(model: Any) -> list[str]:
  """Writes how the model is used, in Python."""
  text = model.tokenizer is not None
  show = "text" if text else "tokens"
  lines = [f"print(model.generate(n=2, seed=1)[0].{show})"]
  if text and model.template is not None:
    lines.append('chat = model.generate(prompts=["Hello!"], chat=True)')
  elif text and model.method != "mdm":
    lines.append('print(model.generate(prompts=["Once "])[0].filled)')
  if text and model.method == "flexmdm":
    lines.append(
      'print(model.generate(infills=[("Once ", " the end.")])[0].filled)'
    )
  if model.method != "autoregressive":
    lines.append(f"model.generate(steps={2 * model.sampler.steps})")
    lines[-1] += "  # more calls, better samples"
  for preset in list(model.presets)[:1]:
    lines.append(f"model.generate(preset={preset!a})")
  return lines


def _limits(model: Any) -> list[str]:
  """Tells what the model cannot do."""
  room = f"{model.max_length} tokens"
  if model.method == "mdm":
    length = f"Its rows have {room} each, and it takes no prompts or holes."
  else:
    length = (
      f"A text has at most {room}, what is given included; a sample that wanted"
      " more has `truncated` set."
    )
  if model.method == "autoregressive":
    return [length, "It continues prompts, and fills no holes."]
  return [
    length,
    "`model.log_likelihood` estimates an upper bound on -log p: perplexities"
    " made of it are too high rather than too low.",
  ]


def _dtypes(model: Any) -> str:
  import jax

  found = {str(x.dtype) for x in jax.tree.leaves(model.denoiser.params)}
  return ", ".join(sorted(found))


def _schedules(interpolant: Any) -> str:
  config = interpolant.to_config()
  return "; ".join(
    f"{name} {_schedule(value)}" for name, value in config.items()
  )


def _schedule(config: Mapping[str, Any]) -> str:
  parameters = ", ".join(
    f"{key}={_schedule(value) if isinstance(value, Mapping) else value}"
    for key, value in config.items()
    if key != "name"
  )
  return f"{config['name']}({parameters})"


def _evaluation(result: Mapping[str, Any]) -> list[str]:
  """Writes the numbers of one evaluation as a table."""
  if not isinstance(result, Mapping) or not isinstance(result.get("task"), str):
    raise InputError(
      f"evaluation {str(result)[:60]!r} has no 'task': give files that"
      " experiments.evaluate wrote."
    )
  rows = {
    key: value
    for key, value in result.items()
    if key not in _LEFT_OUT and not isinstance(value, (Mapping, list))
  }
  versions = result.get("versions")
  where = versions.get("device") if isinstance(versions, Mapping) else None
  steps = result.get("train_steps")
  title = f"### {_cell(result['task'])}"
  told = [
    *([f"after {_cell(steps)} training steps"] if steps is not None else []),
    *([f"on {_cell(where)}"] if where else []),
  ]
  return [
    title,
    "",
    *([f"Measured {', '.join(told)}.", ""] if told else []),
    *_table(rows),
  ]


def _table(rows: Mapping[str, Any]) -> list[str]:
  """Writes names and values as a table, and a blank line."""
  cells = (f"| {_cell(key)} | {_cell(value)} |" for key, value in rows.items())
  return ["| | |", "|---|---|", *cells, ""]


def _cell(value: Any) -> str:
  """Writes a value as text that is no markup, whatever it holds."""
  if isinstance(value, float):
    return f"{value:.6g}"
  text = value if isinstance(value, str) else json.dumps(value)
  text = " ".join("".join(c if c.isprintable() else " " for c in text).split())
  if len(text) > _LONGEST:
    text = text[:_LONGEST] + "..."
  return _MARKUP.sub(
    lambda found: "".join(f"&#{ord(c)};" for c in found[0]), text
  )
