"""Samples of a tiny text model: rows in, lines out, on the way and stopped."""

import fcntl
import io
import json

import jax
import numpy as np
import pytest
from flax import linen as nn

import flexmdm_jax as fm
from experiments.common import sample_file, sampling, watch
from experiments.common.sample_rows import (
  make_requests,
  read_rows,
  rows_of_flags,
)
from flexmdm_jax import schedules
from flexmdm_jax.data.chat import ChatTemplate
from flexmdm_jax.data.tokenizers import CharTokenizer
from flexmdm_jax.errors import InputError
from flexmdm_jax.inference import Model, Preset
from flexmdm_jax.inference.replay import replay, write_page
from flexmdm_jax.models.denoiser import denoiser
from flexmdm_jax.sampling import SamplerConfig
from tests.experiments.tools import run

PATH = fm.JointInterpolant(schedules.Linear(), schedules.Linear())
ROWS = [
  {"prompt": "ab", "id": 7, "tokens": "not ours"},
  {"parts": ["a", "<b", ""]},
  {"prefix": "abc"},
  {"anchors": [0, 1, 2]},
  {"prompt": "abcdef"},
]


@pytest.fixture(scope="module")
def model():
  tokenizer = CharTokenizer("abcdef<>/ \n\x1b")
  network = fm.DiT(
    tokenizer.vocab, 12, hidden_size=16, num_layers=1, num_heads=2, cond_size=8
  )
  ids = np.zeros((1, 12), np.int32)
  params = jax.jit(network.init)(
    jax.random.key(0), ids, np.ones(1, np.int32), np.zeros(1, np.float32)
  )["params"]
  params = jax.tree.map(
    lambda x: x + 0.3 * jax.random.normal(jax.random.key(1), x.shape),
    jax.tree.map(np.asarray, nn.unbox(params)),
  )
  return Model(
    denoiser=denoiser(network, params),
    vocab=tokenizer.vocab,
    interpolant=PATH,
    path=PATH,
    sampler=SamplerConfig(steps=4, buckets=()),
    max_length=12,
    tokenizer=tokenizer,
    presets={"quick": Preset(SamplerConfig(steps=2, buckets=()), PATH)},
  )


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory):
  folder = tmp_path_factory.mktemp("model") / "folder"
  model.export(folder)
  return folder


@pytest.fixture
def file(tmp_path):
  path = tmp_path / "rows.jsonl"
  path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
  return path


def job(model, file, **changes):
  settings = dict(way=model.way(), num=3, seed=5) | changes
  return sampling.Job(model, rows=read_rows(file), **settings)


def lines(path):
  return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def whole(model, tmp_path_factory):
  """The file of one uninterrupted run."""
  folder = tmp_path_factory.mktemp("whole")
  (folder / "rows.jsonl").write_text(
    "".join(json.dumps(row) + "\n" for row in ROWS)
  )
  job(model, folder / "rows.jsonl").write(folder / "out.jsonl", 64)
  return folder / "out.jsonl"


def test_lines_have_their_place_and_what_rows_carry(whole):
  found = lines(whole)
  places = [(line["row"], line["sample"]) for line in found]
  assert places == [(row, i) for row in range(5) for i in range(3)]
  keys = ["row", "sample", "tokens", "text", "filled", "truncated", "calls"]
  assert list(found[0]) == ["row", "sample", "id", *keys[2:]]
  assert all(list(line) == keys for line in found[3:])
  for line in found[:3]:
    assert line["id"] == 7 and line["tokens"][:2] == [6, 7]
    assert line["text"] == "ab" + line["filled"][0]
  for line in found[3:6]:
    first, second = line["filled"]
    assert line["text"] == f"a{first}<b{second}"
  assert all(len(line["filled"]) == 4 for line in found[9:12])
  assert all(1 <= line["calls"] <= 4 for line in found)
  assert not whole.with_name("out.jsonl.partial").exists()


@pytest.mark.parametrize("batch_size", [1, 3])
def test_the_batch_changes_nothing(model, file, whole, tmp_path, batch_size):
  out = tmp_path / "out.jsonl"
  job(model, file).write(out, batch_size)
  assert out.read_bytes() == whole.read_bytes()


def test_keys_are_those_of_the_places(model, tmp_path):
  out = tmp_path / "out.jsonl"
  rows = rows_of_flags(None, None, None, None)
  sampling.Job(model, model.way(), rows, 5, 9).write(out, 2)
  start = fm.empty_start(5, 12, model.vocab)
  samples = model.sample(jax.random.key(9), start, 8)
  assert [x["tokens"] for x in lines(out)] == [
    x.tolist() for x in samples.sequences()
  ]


