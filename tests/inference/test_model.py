import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flexmdm_jax as fm
from flexmdm_jax.errors import InputError
from flexmdm_jax.inference import PromptForm
from flexmdm_jax.inference import model as inference_model
from flexmdm_jax.likelihood import next_token_nats
from flexmdm_jax.rows import stack
from flexmdm_jax.sampling import row_keys
from flexmdm_jax.training.sharding import make_mesh
from tests.inference.tiny import (
  BEGIN,
  PAD,
  PRESETS,
  TOKENIZER,
  TRAINED,
  VOCAB,
  model,
)

FORM = PromptForm((BEGIN,), (PAD,))


def test_a_sample_depends_on_its_place_and_the_seed_alone():
  given = ["a", "abc", "", "ab", "hg"]
  whole = model().generate(2, prompts=given, seed=3)
  for batch_size in (1, 7):
    found = model().generate(2, prompts=given, seed=3, batch_size=batch_size)
    assert found == whole
  assert model().generate(2, prompts=given, seed=4) != whole
  for prompt, pair in zip(
    given, zip(whole[::2], whole[1::2], strict=True), strict=True
  ):
    assert all(generation.text.startswith(prompt) for generation in pair)


def test_streamed_rows_are_those_of_the_whole(monkeypatch):
  m = model()
  requests = m.requests(prompts=["a", "bc", "d"])
  whole = m.generate(prompts=["a", "bc", "d"])
  (found,) = m.stream(requests[1:], places=[1, 2])
  assert sorted(found) == [(1, whole[1]), (2, whole[2])]
  # Two batches that meet on the way are there at once, on one device.
  mesh = make_mesh(devices=jax.devices()[:1])
  monkeypatch.setattr(inference_model, "make_mesh", lambda: mesh)
  monkeypatch.setattr(jax, "device_count", lambda: 1)
  (met,) = m.stream(requests, batch_size=2, together=2)
  assert sorted(met) == list(enumerate(whole))


@pytest.mark.parametrize("method", ["flexmdm", "mdm", "autoregressive"])
def test_steps_end_in_the_samples(method):
  m = model(method)
  # Rows outgrow a canvas on the way.
  way = m.way(steps=6, buckets=(3, 7))
  requests = m.requests(3)
  *before, last = m.steps(requests, way, seed=5)
  assert len(before) == (0 if method == "autoregressive" else 5)
  whole = m.sample(
    row_keys(jax.random.key(5), 3), stack(x.start for x in requests), 3, way
  )
  for mine, theirs in zip(last[:5], whole[:5], strict=True):
    np.testing.assert_array_equal(mine, theirs)
  lengths = [samples.length for samples in before]
  assert (np.diff(lengths, axis=0) >= 0).all()


def test_filled_holes_are_what_lies_between_the_parts():
  parts = [["ab", "c", "", "a"], ["", "ab"], [[0, 1], [2]]]
  m = model()
  many = [x for _ in range(4) for x in m.generate(infills=parts, seed=_)]
  for i, generation in enumerate(many):
    given = parts[i % 3]
    given = [x if isinstance(x, str) else m.decode(x) for x in given]
    assert len(generation.filled) == len(given) - 1
    pieces = [given[0]]
    for hole, part in zip(generation.filled, given[1:], strict=True):
      pieces += [hole, part]
    assert "".join(pieces) == generation.text
    assert generation.text == m.decode(generation.tokens)
  assert any(any(generation.filled) for generation in many)


def test_anchors_stay_in_order():
  for generation in model().generate(3, anchors=["abc"]):
    a, b, c, d = generation.filled
    assert f"{a}a{b}b{c}c{d}" == generation.text


def test_ids_serve_without_a_tokenizer():
  m = model(tokenizer=None)
  (generation,) = m.generate(prompts=[[0, 1]])
  assert generation.text is None
  assert generation.filled == [generation.tokens[2:]]
  with pytest.raises(InputError, match=r"prompts\[0\].*'ab' needs a tokenizer"):
    m.generate(prompts=["ab"])


