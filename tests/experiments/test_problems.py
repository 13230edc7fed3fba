"""Problems of files: scored, stopped and gone on with, and refused."""

import dataclasses
import json

import pytest
from absl import flags
from absl.testing import flagsaver

from experiments.common import problems, sample_file
from experiments.common.evaluations import Options
from flexmdm_jax.data.tokenizers import CharTokenizer
from flexmdm_jax.errors import InputError
from flexmdm_jax.evaluation import programs
from flexmdm_jax.evaluation.solving import Solver
from flexmdm_jax.inference import Generation, Model
from tests.experiments.tools import run
from tests.tiny_model import tiny_model

ROWS = [
  {"task_id": f"r{i}", "prompt": p, "canonical_solution": h, "suffix": s}
  for i, (p, h, s) in enumerate(
    [("a=", "1", "\n"), ("b", "=1", ""), ("a" * 17, "", ""), ("", "a", "=1")]
  )
]
TESTED = {
  **ROWS[0],
  "test": "def check(x):\n  assert x == 1\n",
  "entry_point": "a",
}


@pytest.fixture(autouse=True)
def parsed():
  if not flags.FLAGS.is_parsed():
    flags.FLAGS(["test"], known_only=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  folder = tmp_path_factory.mktemp("model") / "folder"
  tiny_model(CharTokenizer("ab=1 \n")).export(folder)
  return folder


@pytest.fixture
def file(tmp_path):
  path = tmp_path / "rows.jsonl"
  path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
  return path


def evaluate(out, file=None, workdir=None, samples=None, **changes):
  options = {
    "workdir": workdir and str(workdir),
    "out": str(out),
    "num": None,
    "split": "test",
    "steps": None,
    "path": None,
    "seed": 0,
    "batch_size": 64,
    "unless_forced": lambda estimate: estimate(),
  }
  own = {field.name for field in dataclasses.fields(Options)}
  options |= {name: x for name, x in changes.items() if name in own}
  given = {name: x for name, x in changes.items() if name not in own}
  task = given.pop("task", "infill")
  with flagsaver.flagsaver(rows=file and str(file), **given):
    return problems.evaluate(task, Options(**options), samples)


@pytest.fixture
def no_sandbox(monkeypatch):
  """Leaves the probe of the sandbox out, where no program is run."""
  monkeypatch.setattr(programs, "run_program", lambda *_, **__: None)


def write(self, requests, way, *, seed, places, batch_size):
  """Writes texts that depend on place and seed, in place of `Model.stream`."""
  for first in range(0, len(requests), batch_size):
    yield [
      (place, Generation(None, [], False, 4, ["1a=b"[(place + seed) % 3 :]]))
      for place in places[first : first + batch_size]
    ]


def test_rows_go_on_where_they_stopped(
  folder, file, tmp_path, monkeypatch, no_sandbox
):
  monkeypatch.setattr(Model, "stream", write)
  monkeypatch.setattr(sample_file, "fingerprint", lambda model: "one")
  settings = dict(file=file, workdir=folder, samples_per_row=2, k=["1", "2"])
  result = evaluate(tmp_path / "whole.json", **settings)
  assert (result["rows"], result["samples"], result["too_long"]) == (3, 6, 1)
  assert {"exact@1", "exact@2_stderr", "similarity"} <= result.keys()
  whole = (tmp_path / "whole.rows.jsonl").read_bytes()
  lines = [json.loads(line) for line in whole.splitlines()]
  assert [line["id"] for line in lines] == ["r0", "r1", "r3"]
  assert all(len(line["scores"]) == 2 for line in lines)

  answers = Solver.answers

  def stopped(*args, **options):
    yield next(answers(*args, **options))
    raise KeyboardInterrupt

  out = tmp_path / "part.json"
  with monkeypatch.context() as patch:
    patch.setattr(Solver, "answers", stopped)
    with pytest.raises(KeyboardInterrupt):
      evaluate(out, batch_size=3, **settings)
  partial = tmp_path / "part.rows.jsonl.partial"
  done = partial.read_text().splitlines()
  assert len(done) == 2 and not (tmp_path / "part.rows.jsonl").exists()
  with pytest.raises(InputError, match="begun with seed=0, but now it is 1"):
    evaluate(out, seed=1, **settings)
  with pytest.raises(InputError, match="begun with samples_per_row=2"):
    evaluate(out, **settings | {"samples_per_row": 3})
  # A torn line is made anew; the row that is whole is not.
  partial.write_text(partial.read_text() + '{"row": 3, "id"')
  again = evaluate(out, batch_size=2, **settings)
  assert (tmp_path / "part.rows.jsonl").read_bytes() == whole
  assert not partial.exists()
  same = result.keys() - {"seconds", "commit"}
  assert {k: again[k] for k in same} == {k: result[k] for k in same}


def test_references_pass_and_empty_texts_do_not(tmp_path):
  file = tmp_path / "rows.jsonl"
  file.write_text(json.dumps(TESTED) + "\n")
  scores = {}
  for samples in ("reference", "empty"):
    out = tmp_path / f"{samples}.json"
    result = evaluate(out, file, samples=samples)
    scores[samples] = result["pass@1"], result["exact@1"], result["parses"]
  assert scores == {"reference": (1, 1, 1), "empty": (0, 0, 0)}
  # The rows that an evaluation wrote are such a file too.
  result = evaluate(
    tmp_path / "again.json", file, samples=tmp_path / "reference.rows.jsonl"
  )
  assert result["pass@1"] == 1


def test_rows_without_an_answer_are_counted(file, tmp_path, no_sandbox):
  answers = tmp_path / "answers.jsonl"
  answers.write_text(json.dumps({"id": "r1", "texts": ["=1"]}))
  result = evaluate(tmp_path / "out.json", file, samples=answers)
  assert (result["rows"], result["unanswered"]) == (1, 3)
  assert result["exact@1"] == 1


@pytest.mark.parametrize(
  ("changes", "why"),
  [
    ({"k": ["2"]}, "k=2 needs as many samples of a row"),
    ({"k": ["x"]}, "--k=x must be integers"),
    ({"workdir": None}, "--workdir is missing"),
    ({"workdir": None, "file": None}, "--workdir is missing"),
    ({"file": None}, "give --rows=FILES"),
    ({"file": None, "task": "humaneval"}, "give --rows=FILES"),
    ({"file": "none.jsonl"}, "no file matches 'none.jsonl'"),
    ({"task": "gsm8k"}, "line 1: the key 'question' is missing"),
    ({"hole_tokens": "many"}, "hole_tokens='many' must be oracle"),
    ({"hole_tokens": "8"}, "decides the length itself"),
    ({"sampler": "steps=4"}, "must be NAME=VALUE"),
    ({"preset": "none"}, "preset='none' is unknown"),
    ({"program_seconds": -1.0}, r"limits\.seconds=-1\.0 must be above 0"),
    ({"workdir": "none"}, "none is no folder"),
  ],
)
def test_wrong_flags_are_refused(
  folder, file, tmp_path, no_sandbox, changes, why
):
  pytest.importorskip("math_verify")
  settings = {"file": file, "workdir": folder} | changes
  with pytest.raises(InputError, match=why):
    evaluate(tmp_path / "out.json", **settings)
  assert not list(tmp_path.glob("out*"))


def test_a_model_without_a_tokenizer_is_refused(file, tmp_path, no_sandbox):
  model = tiny_model(CharTokenizer("ab=1 \n"))
  dataclasses.replace(model, tokenizer=None).export(tmp_path / "folder")
  with pytest.raises(InputError, match="this model has no tokenizer"):
    evaluate(tmp_path / "out.json", file, tmp_path / "folder")


def test_no_sandbox_is_one_line(file, tmp_path, monkeypatch):
  def refuse(*_, unsafe, **__):
    if not unsafe:
      raise InputError("this machine cannot shut a program in.")

  monkeypatch.setattr(programs, "run_program", refuse)
  out = tmp_path / "out.json"
  with pytest.raises(InputError, match=r"shut a program in\. --unsafe does"):
    evaluate(out, file, samples="empty")
  assert evaluate(out, file, samples="empty", unsafe=True)["rows"] == 4


def test_the_command_writes_a_result_and_its_rows(file, tmp_path):
  out = tmp_path / "out.json"
  arguments = [f"--rows={file}", f"--out={out}", "--samples=reference"]
  status, printed, err = run("evaluate", "--task=infill", *arguments)
  assert status == 0, err
  result = json.loads(out.read_text())
  assert result["exact@1"] == json.loads(printed)["exact@1"] == 1
  assert result["versions"]["jax"] and result["settings"]["task"] == "infill"
  assert len((tmp_path / "out.rows.jsonl").read_text().splitlines()) == 4
  status, _, err = run("evaluate", "--task=lengths", *arguments)
  assert status == 2
  assert err == (
    f"error: --rows={file} is of no use to --task=lengths: leave it out.\n"
  )
