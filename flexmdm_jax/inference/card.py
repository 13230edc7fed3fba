"""The card of an exported model: what it is, how good it is, how to use it."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from flexmdm_jax import files
from flexmdm_jax.errors import InputError
from flexmdm_jax.models.parameters import num_parameters

# Numbers of an evaluation that its reader wants first; others follow.
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
  lines = [
    "---",
    "library_name: flexmdm_jax",
    "pipeline_tag: text-generation",
    "tags: [flexmdm, masked-diffusion, jax]",
    "---",
    "",
    f"# {_TITLES[model.method]}",
    "",
    _MEANINGS[model.method],
    "",
    "```python",
    "import flexmdm_jax as fm",
    "",
    'model = fm.load("FOLDER")',
    *_example(model),
    "```",
    "",
    "## The model",
    "",
    "| | |",
    "|---|---|",
    f"| network | {type(network).__name__}, {network.num_layers} layers of"
    f" {network.hidden_size} |",
    f"| parameters | {num_parameters(network):,} |",
    f"| weights | {dtype or _dtypes(model)} |",
    f"| longest sequence | {model.max_length} tokens |",
    f"| ids | {model.vocab.size:,}, of which the mask is {model.vocab.mask} and"
    f" the pad {model.vocab.pad} |",
    f"| schedules of the training | {_schedules(model.interpolant)} |",
    f"| path of sampling | {_schedules(model.path)} |",
    f"| sampler | {model.sampler.method}, {model.sampler.steps} calls |",
    f"| presets | {', '.join(model.presets) or 'none'} |",
  ]
  for name, value in model.about.get("training", {}).items():
    lines.append(f"| training: {_cell(name)} | {_cell(value)} |")
  lines += ["", "## Evaluation", ""]
  if not evaluations:
    lines += ["None was given when this folder was exported.", ""]
  for evaluation in evaluations:
    lines += _evaluation(evaluation)
  lines += [f"Exported by flexmdm_jax {files.package_version()}.", ""]
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
  text = model.tokenizer is not None
  show = "text" if text else "tokens"
  lines = [f"print(model.generate(n=2)[0].{show})"]
  if text and model.method == "flexmdm":
    lines.append(
      'print(model.generate(infills=[("Once ", " the end.")])[0].filled)'
    )
  return lines


def _dtypes(model: Any) -> str:
  import jax

  found = {str(x.dtype) for x in jax.tree.leaves(model.denoiser.params)}
  return ", ".join(sorted(found))


def _schedules(interpolant: Any) -> str:
  config = interpolant.to_config()
  return "; ".join(
    f"{name} {_cell(_schedule(value))}" for name, value in config.items()
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
    *([f"after {steps} training steps"] if steps is not None else []),
    *([f"on {_cell(where)}"] if where else []),
  ]
  return [
    title,
    "",
    *([f"Measured {', '.join(told)}.", ""] if told else []),
    "| | |",
    "|---|---|",
    *(f"| {_cell(key)} | {_cell(value)} |" for key, value in rows.items()),
    "",
  ]


def _cell(value: Any) -> str:
  """Writes a value so that no table breaks on it."""
  if isinstance(value, float):
    return f"{value:.6g}"
  text = value if isinstance(value, str) else json.dumps(value)
  return text.replace("|", "\\|").replace("\n", " ")