class Stop(BaseException):
  pass


def stopped(model, file, out, monkeypatch, batches=2):
  """Leaves what a run that is stopped after some batches leaves."""
  stream = Model.stream

  def some(*args, **settings):
    apart = {**settings, "together": 1}
    for i, batch in enumerate(stream(*args, **apart)):
      if i == batches:
        raise Stop
      yield batch

  with monkeypatch.context() as context:
    context.setattr(Model, "stream", some)
    with pytest.raises(Stop):
      job(model, file).write(out, 4)
  return out.with_name(out.name + ".partial")


def test_a_stopped_run_goes_on(model, file, whole, tmp_path, monkeypatch):
  out = tmp_path / "out.jsonl"
  out.write_text("an older file\n")
  partial = stopped(model, file, out, monkeypatch)
  assert out.read_text() == "an older file\n"
  assert len(partial.read_text().splitlines()) == 1 + 2 * 4
  with partial.open("a") as torn:
    torn.write('{"row": 4, "sam')
  sampled = []
  stream = Model.stream
  monkeypatch.setattr(
    Model,
    "stream",
    lambda self, requests, *args, **settings: (
      sampled.append(len(requests)) or stream(self, requests, *args, **settings)
    ),
  )
  job(model, file).write(out, 3)
  assert sampled == [15 - 8]
  assert out.read_bytes() == whole.read_bytes()
  assert not partial.exists()


def test_a_run_that_ended_before_its_file_was_in_order(
  model, file, whole, tmp_path, monkeypatch
):
  out = tmp_path / "out.jsonl"
  stopped(model, file, out, monkeypatch, batches=3)
  with monkeypatch.context() as context:
    context.setattr(
      sample_file.SampleFile, "finish", lambda self: (_ for _ in ()).throw(Stop)
    )
    with pytest.raises(Stop):
      job(model, file).write(out, 4)
  assert not out.exists()
  job(model, file).write(out, 4)
  assert out.read_bytes() == whole.read_bytes()


def test_other_settings_are_refused(model, file, tmp_path, monkeypatch):
  out = tmp_path / "out.jsonl"
  partial = stopped(model, file, out, monkeypatch)
  before = partial.read_bytes()
  file.write_text(file.read_text().replace('"id": 7', '"id": 8'))
  other = model.way(steps=3)
  for changed, says in (
    (job(model, file), "begun with rows="),
    (job(model, file, seed=6), "begun with rows="),
    (job(model, file, way=other), "begun with rows="),
  ):
    with pytest.raises(InputError, match=says):
      changed.write(out, 4)
  file.write_text(file.read_text().replace('"id": 8', '"id": 7'))
  for changed, says in (
    (job(model, file, seed=6), "begun with seed=5, but now it is 6: give"),
    (job(model, file, num=2), "begun with num=3"),
    (job(model, file, way=other), "begun with steps=4"),
  ):
    with pytest.raises(InputError, match=says):
      changed.write(out, 4)
  assert partial.read_bytes() == before and not out.exists()


def test_another_model_is_refused(model, file, tmp_path, monkeypatch):
  out = tmp_path / "out.jsonl"
  stopped(model, file, out, monkeypatch)
  trained = jax.tree.map(lambda x: x + 1, model.denoiser.params)
  network = model.denoiser.model
  changed = Model(**{**vars(model), "denoiser": denoiser(network, trained)})
  with pytest.raises(InputError, match="begun with model="):
    job(changed, file).write(out, 4)


@pytest.mark.parametrize(
  ("text", "says"),
  [
    ('{"settings": {"a": 1}}\n', "begun with flexmdm_jax=None"),
    ("a diary\n", "line 1: "),
    ("a diary", "is no file of samples"),
    ('{"settings": []}\n', "'settings' must be an object"),
  ],
)
def test_a_file_that_is_not_ours_stays(model, file, tmp_path, text, says):
  out = tmp_path / "out.jsonl"
  partial = tmp_path / "out.jsonl.partial"
  partial.write_text(text)
  with pytest.raises(InputError, match=says):
    job(model, file).write(out, 4)
  assert partial.read_text() == text


def test_a_torn_header_is_written_again(model, file, whole, tmp_path):
  for torn in ('{"set', '{"settings": {"flexmdm_jax": "0.'):
    (tmp_path / "out.jsonl.partial").write_text(torn)
    job(model, file).write(tmp_path / "out.jsonl", 64)
    assert (tmp_path / "out.jsonl").read_bytes() == whole.read_bytes()


