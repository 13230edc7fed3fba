"""Fine-tuning data: what is given, what is learned, and what is left out."""

import itertools
import json

import numpy as np
import pytest

from experiments.configs import base
from flexmdm_jax.data.loader import make_loader
from flexmdm_jax.data.splits import SPLITS
from flexmdm_jax.errors import InputError
from flexmdm_jax.rows import (
  FixedHoleLayout,
  HoleLayout,
  infill_start,
  prompt_start,
)
from flexmdm_jax.tasks import make_task
from flexmdm_jax.tasks.finetune.formats import (
  BOUNDARY,
  Cut,
  Parts,
  clean_number,
  code_parts,
  gsm8k_parts,
  last_box,
)
from flexmdm_jax.tasks.finetune.records import pieces
from flexmdm_jax.vocab import Vocab
from tests.data.tiny_text import write_model_folder

QUESTION = {
  "question": "How much?",
  "answer": "It is 500*2 = $<<500*2=1000>>1,000.\nDone.\n#### 1,000",
}
HOLE = {"prompt": "def f():\n", "canonical_solution": "  a\n", "suffix": "# b"}


def code(num):
  return [{"code": f"def f{i}():\n  return {'w' * i}\n"} for i in range(num)]


@pytest.fixture
def settings(tmp_path):
  """The `data` of a fine-tuning on rows, with changes."""

  def write(name, rows):
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / name).write_text(lines)
    return str(tmp_path / name)

  def make(name, rows, test_rows=None, /, **changes):
    data = base.finetune_data(
      name,
      folder=str(tmp_path / "cache"),
      train=write("train.jsonl", rows),
      tokenizer_folder=str(write_model_folder(tmp_path / "llada")),
      max_length=160,
      buckets=(80, 160),
    ).to_dict()
    if test_rows is not None:
      data["test"] = write("test.jsonl", test_rows)
    return {**data, **changes}

  return make


def test_an_answer_has_its_reasons_and_a_box():
  (parts,) = gsm8k_parts(QUESTION)
  assert parts.given == ("How much?\n", "")
  assert parts.holes == (
    "<reasoning>\nIt is 500*2 = $1,000.\nDone.\n</reasoning>\n"
    "<answer>\n\\boxed{1000}\n</answer>",
  )
  assert last_box(parts.holes[0]) == "1000"


@pytest.mark.parametrize(
  ("text", "expected"),
  [
    (r"\boxed{$1,234.}", "$1,234."),
    (r"\boxed{1} or \boxed{ -2 }", " -2 "),
    (r"\boxed {\frac{1}{2}}}", r"\frac{1}{2}"),
    (r"\boxed{1} \boxed{72", "1"),
    ("72", None),
    (r"\boxed{72", None),
  ],
)
def test_the_last_box_is_the_result(text, expected):
  assert last_box(text) == expected


def test_a_number_is_cleaned():
  assert clean_number(" $1,234. ") == "1234"


@pytest.mark.parametrize(
  "row", [{}, {"question": "a"}, {**QUESTION, "answer": "no mark"}]
)
def test_other_rows_are_no_questions(row):
  assert gsm8k_parts(row) == []


def plain(parts):
  """The text of an example without its boundaries."""
  given, holes = parts
  return "".join(
    x + y for x, y in zip(given, [*holes, ""], strict=True)
  ).replace(BOUNDARY, "")


def test_a_hole_has_the_boundary_on_both_sides():
  text = "print(1)\nprint(2)"
  examples = code_parts({"code": text}, cut=Cut(20))
  assert len(set(examples)) > 10
  for given, (hole,) in examples:
    assert given[0].endswith(BOUNDARY) and given[1].startswith(BOUNDARY)
    assert hole
    assert plain(Parts(given, (hole,))) == text
  # The k-th hole does not depend on how many there are.
  assert code_parts({"code": text}, cut=Cut(5)) == examples[:5]


