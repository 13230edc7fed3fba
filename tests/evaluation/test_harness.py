"""lm-evaluation-harness: what a model answers, and its own command on a task.

Only the last tests need the package lm_eval, which is an extra.
"""

import dataclasses
import json
import logging
import os
import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest

from flexmdm_jax.data.chat import ChatTemplate
from flexmdm_jax.data.tokenizers import CharTokenizer, FolderTokenizer
from flexmdm_jax.errors import InputError
from flexmdm_jax.evaluation import harness
from flexmdm_jax.evaluation.harness import Answers, Question
from flexmdm_jax.inference import PromptForm
from tests.data import tiny_text
from tests.tiny_model import tiny_model

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture(scope="module")
def model():
  return tiny_model(CharTokenizer("abcdefgh "))


def answers(model, **options):
  return Answers(model, batch_size=2, num_times=32, **options)


def size(text):
  """Counts the tokens of a text of the model."""
  return len(re.sub(r"\[PAD\]|<unk>", "?", text))


def generated(answers, questions):
  found = dict(answers.generate([Question(*q) for q in questions]))
  return [found[i] for i in range(len(questions))]


def test_an_answer_ends_before_the_first_that_ends_it():
  assert harness.cut_until("ab\nQ: c", ["Q:", "\n"]) == "ab"
  assert harness.cut_until("abc", ["d"]) == "abc"
  assert harness.cut_until("abc", ["", "ab"]) == ""
  assert harness.cut_until("abc", []) == "abc"


def test_settings_of_a_task(caplog):
  def fields(**given):
    return harness.parse_settings(given).fields

  assert fields() == fields(do_sample=False, temperature=1, top_p=0.5)
  assert fields() == {"temperature": 0}
  assert fields(do_sample=True) == {}
  assert fields(temperature=0.5, top_p="0.9") == {
    "temperature": 0.5,
    "top_p": 0.9,
  }
  read = harness.parse_settings({"until": "x", "max_new_tokens": 3, "top_k": 7})
  assert read.until == ("x",) and read.room == 3
  assert "top_k=7 has no meaning" in caplog.text
  assert harness.parse_settings({}).room == 256
  for wrong, name in [
    ({"until": [3]}, "until"),
    ({"max_gen_toks": 0}, "max_gen_toks"),
    ({"max_gen_toks": "many"}, "max_gen_toks"),
    ({"temperature": "hot"}, "temperature"),
  ]:
    with pytest.raises(InputError, match=name):
      harness.parse_settings(wrong)


def test_windows_hold_each_token_once():
  ids = list(range(23))
  found = list(harness.windows(ids, 10))
  assert [x for _, part in found for x in part] == ids
  assert found[0] == ([], ids[:10])
  assert found[1] == (ids[5:10], ids[10:15])
  assert found[-1] == (ids[13:20], ids[20:])  # with all the context there is
  assert list(harness.windows([], 4)) == [([], [])]
  assert list(harness.windows(ids[:10], 10)) == [([], ids[:10])]
  assert list(harness.windows(ids[:5], 2, given=False)) == [
    ([], [0, 1]),
    ([], [2, 3]),
    ([], [4]),
  ]
  assert len(list(harness.windows(ids[:3], 1))) == 3
  with pytest.raises(InputError, match="no room"):
    list(harness.windows(ids, 0))


@pytest.mark.slow
def test_answers_depend_on_their_own_question_alone(model):
  sampled = {"do_sample": True, "until": ["h"]}
  a, b = ("abc", sampled, {}), ("cba", {**sampled, "max_gen_toks": 2}, {})
  found = generated(answers(model), [a, b, a, b, a, b])
  assert generated(answers(model), [b, a]) == [found[1], found[0]]
  assert generated(answers(model), [a, a]) == [found[0], found[2]]
  assert len(set(found[::2])) > 1  # a repeat is another sample
  assert not any("h" in text for text in found)
  assert max(map(size, found[1::2])) <= 2
  other = generated(answers(model, seed=1), [a, b, a, b, a, b])
  assert other != found


