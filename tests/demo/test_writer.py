"""The demo without its page, on tiny models of every method."""

import dataclasses
import html
import re

import jax
import pytest

from flexmdm_jax.demo.bounds import Bounds
from flexmdm_jax.demo.writer import OWN, Choices, Writer
from flexmdm_jax.inference import PromptForm
from flexmdm_jax.inference.likelihood import CALLS
from tests.inference.tiny import BEGIN, PAD, PRESETS, model

CHOICES = Choices(
  samples=2,
  calls=8,
  sampler=OWN,
  temperature=1.0,
  length=12,
  seed=3,
  seconds=0,
)


def change(**fields):
  return dataclasses.replace(CHOICES, **fields)


@pytest.fixture(scope="module")
def writer():
  return Writer(model(presets=PRESETS), Bounds(characters=40, holes=3))


def texts(page):
  """The text of each card of a page."""
  found = re.findall(r'<div class="fx-text" dir="auto">(.*?)</div>', page)
  return [re.sub("<.*?>", "", text) for text in found]


def test_samples_grow_to_those_of_the_model(writer):
  pages = list(writer.prompt("ab", change(seconds=0.4)))
  assert "step 1 of 8" in "".join(pages)
  assert len(pages) > 3
  whole = writer.model.generate(2, prompts=["ab"], seed=3, steps=8)
  assert texts(pages[-1]) == [generation.text for generation in whole]
  assert "step" not in pages[-1]
  assert 'class="fx-frozen">a<' in pages[-1]


def test_holes_are_filled(writer):
  *_, page = writer.infill("a[...]b[...]", CHOICES)
  whole = writer.model.generate(2, infills=[["a", "b", ""]], seed=3, steps=8)
  assert texts(page) == [generation.text for generation in whole]


def test_texts_are_scored(writer):
  *_, page = writer.score("ab\n\nabc", 2 * CALLS, 0)
  nats, _ = writer.model.log_likelihood(["ab", "abc"], num_times=2 * CALLS)
  assert all(f"<td>{x:.2f} ± " in page for x in nats)


def test_a_limit_of_the_length_is_kept(writer):
  assert writer.lengths == [2, 4, 6, 8, 10, 12]
  *_, page = writer.prompt("abc", change(length=4, sampler="tau_leaping"))
  assert all(len(text) <= 4 for text in texts(page))


@pytest.mark.parametrize(
  ("fields", "match"),
  [
    ({"samples": 9}, r"samples=9 must be at least 1 and at most 8"),
    ({"samples": "<b>"}, r"samples=.&lt;b&gt;. must be"),
    ({"calls": 1000}, "calls=1000"),
    ({"sampler": "x"}, "must be one of"),
    ({"temperature": float("nan")}, "temperature=nan"),
    ({"length": 5}, "length=5 must be one of 2, 4"),
    ({"seed": -1}, "seed=-1"),
    ({"seed": None}, "seed=None"),
    ({"seconds": 1e9}, "seconds="),
  ],
)
def test_choices_are_bounded(writer, fields, match):
  (page,) = writer.prompt("a", change(**fields))
  assert 'role="alert"' in page
  assert re.search(match, page.replace("&#x27;", "."))


def test_wrong_texts_are_told(writer):
  for pages, match in (
    (writer.infill("ab", CHOICES), "no hole"),
    (writer.infill("[...]" * 4, CHOICES), "4 holes, more than 3"),
    (writer.prompt("a" * 41, CHOICES), "41 characters, more than 40"),
    (writer.prompt("a" * 13, CHOICES), "13 tokens, more than the model"),
    (writer.prompt("abc", change(length=2)), "3 tokens, more than the model"),
    (writer.score("ab\n" + "a" * 13, 128, 0), "text 2 has 13 tokens"),
    (writer.score("a", 8, 0), "=8 is too small"),
    (writer.score("a", 1000, 0), "calls=1000"),
    (writer.score("", 8, 0), "there is no text"),
  ):
    *_, page = pages
    assert match in page
    assert 'role="alert"' in page


def test_masks_are_no_text():
  ids = Writer(model(tokenizer=None))
  mask = ids.model.vocab.mask
  (page,) = ids.prompt(f"0 {mask}", CHOICES)
  assert "is the mask" in page
  *_, page = ids.prompt("0 1", CHOICES)
  assert all(text.startswith("0 1") for text in texts(page))


def test_what_a_form_adds_is_not_shown():
  writer = Writer(model(form=PromptForm((BEGIN,), (PAD,))))
  *_, page = writer.prompt("ab", CHOICES)
  whole = writer.model.generate(2, prompts=["ab"], seed=3, steps=8)
  assert texts(page) == [generation.text for generation in whole]


@pytest.mark.parametrize("method", ["mdm", "autoregressive"])
def test_baselines_do_what_they_can(method):
  writer = Writer(model(method))
  *_, page = writer.prompt("", CHOICES)
  whole = writer.model.generate(2, seed=3, steps=8)
  found = [html.unescape(text).partition("∅")[0] for text in texts(page)]
  assert found == [generation.text for generation in whole]
  *_, page = writer.infill("a[...]", CHOICES)
  assert "needs a model that inserts" in page
  *_, page = writer.score("ab", 2 * CALLS, 0)
  assert "bits per token" in page


def test_compiled_programs_are_bounded(monkeypatch):
  dropped = []
  monkeypatch.setattr(jax, "clear_caches", lambda: dropped.append(1))
  writer = Writer(model(), Bounds(programs=2))
  for program in "aabcba":
    writer._make_room(program)
  assert len(dropped) == 2
