"""A text task of several sources: shares, one cache each, named errors."""

import itertools
import json
import pathlib

import numpy as np
import pytest

from experiments.configs import base
from flexmdm_jax.data.loader import make_loader
from flexmdm_jax.errors import InputError
from flexmdm_jax.tasks import make_task
from flexmdm_jax.vocab import Vocab
from tests.data.tiny_text import write_bpe, write_jsonl, write_model_folder


def texts(word, num):
  """Texts of few or many tokens, in which a word tells the source."""
  return [f"{word} {i} " + "w" * (i % 40) for i in range(num)]


@pytest.fixture
def settings(tmp_path):
  """The `data` of a mixture of two tiny sources, with changes."""

  def write(name, num):
    return str(write_jsonl(tmp_path / f"{name}.jsonl.gz", texts(name, num)))

  def make(web=(), proofs=(), **changes):
    config = base.get_config().data
    config.update(
      base.openwebtext_proof_pile(
        folder=str(tmp_path / "cache"),
        max_length=64,
        buckets=(16, 32, 64),
        tokenizer_folder=str(write_model_folder(tmp_path / "llada")),
      )
    )
    given = {"train": write("web", 90), "test": write("web_test", 20)}
    given["source"] = "files"
    config.mixture.openwebtext.update({**given, **dict(web)})
    given = {"train": write("proof", 30), "test": write("proof_test", 10)}
    config.mixture.proof_pile.update({**given, **dict(proofs)})
    config.update(changes)
    return json.loads(json.dumps(config.to_dict()))

  return make


def is_proof(task, tokens):
  return task.to_text(tokens).startswith("proof")


def loader(task, **kwargs):
  return make_loader(
    task.records("train"),
    task.encode,
    batch_size=8,
    seed=3,
    buckets=task.buckets,
    **kwargs,
  )


def test_the_vocabulary_is_the_model_s(settings):
  assert make_task("flexmdm", settings()).vocab == Vocab(270, 262, 261)


@pytest.mark.parametrize("weight", [0.5, 1.5])
@pytest.mark.parametrize("buckets", [(), (16, 32, 64)])
def test_sources_have_their_shares(settings, weight, buckets):
  data = settings(proofs={"weight": weight}, buckets=buckets)
  task = make_task("flexmdm", data)
  records = task.records("train")
  assert len(records) == 120
  batches = [next(iter(loader(task)))] if not buckets else []
  batches = batches or list(loader(task, num_epochs=1))
  seen = [
    is_proof(task, row[:n])
    for batch in batches
    for row, n in zip(batch.tokens, batch.length, strict=True)
  ]
  assert np.mean(seen) == weight / (weight + 0.5)


def test_two_processes_and_a_resumed_run_see_the_same(settings):
  task = make_task("flexmdm", settings())

  def take(iterator, n):
    return [b.tokens.tolist() for b in itertools.islice(iterator, n)]

  whole = take(loader(task), 30)
  one, two = (take(loader(task, rows=range(i, 8, 2)), 30) for i in (0, 1))
  for batch, *parts in zip(whole, one, two, strict=True):
    assert parts == [batch[::2], batch[1::2]]
  first, second = loader(task), loader(make_task("flexmdm", settings()))
  take(first, 17)
  second.set_state(first.get_state())
  assert take(second, 13) == whole[17:]


def test_other_weights_prepare_nothing_anew(settings, tmp_path):
  def prepared():
    return {
      str(path): path.stat().st_mtime_ns
      for path in pathlib.Path(tmp_path / "cache").rglob("*")
    }

  make_task("flexmdm", settings()).records("train")
  before = prepared()
  assert len(list((tmp_path / "cache" / "text").iterdir())) == 2
  make_task("flexmdm", settings(web={"weight": 7.0})).records("train")
  assert prepared() == before


def test_held_out_text_is_by_weight_or_of_one_source(settings):
  task = make_task("flexmdm", settings(web={"weight": 1.0}))
  test = task.records("test")
  whose = [is_proof(task, record["tokens"]) for record in test]
  assert (len(whose), sum(whose)) == (30, 10)
  assert len(task.records("test/openwebtext")) == 20
  for record in task.records("test/proof_pile"):
    assert is_proof(task, record["tokens"])
  with pytest.raises(InputError, match=r"test/pile names no source of data.m"):
    task.records("test/pile")


def test_a_source_of_weight_0_is_not_read(settings):
  data = settings(proofs={"weight": 0.0, "train": "nope.jsonl"})
  task = make_task("flexmdm", data)
  assert len(task.records("train")) == 90


@pytest.mark.parametrize("method", ["mdm", "autoregressive"])
def test_baselines_mix_too(settings, method):
  task = make_task(method, settings())
  batch = next(loader(task))
  assert len(batch.tokens) == 8


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"proofs": {"weight": -1.0}}, "data.mixture.proof_pile.weight=-1.0 must"),
    (
      {"proofs": {"weight": 0.0}, "web": {"weight": 0.0}},
      r"the weights of data.mixture \(openwebtext, proof_pile\) are all 0",
    ),
    ({"train": "a.jsonl"}, "data.train=a.jsonl stands beside data.mixture"),
    ({"tokenizer": "char"}, "data.tokenizer=char depends on the text"),
    ({"web": {"source": "s3"}}, "data.mixture.openwebtext.source='s3' must"),
    ({"vocab_size": 200}, "vocabulary of 200 ids is smaller than the token"),
  ],
)
def test_settings_that_do_not_fit_are_named(settings, changes, message):
  with pytest.raises(InputError, match=message):
    make_task("flexmdm", settings(**changes))


@pytest.mark.parametrize(
  ("changes", "split", "message"),
  [
    (
      {"train": "nope*.gz"},
      "train",
      r"data.mixture.proof_pile.train: no file matches 'nope\*.gz'",
    ),
    ({"train": None}, "train", "data.mixture.proof_pile.train is not set"),
    (
      {"text_key": "body"},
      "train",
      "data.mixture.proof_pile.* has no document .* check the files and"
      " data.mixture.proof_pile.text_key",
    ),
    ({}, "validation", "set data.mixture.openwebtext.validation"),
  ],
)
def test_text_that_cannot_be_had_is_named(settings, changes, split, message):
  task = make_task("flexmdm", settings(proofs=changes))
  with pytest.raises(InputError, match=message):
    task.records(split)


def test_gpt_2_s_tokenizer_mixes_too(settings, tmp_path):
  data = settings(
    tokenizer="gpt2", tokenizer_folder=str(write_bpe(tmp_path / "bpe"))
  )
  assert len(make_task("flexmdm", data).records("train")) == 120