def test_a_long_context_loses_its_beginning(model):
  once = answers(model)
  sampled = {"do_sample": True, "max_gen_toks": 4}
  texts = generated(once, [("ab" * 40, sampled, {}), ("ab" * 6, sampled, {})])
  assert once.counts["contexts"] == 1 and max(map(size, texts)) <= 4
  # At least half of the model is left to the context.
  half = {"do_sample": True, "max_gen_toks": 99}
  generated(once, [("ab" * 4, half, {}), ("ab" * 4 + "a", half, {})])
  assert once.counts["contexts"] == 2


def test_holes_of_infilling_tasks(model):
  row = {"prompt": "abc", "suffix": "cba"}
  settings = {"do_sample": True, "max_gen_toks": 2}
  filled = answers(model, infill=True)
  texts = generated(filled, [("its context", settings, row)] * 6)
  assert max(map(size, texts)) == 2 and filled.counts["answers"] > 0
  long = {"prompt": "a" * 30, "suffix": "b" * 30}
  generated(filled, [("", settings, long)] * 2)
  assert filled.counts["contexts"] == filled.counts["suffixes"] == 2
  with pytest.raises(InputError, match="request 0: its row has no texts"):
    generated(filled, [("", settings, {"prompt": "a"})])


def bounds(found, pairs):
  values = np.zeros((2, len(pairs)))
  for places, bound in found.log_likelihood(pairs):
    values[:, places] = bound
  return values


def test_bounds_are_those_of_the_model(model):
  scored = answers(model)
  pairs = [("abc", "d"), ("", "abc"), ("abc ", "de")]
  value, error = bounds(scored, pairs)
  prompts, texts = ["abc", "", "abc"], ["d", "abc", " de"]
  nats, stderr = model.log_likelihood(
    texts, prompts=prompts, num_times=32, batch_size=2
  )
  # Its batches hold the same rows in another order.
  off = np.abs(value + nats) / np.hypot(error, stderr)
  assert off.max() < 5 and error.min() > 0
  told = scored.info()["stderr_nats"]["loglikelihood"]
  assert told["mean"] == pytest.approx(error.mean())
  assert "lower bound" in scored.info()["log_likelihood"]
  json.dumps(scored.info())
  bounds(scored, [("abc" * 9, "d")])
  assert scored.counts["contexts"] == 1
  with pytest.raises(InputError, match="request 0: the continuation"):
    bounds(scored, [("a", "b" * 17)])


def test_a_long_text_is_the_sum_of_its_windows(model):
  scored = answers(model)
  texts = ["abc", "abcdefgh" * 5, ""]
  found = {i: (value, error) for i, value, error in scored.rolling(texts)}
  told = scored.info()["stderr_nats"]["loglikelihood_rolling"]
  assert told["max"] == pytest.approx(max(error for _, error in found.values()))
  assert found.keys() == {0, 1, 2} and scored.counts["texts_in_windows"] == 1
  assert found[1][0] < found[0][0] < 0 < found[1][1]


def test_baselines_score_what_they_can(model):
  fixed = answers(dataclasses.replace(model, method="mdm"))
  assert [i for i, *_ in fixed.rolling(["ab" * 20])] == [0]
  with pytest.raises(InputError, match="a model that inserts"):
    bounds(fixed, [("a", "b")])