def test_what_a_form_adds_is_no_text():
  m = model(form=FORM)
  (generation,) = m.generate(prompts=["ab"])
  assert generation.tokens[:4] == [BEGIN, *TOKENIZER.encode("ab"), PAD]
  assert generation.text.startswith("ab")
  assert "PAD" not in generation.text
  assert generation.text == "ab" + generation.filled[0]
  # Nothing given is an empty prompt; infills have no separator.
  (free,) = m.generate()
  assert free.tokens[:2] == [BEGIN, PAD]
  (infill,) = m.generate(infills=[("a", "b")])
  assert infill.tokens[:2] == [BEGIN, *TOKENIZER.encode("a")]
  assert infill.text == f"a{infill.filled[0]}b"


def test_a_preset_and_a_path_change_the_way():
  m = model(presets=PRESETS)
  assert m.way(preset="slow") == PRESETS["slow"]
  assert m.way(preset="slow", steps=3).sampler.steps == 3
  assert m.way(path="lengths_first").path == fm.lengths_first()
  assert m.generate(preset="slow") != m.generate()


def test_the_fixed_length_baseline_ends_at_its_pad():
  m = model("mdm")
  for generation in m.generate(8):
    assert VOCAB.pad not in generation.tokens
    assert generation.filled == [generation.text]
  with pytest.raises(InputError, match="needs a model that inserts"):
    m.generate(infills=[("a", "b")])


def test_the_fixed_length_baseline_is_told_the_lengths_of_holes():
  m = model("mdm")
  parts = [("a", "b"), ("a", "g", "b"), ("", "")]
  for n, (given, generation) in enumerate(
    zip(parts, m.generate(infills=parts, hole_tokens=[1, 2, 3]), strict=True)
  ):
    assert len(generation.filled) == len(given) - 1
    assert max(map(len, generation.filled)) <= n + 1
    pieces = [given[0]]
    for hole, part in zip(generation.filled, given[1:], strict=True):
      pieces += [hole, part]
    assert generation.text == "".join(pieces)
    assert VOCAB.pad not in generation.tokens
  (answer,) = m.generate(prompts=["ab"])  # all the room is the answer's
  assert answer.text == "ab" + answer.filled[0]
  for wrong, message in (
    (dict(hole_tokens=[1]), "give one to each of the 0"),
    (dict(prompts=["a"], hole_tokens=[1, 2]), "give one to each of the 1"),
    (dict(prompts=["a"], hole_tokens=[-1]), "hole_tokens=-1 must be"),
    (dict(prompts=["ab"], hole_tokens=[m.max_length]), "more than the model"),
  ):
    with pytest.raises(InputError, match=message):
      m.generate(**wrong)
  with pytest.raises(InputError, match="leave it out"):
    model().generate(prompts=["a"], hole_tokens=[1])


def test_the_autoregressive_baseline_continues_prompts():
  m = model("autoregressive")
  (generation,) = m.generate(prompts=["abc"])
  assert generation.text == "abc" + generation.filled[0]
  assert generation.tokens[:3] == TOKENIZER.encode("abc")
  with pytest.raises(InputError, match="needs a model that inserts"):
    m.generate(anchors=["a"])
  nats, error = m.log_likelihood(["abc", "a"], batch_size=1)
  assert (error == 0).all()
  tokens = jnp.array([[VOCAB.mask, 1, 2, 3], [VOCAB.mask, 1, PAD, PAD]])
  exact = next_token_nats(m.denoiser, tokens, jnp.array([4, 2]), VOCAB)
  np.testing.assert_allclose(nats, exact.sum(-1), rtol=1e-5)
  # Given its beginning, a text costs what is left of it, and its end.
  rest, _ = m.log_likelihood(["bc"], prompts=["a"])
  np.testing.assert_allclose(rest, exact[0, 1:].sum(), rtol=1e-5)


