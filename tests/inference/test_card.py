"""The card of an exported model, as a hub and its readers see it."""

import dataclasses
import html
import re

import pytest
import yaml

import flexmdm_jax as fm
from flexmdm_jax.data.chat import ChatTemplate
from flexmdm_jax.data.tokenizers import CharTokenizer
from flexmdm_jax.errors import InputError
from flexmdm_jax.inference import Preset
from flexmdm_jax.inference.card import model_card
from tests.tiny_model import PATH, tiny_model

HOSTILE = [
  "a|b",
  "a\\|b",
  "a\nb\n\n# c\u2028d\x85e",
  "<script>alert(1)</script>",
  "<img src=x onerror=alert(1)>",
  "[a](javascript:alert(1)) ![b](x)",
  "`a` **b** __c__ ~~d~~ $e$ &lt;",
  "https://example.com www.example.com a@example.com",
  "---\nlicense: mit\n---",
  "```\n~~~",
  "\u202eabc\0\x1b[2J",
]


@pytest.fixture(scope="module")
def model():
  return tiny_model(CharTokenizer("abc"))


def parts(card):
  """Splits a card into its front matter and the rest."""
  _, front, rest = card.split("---\n", 2)
  return yaml.safe_load(front), rest


def python(card):
  """Takes the code of a card's example."""
  return re.search(r"```python\n(.*?)\n```\n", card, re.DOTALL)[1]


def test_the_front_matter_is_yaml_that_a_hub_takes(model):
  front, rest = parts(model_card(model))
  assert front == {
    "library_name": "flexmdm_jax",
    "pipeline_tag": "text-generation",
    "tags": ["flexmdm", "masked-diffusion", "jax"],
  }
  assert rest.startswith("\n# A FlexMDM\n")
  plain, _ = parts(model_card(dataclasses.replace(model, tokenizer=None)))
  assert "pipeline_tag" not in plain


@pytest.mark.parametrize("method", ["flexmdm", "mdm", "autoregressive"])
def test_the_example_is_what_the_model_can_do(model, method):
  preset = {'quick"\n```': Preset(fm.SamplerConfig(steps=2), PATH)}
  template = ChatTemplate("{{ messages }}", {})
  made = dataclasses.replace(
    model, method=method, presets=preset, template=template
  )
  for other in (made, dataclasses.replace(made, tokenizer=None)):
    compile(python(model_card(other)), "card", "exec")
  code = python(model_card(dataclasses.replace(made, template=None)))
  assert ("infills" in code) == (method == "flexmdm")
  assert ("prompts" in code) == (method != "mdm")


def test_numbers_are_there_and_nothing_of_the_machine(model):
  result = {
    "task": "likelihood",
    "nats_per_token": 1.23456789,
    "train_steps": 30,
    "config": {"data": {"folder": "/home/me"}},
    "versions": {"device": "cpu"},
  }
  card = model_card(model, [result], "bfloat16")
  assert "### likelihood\n" in card and "| nats_per_token | 1.23457 |" in card
  assert "Measured after 30 training steps, on cpu." in card
  assert "| weights | bfloat16 |" in card and "/home" not in card
  with pytest.raises(InputError, match="has no 'task'"):
    model_card(model, [{"nats": 3}])


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_strings_stay_text(model, text):
  result = {
    "task": text,
    text: text,
    "train_steps": text,
    "versions": {"device": text},
  }
  hostile = dataclasses.replace(
    model,
    about={"training": {text: text}},
    presets={text: Preset(fm.SamplerConfig(steps=2), PATH)},
  )
  card = model_card(hostile, [result])
  front, rest = parts(card)
  assert "license" not in front
  prose = re.sub(r"```python\n.*?\n```\n", "", rest, count=1, flags=re.DOTALL)
  assert all(c.isprintable() or c == "\n" for c in prose)
  prose = prose.replace("https://arxiv.org", "")
  for mark in ("<", "```", "~~", "**", "![", "](j", "://", "www.", "\\", "$"):
    assert mark not in prose
  rows = [line for line in prose.splitlines() if line.startswith("|")]
  assert all(row.count("|") == 3 for row in rows)
  # A reader sees what was there, on one line.
  shown = " ".join("".join(c if c.isprintable() else " " for c in text).split())
  assert html.unescape(rows[-1]) == f"| {shown} | {shown} |"


def test_enormous_values_and_odd_facts_are_bounded(model):
  odd = dataclasses.replace(model, about={"training": ["a"]})
  card = model_card(odd, [{"task": "a", "note": "x" * 10**6}])
  assert len(card) < 5000 and "x..." in card
