"""The text task: from a config to records, and back to text."""

import json

import pytest

from experiments.configs import openwebtext_175m, shakespeare, wordnet
from flexmdm_jax.errors import InputError
from flexmdm_jax.models.parameters import num_parameters
from flexmdm_jax.runs import Run
from tests.data.tiny_text import write_bpe, write_jsonl, write_model_folder

CONFIGS = [openwebtext_175m, shakespeare, wordnet]
TEXTS = ["hello w", "he\n\n" * 40, "é ## hello"]


@pytest.fixture
def settings(tmp_path):
  """Settings of a config on the tiny texts, with changes to its data."""

  def make(module=shakespeare, method="flexmdm", **changes):
    config = module.get_config()
    config.method = method
    config.data.update(
      folder=str(tmp_path / "cache"),
      train=str(write_jsonl(tmp_path / "train.jsonl", TEXTS)),
      test=str(write_jsonl(tmp_path / "test.jsonl.gz", ["hello"])),
      tokenizer_folder=str(write_bpe(tmp_path / "bpe")),
      merges=3,
    )
    config.data.update(changes)
    return config.to_dict()

  return make


def task(config):
  return Run.from_config(config).task


@pytest.mark.parametrize("module", CONFIGS, ids=lambda m: m.__name__)
def test_every_method_of_every_config_builds(settings, module):
  for method in ("flexmdm", "mdm", "autoregressive"):
    experiment = Run.from_config(settings(module, method))
    again = Run.from_config(json.loads(json.dumps(experiment.config)))
    assert again.task.buckets == experiment.task.buckets
    assert again.model == experiment.model


def test_the_paper_has_175_million_parameters(settings):
  config = settings(openwebtext_175m)
  model = Run.from_config(config).model
  more = 50_259 - model.vocab.size  # GPT-2's tokens, embedded and predicted
  assert 169e6 < num_parameters(model) + more * (2 * 768 + 1) < 176e6


@pytest.mark.parametrize("module", CONFIGS, ids=lambda m: m.__name__)
def test_paths_are_asked_for(module):
  config = module.get_config().to_dict()
  with pytest.raises(InputError, match="tokenizer_folder is not set"):
    Run.from_config(config)
  config["data"]["tokenizer"] = "char"
  with pytest.raises(InputError, match="train is not set"):
    Run.from_config(config)


@pytest.mark.parametrize("tokenizer", ["gpt2", "char"])
def test_records_become_examples_and_text(settings, tokenizer):
  text = task(settings(tokenizer=tokenizer))
  records = text.records("train")
  assert len(records) > len(TEXTS)
  record = records[0]
  row = text.encode(record)
  assert text.layout.decode(row.tokens, row.length) == list(record["tokens"])
  assert text.to_text(record["tokens"]) == "hello w"
  assert record["characters"] == 7
  assert text.encode_text("hello w") == list(record["tokens"])
  assert text.start(records).tokens.shape == (len(records), 64)


def test_baseline_predicts_its_padding(settings):
  text = task(settings(method="mdm"))
  assert text.buckets == ()
  record = text.records("test")[0]
  row = text.encode(record)
  assert row.length == 64 and not row.open_gaps.any()
  assert text.decode([row.tokens], [64]) == [list(record["tokens"])]


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"long": "cut"}, "data.long='cut' must be one of split, drop"),
    ({"source": "web"}, "data.source='web' must be one of"),
    ({"tokenizer": "words"}, "data.tokenizer='words' must be one of"),
    ({"buckets": (16, 32)}, r"\(16, 32\) must end with max_length=64"),
    ({"buckets": (32, 16, 64)}, "must be lengths of at least 1, ascending"),
    ({"merges": 9}, "merges=9"),
    ({"tokenizer_folder": "nowhere"}, "nowhere holds no tokenizer"),
  ],
)
def test_settings_that_do_not_fit_are_named(settings, changes, message):
  with pytest.raises(InputError, match=message):
    task(settings(**changes))


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"train": "nope*.jsonl"}, r"no file matches 'nope\*.jsonl'"),
    ({"text_key": "body"}, "has no document that can be used"),
  ],
)
def test_text_that_cannot_be_had(settings, changes, message):
  text = task(settings(**changes))
  with pytest.raises(InputError, match=message):
    text.records("train")


def test_conversations_are_documents(settings, tmp_path):
  folder = write_model_folder(tmp_path / "llada")
  say = {"role": "user", "content": "hello <|mdm_mask|>"}
  rows = [{"messages": [say, {**say, "content": "w"}]}, {"messages": [1]}]
  path, other = tmp_path / "chats.jsonl", tmp_path / "other.jsonl"
  path.write_text("".join(json.dumps(row) + "\n" for row in rows))
  other.write_text(json.dumps({"messages": [say]}))
  changes = dict(
    chat=True,
    train=str(other),
    test=str(path),
    tokenizer="folder",
    tokenizer_folder=str(folder),
    merges=None,
  )
  with pytest.raises(InputError, match="has no chat template"):
    task(settings(**changes))
  template = "{% for m in messages %}{{ m.content }}<|endoftext|>{% endfor %}"
  (folder / "chat_template.jinja").write_text(template)
  text = task(settings(**changes))
  (record,) = text.records("test")
  ids = record["tokens"].tolist()
  assert ids[-3:] == [261, *text.encode_text("w"), 261] and 262 not in ids
  shown = "hello <|mdm_mask|><|endoftext|>w<|endoftext|>"
  assert text.to_text(ids) == shown
  (totals,) = (x.metadata["splits"]["test"] for x in text.text_sets)
  assert totals["skipped"] == {"no_chat": 1}


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"source": "tfds", "train": "a:b"}, "beside data.source=tfds"),
    ({"tokenizer": "char"}, "tokenizer=char has no chat template"),
  ],
)
def test_conversations_need_files_and_a_template(settings, changes, message):
  with pytest.raises(InputError, match=message):
    task(settings(chat=True, **changes))
