"""The Hugging Face scorer, on a tiny model that the test writes itself."""

import sys

import numpy as np
import pytest

from flexmdm_jax.errors import InputError
from flexmdm_jax.evaluation.run_scorer import load_scorer
from flexmdm_jax.evaluation.scorers import (
  HuggingFaceScorer,
  fingerprint,
)

BEGIN = "<|endoftext|>"
TEXTS = ["abcab", "b", "", "cabbage" * 3, "ab", "zzz", "bead"]


@pytest.fixture(scope="module")
def torch():
  pytest.importorskip("transformers")
  return pytest.importorskip("torch")


def save_tokenizer(folder):
  """One token a letter, one for BEGIN; 27 in all."""
  from tokenizers import Regex, Tokenizer, models, pre_tokenizers
  from transformers import PreTrainedTokenizerFast

  ids = {BEGIN: 0} | {chr(97 + i): 1 + i for i in range(26)}
  tokenizer = Tokenizer(models.WordLevel(ids, unk_token=BEGIN))
  tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
  PreTrainedTokenizerFast(
    tokenizer_object=tokenizer, bos_token=BEGIN, eos_token=BEGIN
  ).save_pretrained(folder)


@pytest.fixture(scope="module")
def folders(torch, tmp_path_factory):
  """A random GPT-2, and one whose every prediction is uniform over 27."""
  from transformers import GPT2Config, GPT2LMHeadModel

  torch.manual_seed(0)
  config = GPT2Config(
    vocab_size=27,
    n_positions=16,
    n_embd=16,
    n_layer=2,
    n_head=2,
    bos_token_id=0,
    eos_token_id=0,
    initializer_range=0.5,
  )
  folders = {}
  for name in ("random", "uniform"):
    model = GPT2LMHeadModel(config)
    if name == "uniform":
      model.transformer.wte.weight.data.zero_()  # the unembedding, too
    folders[name] = tmp_path_factory.mktemp(name)
    model.save_pretrained(folders[name])
    save_tokenizer(folders[name])
  return folders


@pytest.fixture(scope="module")
def scorer(folders):
  return load_scorer(str(folders["random"]), device="cpu", batch_size=3)


def test_uniform_predictions_score_log_v(folders):
  scorer = HuggingFaceScorer(str(folders["uniform"]), device="cpu")
  scores = scorer.score(TEXTS)
  for text, nats in zip(TEXTS, scores.nats, strict=True):
    assert len(nats) == max(0, min(len(text), 16) - 1)
    np.testing.assert_allclose(nats, np.log(27), rtol=1e-6)
  assert scores.features is None
  # 21 letters do not fit into 16 positions.
  assert scores.truncated.tolist() == [len(text) > 16 for text in TEXTS]


def test_scores_are_those_of_the_model_without_padding(torch, folders, scorer):
  from transformers import GPT2LMHeadModel

  model = GPT2LMHeadModel.from_pretrained(folders["random"]).eval()
  scores = scorer.score(TEXTS, features=True)
  for text, nats, hidden in zip(
    TEXTS, scores.nats, scores.features, strict=True
  ):
    if not text:
      assert np.isnan(hidden).all()
      continue
    ids = torch.tensor([[ord(c) - 96 for c in text[:16]]])
    with torch.no_grad():
      out = model(ids, output_hidden_states=True)
    log_p = out.logits[0].log_softmax(-1).numpy()
    wanted = [-log_p[i, ids[0, i + 1]] for i in range(ids.shape[1] - 1)]
    np.testing.assert_allclose(nats, wanted, rtol=1e-4, atol=1e-5)
    last = out.hidden_states[-1][0, -1].numpy()
    np.testing.assert_allclose(hidden, last, rtol=1e-4, atol=1e-5)