def test_a_damaged_line_is_named(model, file, tmp_path, monkeypatch):
  out = tmp_path / "out.jsonl"
  partial = stopped(model, file, out, monkeypatch)
  text = partial.read_text().split("\n")
  text[2] = text[2][:20]
  partial.write_text("\n".join(text))
  with pytest.raises(InputError, match="line 3: "):
    job(model, file).write(out, 4)
  assert partial.read_text() == "\n".join(text)


def test_two_processes_do_not_mix(model, file, tmp_path):
  partial = tmp_path / "out.jsonl.partial"
  with partial.open("wb") as held:
    fcntl.flock(held, fcntl.LOCK_EX)
    with pytest.raises(InputError, match="written by another process"):
      job(model, file).write(tmp_path / "out.jsonl", 4)


@pytest.mark.parametrize(
  ("row", "says"),
  [
    ("{}", "has nothing to sample from: give one of prompt"),
    ('{"promt": "a"}', "has nothing to sample from"),
    ('{"prompt": "a", "parts": ["a", "b"]}', "'prompt' and 'parts'"),
    ('{"prompt": 3}', "has prompt=3: it must be a text or a list of ids"),
    ('{"prompt": [1, true]}', "a text or a list of ids"),
    ('{"parts": "a"}', "a list of texts"),
    ('{"parts": ["a", 3]}', "a list of texts"),
    ('{"messages": {"role": "user"}}', "a list of messages"),
    ('{"prompt": "a"', "line 2: Expecting"),
    ("[1]", "no object but a list"),
    ("", "Expecting value"),
  ],
)
def test_bad_rows_are_named(tmp_path, row, says):
  path = tmp_path / "rows.jsonl"
  path.write_text(f'{{"prompt": "a"}}\n{row}\n')
  with pytest.raises(InputError, match=r"rows\.jsonl.*line 2") as error:
    read_rows(path)
  assert says in str(error.value)


@pytest.mark.parametrize(
  ("row", "says"),
  [
    ({"prompt": "abcdefabcdefa"}, "a prompt has 13 tokens"),
    ({"prompt": [99]}, r"the id 99 is out of range"),
    ({"parts": ["a"]}, "1 parts and no hole"),
    ({"messages": [{"role": "user", "content": "a"}]}, "chat template"),
  ],
)
def test_rows_that_the_model_cannot_take_are_named(model, tmp_path, row, says):
  path = tmp_path / "rows.jsonl"
  path.write_text('{"prompt": "a"}\n' + json.dumps(row))
  with pytest.raises(InputError, match=rf"^\S*rows\.jsonl: line 2: .*{says}"):
    make_requests(model, read_rows(path), 2)


def test_conversations_are_put_into_the_template(model, tmp_path):
  source = "{% for m in messages %}<{{ m.content }}>{% endfor %}"
  template = ChatTemplate(source, {}, "the template")
  path = tmp_path / "rows.jsonl"
  messages = [{"role": "user", "content": x} for x in "ab"]
  path.write_text(json.dumps({"messages": messages}))
  chatty = Model(**{**vars(model), "template": template})
  (request,) = make_requests(chatty, read_rows(path), 1)
  ids = request.start.tokens[: request.start.length]
  assert model.decode(ids) == "<a><b>"


def test_an_empty_file(tmp_path):
  path = tmp_path / "rows.jsonl"
  path.write_text("")
  with pytest.raises(InputError, match="is empty"):
    read_rows(path)


def test_ids_stand_for_text_without_a_tokenizer(model):
  bare = Model(**{**vars(model), "tokenizer": None})
  for flags, tokens, gaps in (
    ((None, None, None), [], [0]),
    (("1 0", None, None), [1, 0], [2]),
    ((None, "1,0", "0"), [1, 0, 0], [2]),
    ((None, None, "0"), [0], [0]),
  ):
    rows = rows_of_flags(None, *flags)
    first, second = make_requests(bare, rows, 2)
    assert first is second
    start = first.start
    assert start.tokens[: start.length].tolist() == tokens
    assert np.flatnonzero(start.open_gaps).tolist() == gaps
  with pytest.raises(InputError, match="--prompt: 'one' is not a list"):
    make_requests(bare, rows_of_flags(None, "one", None, None), 1)


@pytest.mark.parametrize(
  "flags", [(None, "a", "a", None), ("x", "a", None, None)]
)
def test_two_kinds_of_flags(flags):
  with pytest.raises(InputError, match=r"leave the file out|give one kind"):
    rows_of_flags(*flags)


