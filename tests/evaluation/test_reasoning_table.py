"""The comparison of an MDM and a FlexMDM that were told different lengths."""

import json

import pytest

from experiments.configs import small_infilling
from flexmdm_jax.errors import InputError
from flexmdm_jax.evaluation import reasoning_table
from flexmdm_jax.evaluation.reasoning_table import Measurements, make_table
from flexmdm_jax.tasks.reasoning import make_code

pytestmark = pytest.mark.slow


@pytest.fixture
def config(tmp_path):
  source = tmp_path / "source"
  source.mkdir()
  text = "".join(f"def f{i}(x):\n  return x + {i}\n\n" for i in range(80))
  (source / "a.py").write_text(text)
  make_code(tmp_path / "code", source)
  config = small_infilling.get_config()
  config.data.update(
    folder=str(tmp_path / "cache"),
    train=str(tmp_path / "code" / "train.jsonl"),
    test=str(tmp_path / "code" / "test.jsonl"),
    tokenizer_folder=str(tmp_path / "code" / "tokenizer"),
    buckets=(),
  )
  config.model.update(hidden_size=16, num_layers=2, num_heads=2)
  config.model.update(num_kv_heads=2, mlp_size=16)
  config.model.lora.rank = 0
  config.optimizer.warmup_steps = 1
  config.train.update(
    num_steps=2, batch_size=8, report_every=1, checkpoint_every=2
  )
  return config


def test_every_length_and_number_of_calls_is_measured(config, tmp_path):
  measurements = Measurements(5, (2, 4), ("oracle", "x0.5", "x2"))
  made = make_table(config.to_dict(), "small", tmp_path / "out", measurements)
  for rows in made:
    reasoning_table.write(tmp_path / "out", "small", rows)
  assert [row["method"] for row in rows] == ["mdm", "flexmdm"]
  ways = [(x["length"], x["steps"]) for x in rows[0]["samples"]]
  assert ways == [
    *(("oracle", 2), ("x2", 2)),
    *(("oracle", 4), ("x0.5", 4), ("x2", 4)),
  ]
  assert [(x["length"], x["steps"]) for x in rows[1]["samples"]] == [
    (None, 2),
    (None, 4),
  ]
  assert rows[0]["positions"] >= rows[1]["positions"] > 0
  for row in rows:
    for found in row["samples"]:
      assert found["rows"] == 5 and 0 <= found["exact@1"] <= 1
  table = (tmp_path / "out" / "small.md").read_text()
  assert table.count("\n") == 2 + 5 + 2 and "| flexmdm | none | 4 |" in table
  assert (tmp_path / "out" / "small.png").stat().st_size > 1000
  saved = json.loads((tmp_path / "out" / "small.json").read_text())
  assert saved["rows"] == json.loads(json.dumps(rows))


def test_a_text_has_no_holes_to_compare(config, tmp_path):
  del config.data.holes, config.data.most_holes, config.data.cut
  del config.data.begin_id, config.data.separator_id
  config.data.update(name="text", text_key="code")
  with pytest.raises(InputError, match="is no fine-tuning"):
    next(make_table(config.to_dict(), "a", tmp_path, Measurements(1, (1,), ())))