@pytest.mark.slow
def test_a_continuation_is_split_from_its_context_as_one_text(tmp_path):
  folder = tiny_text.write_model_folder(tmp_path / "model")
  tokenizer = FolderTokenizer(folder)
  split = answers(tiny_model(tokenizer))._pair
  assert split("hello ", "w") == (
    tokenizer.encode("hello"),
    tokenizer.encode(" w"),
  )
  # "h" and "e" are one token: there is no such split.
  assert split("h", "e") == (tokenizer.encode("h"), tokenizer.encode("e"))
  template = ChatTemplate(
    "{% for m in messages %}{{ eos_token }}{{ m.content }}{% endfor %}",
    {"eos_token": "<|endoftext|>"},
  )
  form = PromptForm((), (tokenizer.vocab.pad,))
  talker = answers(tiny_model(tokenizer, template=template, form=form))
  rendered = talker.use_chat_template().render("hello <|endoftext|>")
  ids, rest = talker._pair(rendered, "w")
  assert ids[0] == 261 and ids.count(261) == 1 and rest == split("", "w")[1]
  settings = {"do_sample": True, "max_gen_toks": 2}
  texts = generated(talker, [(rendered, settings, {})] * 4)
  assert not any("<|endoftext|>" in text for text in texts)


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"steps": 0}, "steps"),
    ({"speed": 3}, "speed=3 is no setting"),
    ({"preset": "fast"}, "preset='fast' is unknown"),
    ({"num_times": 4}, "num_times=4 is too small"),
    ({"infill": "yes"}, "infill"),
    ({"seed": -1}, "seed"),
  ],
)
def test_wrong_options_are_one_line(model, options, message):
  with pytest.raises(InputError, match=message) as caught:
    Answers(model, **options)
  assert "\n" not in str(caught.value)


def test_a_model_without_text_or_template_is_refused(model):
  with pytest.raises(InputError, match="no tokenizer"):
    Answers(dataclasses.replace(model, tokenizer=None))
  with pytest.raises(InputError, match="no chat template"):
    answers(model).use_chat_template()


def test_batch_sizes_of_the_harness():
  assert harness._batch_size("auto") == 64
  assert harness._batch_size("auto:4", 8) == 8
  assert harness._batch_size("2") == 2
  with pytest.raises(InputError, match="batch_size='all'"):
    harness._batch_size("all")


def test_without_the_package_one_line_says_so(monkeypatch, capsys):
  monkeypatch.setitem(sys.modules, "lm_eval", None)
  monkeypatch.setitem(sys.modules, "lm_eval.api.model", None)
  assert harness.main() == 2
  assert "flexmdm_jax[eval]" in capsys.readouterr().err


ROWS = [
  {
    "prompt": "abc",
    "suffix": "h" * 20,
    "answer": "de",
    "choices": ["d", "e"],
    "label": 0,
  },
  {
    "prompt": "bcd",
    "suffix": "g" * 20,
    "answer": "ef",
    "choices": ["e", "f g"],
    "label": 1,
  },
  {
    "prompt": "cde",
    "suffix": "f" * 20,
    "answer": "fg",
    "choices": ["f", "g"],
    "label": 1,
  },
]
TASKS = {
  "tiny_generate": """
output_type: generate_until
doc_to_text: "{{prompt}}"
doc_to_target: "{{answer}}"
generation_kwargs: {until: ["h"], max_gen_toks: 4, do_sample: false}
metric_list: [{metric: exact_match}]
""",
  "tiny_choice": """
output_type: multiple_choice
doc_to_text: "{{prompt}}"
doc_to_choice: "{{choices}}"
doc_to_target: label
metric_list: [{metric: acc}]
""",
  "tiny_rolling": """
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{prompt * 9}}"
metric_list: [{metric: word_perplexity}]
""",
}


@pytest.fixture(scope="module")
def task_files(model, tmp_path_factory):
  """A model, its tasks and their data, in a folder."""
  pytest.importorskip("lm_eval", reason="needs the extra eval: lm-eval")
  folder = tmp_path_factory.mktemp("harness")
  tiny_text_rows = "".join(json.dumps(row) + "\n" for row in ROWS)
  (folder / "rows.jsonl").write_text(tiny_text_rows)
  for name, text in TASKS.items():
    head = (
      f"task: {name}\ndataset_path: json\ntest_split: test\n"
      f"dataset_kwargs: {{data_files: {{test: {folder}/rows.jsonl}}}}\n"
    )
    (folder / f"{name}.yaml").write_text(head + text.lstrip())
  model.export(folder / "model")
  return folder