@pytest.fixture(scope="module")
def played(model):
  requests = [
    *model.requests(1, infills=[("a", "<b")]), *model.requests(1)
  ]  # fmt: skip
  names = ["row 0, sample 0", "row 1, sample 0"]
  return replay(model, requests, names=names, seed=5, chances=True)


def test_a_replay_ends_in_the_samples(model, played):
  requests = [*model.requests(1, infills=[("a", "<b")]), *model.requests(1)]
  (found,) = model.stream(requests, seed=5)
  for place, generation in found:
    frames = played.samples[place]
    assert frames.row(-1).tolist() == generation.tokens
    shown = [
      (chance, status)
      for step, (_, status, origin) in enumerate(frames.steps())
      for chance, status in zip(
        frames.chance[step][origin], status, strict=True
      )
      if status == "revealed"
    ]
    assert shown and all(0 < chance <= 1 for chance, _ in shown)


def test_steps_as_plain_lines(played):
  found = list(watch.plain_lines(played))
  assert found[0] == "row 0, sample 0, step 0/4: a<b"
  ends = [line for line in found if ", step 4/4: " in line]
  assert len(ends) == 2 and not any("_" in line for line in ends)
  assert any("_" in line for line in found)
  assert all(line.isprintable() for line in found)
  ids = played._replace(label=str, between=" ")
  assert next(watch.plain_lines(ids)).endswith("step 0/4: 6 4 7")


def test_text_grows_in_the_terminal(played, monkeypatch):
  console = pytest.importorskip("rich.console")
  monkeypatch.setattr(watch.time, "sleep", lambda seconds: None)
  out = io.StringIO()
  watch._play(played, console.Console(file=out, force_terminal=True, width=60))
  text = out.getvalue()
  assert "row 1, sample 0" in text and "step 4 of 4" in text
  assert "░" in text or "▒" in text
  # Its own orders to the terminal are there, but none of the model's.
  assert watch._printable("a\x1b[2J\u202e\n") == "a\ufffd[2J\ufffd\n"


def test_a_terminal_without_rich(monkeypatch):
  monkeypatch.setattr(watch.sys.stdout, "isatty", lambda: True, raising=False)
  monkeypatch.setattr(watch.importlib.util, "find_spec", lambda name: None)
  with pytest.raises(InputError, match=r"needs the package rich: pip install"):
    watch.require_watch()


def test_what_cannot_be_played(model):
  with pytest.raises(InputError, match="corrections"):
    way = model.way(corrections=1)
    replay(model, model.requests(1), way)


def test_the_page_has_names_and_probabilities(played, tmp_path):
  write_page(tmp_path / "trace.html", "<Text>", played)
  text = (tmp_path / "trace.html").read_text()
  data = text.split('id="trace">')[1].split("</script>")[0]
  samples = json.loads(data)["samples"]
  assert [x["name"] for x in samples] == ["row 0, sample 0", "row 1, sample 0"]
  assert samples[0]["frozen"] == [0, 1, 2]
  changes = [c for x in samples for c in x["frames"] if c]
  assert all(len(c["p"]) == len(c["x"]) for c in changes)


@pytest.mark.slow
def test_the_command(model, folder, file, tmp_path):
  out, page = tmp_path / "out.jsonl", tmp_path / "new" / "trace.html"
  status, printed, err = run(
    "sample",
    f"--workdir={folder}",
    f"--input={file}",
    f"--out={out}",
    f"--trace={page}",
    "--watch",
    "--show=2",
    "--preset=quick",
    "--num=2",
    xla_flags="",
  )
  assert status == 0 and not err, err
  assert len(lines(out)) == 2 * len(ROWS)
  assert "<!doctype html>" in page.read_text()
  assert "row 0, sample 1, step 2/2: ab" in printed
  assert f"wrote 10 samples to {out}" in printed


@pytest.mark.parametrize(
  ("flags", "says"),
  [
    (["--out=o", "--preset=slow"], "preset='slow' is unknown"),
    (["--out=o", "--steps=0"], "--steps=0"),
    (["--num=2"], "give --out, --trace or --watch"),
    (["--out=o", "--num=1000000000"], "--force tries it"),
  ],
)
def test_one_line_that_names_the_value(folder, tmp_path, flags, says):
  flags = [x.replace("--out=o", f"--out={tmp_path / 'o'}") for x in flags]
  status, _, err = run("sample", f"--workdir={folder}", *flags)
  assert status == 2 and len(err.splitlines()) == 1, err
  assert err.startswith("error: ") and says in err
  assert not list(tmp_path.iterdir())