@pytest.mark.slow
def test_the_bound_is_that_of_the_library():
  m = model()
  nats, error = m.log_likelihood(["abc", "hg a"], num_times=1024)
  tokens = jnp.array(
    [[*TOKENIZER.encode("abc"), PAD], TOKENIZER.encode("hg a")]
  )
  expected = fm.log_likelihood_bound(
    jax.random.key(9),
    m.denoiser,
    tokens,
    jnp.array([3, 4]),
    TRAINED,
    VOCAB,
    1024,
  )
  assert (np.abs(nats - expected) < 5 * np.sqrt(2) * error).all()
  # Nothing that is given is no condition, to the bit.
  empty, _ = m.log_likelihood(["abc"], prompts=[""], num_times=32)
  alone, _ = m.log_likelihood(["abc"], num_times=32)
  np.testing.assert_array_equal(empty, alone)


@dataclasses.dataclass(frozen=True)
class Certain:
  """Knows that a "b" follows the two tokens that are given, and then the end.

  What stands in the prompt it would never guess.
  """

  def __call__(self, tokens, length, t):
    B, L = tokens.shape
    logits = jnp.full((B, L, VOCAB.size), -60.0).at[..., 2].set(0.0)
    gap = jnp.arange(L + 1) == 2
    missing = gap & (length == 2)[:, None]
    return fm.Prediction(logits, jnp.where(missing, 0.0, -60.0))


def test_only_what_is_not_given_costs():
  m = dataclasses.replace(model(), denoiser=Certain())
  for given in (dict(prompts=["ha"]), dict(infills=[("ha", "")])):
    nats, _ = m.log_likelihood(["b"], num_times=64, **given)
    np.testing.assert_allclose(nats, 0.0, atol=1e-4)
    nats, _ = m.log_likelihood(["c"], num_times=64, **given)
    assert nats > 40
  nats, _ = m.log_likelihood(["hab"], num_times=64)
  assert nats > 40


def test_no_text_has_no_likelihood():
  nats, error = model().log_likelihood([])
  assert nats.shape == error.shape == (0,)
  assert model().generate(0) == []


@pytest.mark.parametrize(
  ("given", "message"),
  [
    (dict(n=-1), "n=-1"),
    (dict(prompts="ab"), r"prompts is one text.*\[text\]"),
    (dict(prompts=["a"], anchors=["b"]), "prompts and anchors are both given"),
    (dict(prompts=[[VOCAB.mask]]), r"prompts\[0\]: the id 10 is the mask"),
    (dict(prompts=["a", [99]]), r"prompts\[1\]: the id 99 is out of range"),
    (dict(prompts=["a" * 13]), "13 tokens.*more than the model's 12"),
    (dict(infills=[["ab"]]), "1 parts and no hole"),
    (dict(infills=["ab"]), "'ab' is one text"),
    (dict(chat=True), "chat=True is of prompts"),
    (dict(prompts=["a"], chat=True), "no chat template"),
    (dict(preset="x"), "preset='x' is unknown.*slow"),
    (dict(step=3), "step=3 is no setting of a sampler"),
    (dict(steps=0), "sampler.steps=0"),
    (dict(path="x"), "path='x'"),
    (dict(seed=-1), "seed=-1"),
    (dict(batch_size=0), "batch_size=0"),
  ],
)
def test_bad_input_is_one_line(given, message):
  with pytest.raises(InputError, match=message) as error:
    model(presets=PRESETS).generate(**given)
  assert "\n" not in str(error.value)


@pytest.mark.parametrize(
  ("given", "message"),
  [
    (dict(texts="ab"), "texts is one text"),
    (dict(texts=["a"], prompts=[]), "0 prompts but 1 texts"),
    (dict(texts=["a"], prompts=["a"], infills=[("", "")]), "both given"),
    (dict(texts=["a"], infills=[("a",)]), r"infills\[0\] has 1 parts"),
    (dict(texts=["a" * 13]), r"texts\[0\].*13 tokens"),
    (dict(texts=["a"], kind="loose"), "kind='loose'"),
    (dict(texts=["a"], num_times=8), "num_times=8 is too small"),
    (dict(texts=["a"], batch_size=0), "batch_size=0"),
  ],
)
def test_bad_texts_are_one_line(given, message):
  with pytest.raises(InputError, match=message):
    model().log_likelihood(**given)