def run(folder, *arguments):
  """Runs the command offline."""
  return subprocess.run(
    [sys.executable, "-m", "flexmdm_jax.evaluation.harness", *arguments],
    cwd=folder,
    env={
      **os.environ,
      "PYTHONPATH": str(ROOT),
      "HF_HOME": str(folder / "hub"),
      "HF_HUB_OFFLINE": "1",
      "XLA_FLAGS": "",
    },
    capture_output=True,
    text=True,
  )


@pytest.mark.slow
def test_the_harness_runs_offline(task_files):
  out = run(
    task_files,
    *("--model", "flexmdm", "--include_path", str(task_files)),
    *("--model_args", f"folder={task_files}/model,steps=4,num_times=32"),
    *("--tasks", ",".join(TASKS), "--batch_size", "2"),
    *("--output_path", str(task_files / "out"), "--log_samples"),
  )
  assert out.returncode == 0, out.stderr
  (file,) = (task_files / "out").rglob("results*.json")
  told = json.loads(file.read_text())
  results = told["results"]
  assert 0 <= results["tiny_generate"]["exact_match,none"] <= 1
  assert 0 <= results["tiny_choice"]["acc,none"] <= 1
  assert results["tiny_rolling"]["word_perplexity,none"] > 1
  assert "lower bound" in told["config"]["log_likelihood"]
  assert told["config"]["stderr_nats"]["loglikelihood"]["mean"] > 0
  assert told["config"]["cut"]["texts_in_windows"] == 3
  samples = {
    path.name.split("_2")[0]: [*map(json.loads, path.open())]
    for path in (task_files / "out").rglob("samples*.jsonl")
  }
  assert len(samples) == 3
  for rows in samples.values():
    assert len(rows) == 3
  for row in samples["samples_tiny_generate"]:
    assert "h" not in row["resps"][0][0] and size(row["resps"][0][0]) <= 4


@pytest.mark.slow
def test_wrong_input_of_the_command_is_one_line(task_files):
  out = run(
    task_files,
    *("--model", "flexmdm", "--include_path", str(task_files)),
    *("--model_args", "folder=nothing", "--tasks", "tiny_choice"),
  )
  assert out.returncode == 2
  last = out.stderr.strip().splitlines()[-1]
  assert last.startswith("error: nothing is no folder")
  assert "Traceback" not in out.stderr


@pytest.mark.slow
def test_chat_templates_of_the_harness(task_files, tmp_path, caplog):
  lm_eval = pytest.importorskip("lm_eval")
  tokenizer = FolderTokenizer(tiny_text.write_model_folder(tmp_path / "chat"))
  template = ChatTemplate(
    "{% for m in messages %}{{ eos_token }}{{ m.content }}{% endfor %}",
    {"eos_token": "<|endoftext|>"},
  )
  kind = harness.register()
  assert harness.register() is kind
  made = kind.__new__(kind)
  super(kind, made).__init__()
  made.answers = answers(tiny_model(tokenizer, template=template))
  caplog.set_level(logging.WARNING)
  results = lm_eval.simple_evaluate(
    model=made,
    tasks=["tiny_generate"],
    task_manager=lm_eval.tasks.TaskManager(include_path=str(task_files)),
    apply_chat_template=True,
    limit=1,
  )
  (sample,) = results["samples"]["tiny_generate"]
  assert sample["arguments"][0][0] == "<|endoftext|>abc"
  with pytest.raises(InputError, match="cannot be chosen"):
    made.chat_template("tools")
  # The harness's own rows reach infilling.
  made.answers = answers(tiny_model(tokenizer), infill=True)
  results = lm_eval.simple_evaluate(
    model=made,
    tasks=["tiny_generate"],
    task_manager=lm_eval.tasks.TaskManager(include_path=str(task_files)),
  )
  assert made.answers.counts["suffixes"] == 3
  assert len(results["samples"]["tiny_generate"]) == 3
