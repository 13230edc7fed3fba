import json
import random
import shutil

import pytest

from flexmdm_jax.training.metrics import read_metrics
from tests.data.tiny_text import write_bpe, write_jsonl
from tests.experiments.tools import TINY, run

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def flags(tmp_path_factory):
  folder = tmp_path_factory.mktemp("text")
  draw = random.Random(0)
  texts = ["hello w" * draw.randint(1, 5) for _ in range(200)]
  return [
    "--config=experiments/configs/shakespeare.py",
    f"--config.data.folder={folder / 'cache'}",
    f"--config.data.train={write_jsonl(folder / 'a.jsonl', texts)}",
    f"--config.data.tokenizer_folder={write_bpe(folder / 'bpe')}",
    "--config.data.merges=4",
    "--config.data.max_length=16",
    "--config.data.buckets=(4,8,16)",
    *TINY,
    "--config.train.num_steps=20",
  ]


def losses(workdir):
  return [(line["step"], line["loss"]) for line in read_metrics(workdir)]


def test_text_trains_resumes_and_samples(flags, tmp_path):
  whole, parts = tmp_path / "whole", tmp_path / "parts"
  status, _, err = run("train", f"--workdir={whole}", *flags)
  assert status == 0, err
  assert [step for step, _ in losses(whole)] == [5, 10, 15, 20]

  # As if stopped at step 10, amid an epoch of 20 batches in three shapes.
  shutil.copytree(whole, parts)
  for step in (15, 20):
    shutil.rmtree(parts / "checkpoints" / str(step))
  status, _, err = run("train", f"--workdir={parts}", *flags)
  assert status == 0, err
  assert losses(parts) == losses(whole)

  out = tmp_path / "samples.jsonl"
  status, _, err = run(
    "sample",
    f"--workdir={whole}",
    "--num=2",
    "--steps=4",
    "--prefix=hello",
    "--suffix= w",
    f"--out={out}",
  )
  assert status == 0, err
  rows = [json.loads(line) for line in out.read_text().splitlines()]
  assert len(rows) == 2
  for row in rows:
    assert row["text"].startswith("hello") and row["text"].endswith(" w")
    assert len(row["tokens"]) <= 16