def test_batch_mates_and_order_change_nothing(folders, scorer):
  alone = [scorer.score([text], features=True) for text in TEXTS]
  for batch_size in (1, 2, 7):
    other = load_scorer(
      str(folders["random"]), device="cpu", batch_size=batch_size
    )
    together = other.score(TEXTS[::-1], features=True)
    for i, one in enumerate(alone):
      np.testing.assert_allclose(
        together.nats[-1 - i], one.nats[0], rtol=1e-5, atol=1e-5
      )
      np.testing.assert_allclose(
        together.features[-1 - i], one.features[0], rtol=1e-5, atol=1e-5
      )


def test_a_beginning_lets_the_first_token_be_scored(folders, scorer):
  begun = load_scorer(str(folders["random"]), device="cpu", begin=BEGIN)
  scores = begun.score(TEXTS)
  assert [len(x) for x in scores.nats] == [min(len(text), 15) for text in TEXTS]
  # Written out in the text it is the same token.
  written = scorer.score([BEGIN + "bead"])
  np.testing.assert_allclose(scores.nats[-1], written.nats[0], rtol=1e-5)
  # Two tokens of beginning: the first of the text stands on both.
  longer = load_scorer(str(folders["random"]), device="cpu", begin=BEGIN + "b")
  np.testing.assert_allclose(
    longer.score(["ead"]).nats[0], written.nats[0][1:], rtol=1e-5
  )


def test_description_tells_what_was_used(folders, scorer):
  description = scorer.describe()
  assert description["max_length"] == 16
  assert description["first_token"] == "not scored"
  assert description["versions"].keys() == {"torch", "transformers"}
  assert description["sha256"] == fingerprint(folders["random"])
  assert description["sha256"] != fingerprint(folders["uniform"])


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"max_length": 17}, r"max_length=17 must be in \[2, 16\]"),
    ({"max_length": 1}, "max_length=1 "),
    ({"batch_size": 0}, "batch_size=0"),
    ({"begin": ""}, "begin='' is 0 tokens"),
    ({"begin": "a" * 16}, "is 16 tokens: give 1 to 15"),
    ({"device": "abacus"}, "device=abacus"),
  ],
)
def test_bad_settings_are_named(folders, options, message):
  with pytest.raises(InputError, match=message):
    HuggingFaceScorer(str(folders["random"]), **{"device": "cpu", **options})


def test_a_folder_without_a_model_is_refused(torch, tmp_path):
  with pytest.raises(InputError, match="cannot be loaded"):
    load_scorer(str(tmp_path))
  with pytest.raises(InputError, match=r"none\.gguf cannot be loaded|package"):
    load_scorer(str(tmp_path / "none.gguf"))


def test_a_model_that_sees_the_future_is_refused(torch, tmp_path):
  from transformers import BertConfig, BertLMHeadModel

  torch.manual_seed(0)
  BertLMHeadModel(
    BertConfig(
      vocab_size=27,
      hidden_size=16,
      num_hidden_layers=1,
      num_attention_heads=2,
      intermediate_size=16,
      max_position_embeddings=16,
      initializer_range=0.5,
    )
  ).save_pretrained(tmp_path)
  save_tokenizer(tmp_path)
  with pytest.raises(InputError, match="sees the tokens"):
    load_scorer(str(tmp_path), device="cpu")


@pytest.mark.parametrize("name", ["torch", "transformers"])
def test_a_missing_package_is_named(monkeypatch, name):
  if name == "transformers":
    pytest.importorskip("torch")
  monkeypatch.setitem(sys.modules, name, None)
  with pytest.raises(InputError, match=rf"package {name}.*\[scorers\]"):
    load_scorer("gpt2-large")


def test_fingerprint_follows_names_and_contents(tmp_path):
  (tmp_path / "a").write_text("x")
  first = fingerprint(tmp_path)
  # SHA-256 of "x", as any tool prints it.
  assert fingerprint(tmp_path / "a").startswith(
    "2d711642b726b04401627ca9fbac32f5"
  )
  (tmp_path / "a").rename(tmp_path / "b")
  second = fingerprint(tmp_path)
  (tmp_path / "b").write_text("y")
  assert len({first, second, fingerprint(tmp_path)}) == 3