@pytest.mark.parametrize("at", ["span", "lines"])
def test_several_holes_lie_between_what_is_given(at):
  text = "".join(f"line {i}\n" for i in range(8))
  examples = code_parts({"code": text}, cut=Cut(60, 3, at))
  assert {len(parts.holes) for parts in examples} == {1, 2, 3}
  for given, holes in examples:
    assert plain(Parts(given, holes)) == text and all(holes)
    assert len(given) == len(holes) + 1
    for part in given[1:-1]:
      assert part.startswith(BOUNDARY) and part.endswith(BOUNDARY)
      assert part.replace(BOUNDARY, "")
    if at == "lines":
      assert given[0].startswith("line 0\n")
      assert all(hole.startswith("line") for hole in holes)
      assert all(hole.endswith("\n") for hole in holes)
  lines = [hole.count("\n") for parts in examples for hole in parts.holes]
  if at == "lines":  # half of the holes are of one line
    assert 0.3 < np.mean(np.array(lines) == 1) < 0.8


@pytest.mark.parametrize("at", ["span", "lines"])
def test_a_short_text_has_fewer_holes(at):
  for text in ("a", "a\nb\n"):
    for given, holes in code_parts({"code": text}, cut=Cut(9, 9, at)):
      assert plain(Parts(given, holes)) == text and all(holes)


def test_published_holes_are_kept():
  assert code_parts(HOLE) == [
    ((f"def f():\n{BOUNDARY}", f"{BOUNDARY}# b"), ("  a\n",))
  ]
  assert code_parts({"text": "a"}) == code_parts({"code": 1}) == []


def test_only_the_holes_are_open():
  layout = HoleLayout(Vocab(100, 98, 99), 8)
  row = layout.encode([[1, 2], [6]], [[3, 4, 5]])
  assert row.tokens.tolist() == [1, 2, 3, 4, 5, 6, 99, 99]
  assert row.length == 6
  assert row.frozen.nonzero()[0].tolist() == [0, 1, 5]
  assert row.open_gaps.nonzero()[0].tolist() == [2, 3, 4, 5]
  assert layout.decode(row.tokens, 6) == [1, 2, 3, 4, 5, 6]
  row = layout.encode([[1], [3], [5, 6]], [[2], [4]])
  assert row.frozen.nonzero()[0].tolist() == [0, 2, 4, 5]
  assert row.open_gaps.nonzero()[0].tolist() == [1, 2, 3, 4]
  row = layout.encode([[1], [3], []], [[], [4]])
  assert row.open_gaps.nonzero()[0].tolist() == [1, 2, 3]
  with pytest.raises(InputError, match="more than max_length=8"):
    layout.encode([[1] * 4, [3]], [[2] * 4])


@pytest.mark.parametrize("suffix", [[], [6, 7]])
def test_starts_are_the_sampler_s(suffix):
  layout = HoleLayout(Vocab(100, 98, 99), 8)
  row = layout.start([[1, 2], suffix], [[3]])
  starts = [infill_start([[1, 2]], [suffix], 8, layout.vocab)]
  if not suffix:
    starts.append(prompt_start([[1, 2]], 8, layout.vocab))
  for start in starts:
    for name in start._fields:
      np.testing.assert_array_equal(getattr(row, name), getattr(start, name)[0])


def test_a_fixed_length_model_predicts_the_padding_of_a_hole():
  layout = FixedHoleLayout(Vocab(100, 98, 99), 40)
  rooms = set()
  for first in range(40):
    parts, holes = [[first, 2], [6]], [[3, 4, 5]]
    row, start = layout.encode(parts, holes), layout.start(parts, holes)
    end = int(row.length) - 1
    assert row.tokens[:end].tolist() == [first, 2, 3, 4, 5] + [99] * (end - 5)
    assert row.frozen.nonzero()[0].tolist() == [0, 1, end]
    assert not row.open_gaps.any() and row.tokens[end] == 6
    masks = np.where(row.frozen, row.tokens, 98)[: end + 1]
    assert start.tokens[: end + 1].tolist() == masks.tolist()
    rooms.add(end - 2)
  assert rooms <= set(range(3, 15)) and len(rooms) > 6
  # Where nothing follows, all of the room is the hole's.
  row = layout.encode([[1, 2], []], [[3, 4, 5]])
  assert row.length == 40 and (row.tokens[5:] == 99).all()
  with pytest.raises(InputError, match="more than max_length=40"):
    layout.encode([[1] * 20, [3]], [[2] * 20])


def test_questions_become_records(settings):
  rows = [QUESTION, {"question": "no answer"}, {**QUESTION, "question": "Eh?"}]
  task = make_task("flexmdm", settings("gsm8k", rows, [QUESTION]))
  records = task.records("train")
  assert [record["row"] for record in records] == [0, 2]
  assert task.rows("train")[2]["question"] == "Eh?"
  record = task.records("test")[0]
  begin, end, _ = record["ends"]
  assert task.to_text(record["tokens"][:begin]) == "How much?\n"
  assert last_box(task.to_text(record["tokens"][begin:end])) == "1000"
  assert end == len(record["tokens"]) == records.lengths[0]
  start = task.start([record])
  assert start.length.tolist() == [begin]


CHAT = "{% for m in messages %}<|endoftext|>{{ m.content }}{% endfor %}!"


def test_a_question_is_asked_in_the_chat_template(settings, tmp_path):
  say = {"role": "user", "content": "Hi<|mdm_mask|>"}
  rows = [
    QUESTION,
    {"messages": [say, {"role": "assistant", "content": "Ho"}]},
    {"messages": [say]},
    {"messages": "Hi"},
  ]
  data = settings("gsm8k", rows)
  plain = make_task("flexmdm", data)
  with pytest.raises(InputError, match="has no chat template"):
    make_task("flexmdm", {**data, "chat": True})
  (tmp_path / "llada" / "chat_template.jinja").write_text(CHAT)
  data["chat"] = True
  records = make_task("flexmdm", data).records
  found = {record["row"]: record for x in SPLITS for record in read(records, x)}
  assert sorted(found) == [0, 1]
  for row, prefix, hole in ((0, "How much?", None), (1, say["content"], "Ho")):
    tokens, (begin, end) = found[row]["tokens"], found[row]["ends"][:2]
    assert tokens[0] == 261 and 262 not in tokens
    assert plain.to_text(tokens[1:begin]) == f"{prefix}!"
    answer = plain.to_text(tokens[begin:end])
    assert answer == hole or last_box(answer) == "1000"
  (tmp_path / "llada" / "chat_template.jinja").write_text("{% if %}")
  with pytest.raises(InputError, match="is no template"):
    make_task("flexmdm", data)
  with pytest.raises(InputError, match="asks no questions"):
    make_task("flexmdm", {**settings("code", [HOLE]), "chat": True})


def read(records, split):
  try:
    return list(records(split))
  except InputError:  # none fell into it
    return []


@pytest.mark.parametrize("method", ["flexmdm", "mdm"])
def test_several_holes_become_records(settings, method):
  changes = {"holes": 4, "most_holes": 3, "cut": "lines"}
  rows = [{"code": "".join(f"{i}{k}\n" for k in range(12))} for i in range(9)]
  task = make_task(method, settings("code", rows, rows, **changes))
  records = task.records("test")
  assert len(records) == 36
  assert {len(record["ends"]) for record in records} == {3, 5, 7}
  for record in records:
    given, holes = pieces(record)
    texts = [task.to_text(x) for x in (*given, *holes)]
    row = task.encode(record)
    frozen = row.tokens[: row.length][row.frozen[: row.length]]
    assert frozen.tolist() == np.concatenate(given).tolist()
    assert "".join(texts).count(BOUNDARY) == 2 * len(holes)
    assert (row.open_gaps.sum() > 0) == (method == "flexmdm")


def test_what_is_too_long_is_left_out(settings):
  task = make_task("flexmdm", settings("code", code(200), holes=3))
  lengths = task.records("train").lengths
  assert lengths.max() <= 160 and len(lengths) > 150
  rows = [
    task.records(split)[i]["row"]
    for split in ("train", "test")
    for i in range(3)
  ]
  assert max(rows) < 120  # of 200: those beyond are longer


def test_a_baseline_loads_without_buckets(settings):
  task = make_task("mdm", settings("gsm8k", [QUESTION] * 4, [QUESTION]))
  loader = make_loader(
    task.records("train"),
    task.encode,
    batch_size=2,
    seed=0,
    buckets=task.buckets,
  )
  batch = next(iter(loader))
  assert batch.tokens.shape == (2, 160) and (batch.length == 160).all()


def test_loads_in_buckets(settings):
  task = make_task("flexmdm", settings("code", code(60), holes=2))
  loader = make_loader(
    task.records("train"),
    task.encode,
    batch_size=4,
    seed=0,
    buckets=task.buckets,
  )
  for batch in itertools.islice(loader, 20):
    assert batch.tokens.shape[1] in (80, 160)
    for tokens, n, frozen in zip(
      batch.tokens, batch.length, batch.frozen, strict=True
    ):
      text = task.to_text(tokens[:n])
      assert text.count(BOUNDARY) == 2 and text.startswith(
        ("def", BOUNDARY, "d<", "de<")
      )
      assert 2 * len(BOUNDARY) <= frozen.sum() < n


def test_is_prepared_once(settings, tmp_path):
  data = settings("gsm8k", [QUESTION], [QUESTION])
  make_task("flexmdm", data).records("train")
  (folder,) = (tmp_path / "cache" / "finetune").iterdir()
  before = folder.stat().st_mtime_ns
  make_task("flexmdm", data).records("train")
  assert folder.stat().st_mtime_ns == before
  np.save(folder / "train.tokens.npy", np.zeros(3, np.int32))
  with pytest.raises(InputError, match="is damaged: remove"):
    make_task("flexmdm", data).records("train")


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"tokenizer": "char"}, "data.tokenizer=char is unknown"),
    ({"holes": 0}, "data.holes=0 must be at least 1"),
    (
      {"most_holes": 101},
      "data.most_holes=101 must be at least 1 and at most 100",
    ),
    ({"cut": "words"}, "data.cut='words' must be one of span, lines"),
    ({"max_length": 0}, "data.max_length=0 must be at least 1"),
    ({"buckets": (80,)}, "must end with max_length=160"),
    ({"tokenizer_folder": None}, "data.tokenizer_folder is not set"),
    ({"train": "nope.jsonl"}, r"data.train: no file matches 'nope.jsonl'"),
    ({"train": None}, "data.train is not set"),
    (
      {"name": "code"},
      r"data.train has no row that can be used .{'no_example'",
    ),
    ({"max_length": 5, "buckets": ()}, r"no row that can be used .{'too_long'"),
  ],
)
def test_settings_that_do_not_fit_are_named(settings, changes, message):
  with pytest.raises(InputError, match=message):
    task = make_task("flexmdm", settings("gsm8k", [QUESTION], **changes))
    task.records("train")


def test_what_is_not_there_is_named(settings):
  with pytest.raises(InputError, match="method='autoregressive' is unknown"):
    make_task("autoregressive", settings("gsm8k", [QUESTION]))
  task = make_task("flexmdm", settings("gsm8k", [QUESTION], [QUESTION]))
  with pytest.raises(InputError, match="no validation examples of at most"):
    task.records("validation")


def test_ids_around_every_prefix(settings):
  """The public 7B's prompts: BOS, prompt, pad; then the answer's gap."""
  plain = make_task("flexmdm", settings("gsm8k", [QUESTION], [QUESTION]))
  vocab = plain.vocab
  task = make_task(
    "flexmdm",
    settings(
      "gsm8k", [QUESTION], [QUESTION], begin_id=5, separator_id=vocab.pad
    ),
  )
  before, after = (x.records("train")[0] for x in (plain, task))
  begin = before["ends"][0]
  prefix, rest = before["tokens"][:begin], before["tokens"][begin:]
  expected = [5, *prefix, vocab.pad]
  assert [*after["tokens"]] == [*expected, *rest]
  assert after["ends"].tolist() == [x + 2 for x in before["ends"]]
  for made, row in ((task, expected), (plain, [*prefix])):
    begins, ends = made.around
    assert [*begins, *made.encode_text("How much?\n"), *ends] == row
  start = task.start([after])
  assert start.length[0] == begin + 2
  assert [*np.flatnonzero(start.open_gaps[0])] == [begin + 2]
  for changes in ({"begin_id": vocab.mask}, {"separator_id": vocab.size}):
    with pytest.raises(InputError, match=rf"data\.{next(iter(changes))}="):
      make_task("flexmdm", settings("gsm8k", [QUESTION], **changes))
