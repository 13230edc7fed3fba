import json
import re

import numpy as np

from experiments.configs import demo
from flexmdm_jax.data.tokenizers import GPT2Tokenizer
from flexmdm_jax.demo import stories
from flexmdm_jax.runs import Run


def test_a_story_keeps_to_its_people_and_things():
  rng = np.random.default_rng(0)
  for _ in range(200):
    first, *rest = re.findall(r"[^.]+\.", stories.story(rng))
    hero = next(name for name in first.split() if name in stories.PEOPLE)
    thing = [x for x in stories.THINGS if f" {x}" in first]
    if rest:
      assert rest[0].split()[0] == stories.PEOPLE[hero]
      assert any(x in rest[0] for x in thing)


def test_each_word_is_a_token(tmp_path):
  stories.write_stories(tmp_path / "a.jsonl", 50, seed=1)
  stories.write_tokenizer(tmp_path / "bpe")
  tokenizer = GPT2Tokenizer(tmp_path / "bpe")
  lines = (tmp_path / "a.jsonl").read_text().splitlines()
  longest = demo.get_config().data.max_length
  for line in lines:
    text = json.loads(line)["text"]
    ids = tokenizer.encode(text)
    assert len(ids) == len(re.findall(r"\w+|[.,]", text)) <= longest
    assert tokenizer.decode(ids) == text
  odd = "Zoë naps, <b>É!</b>"
  assert tokenizer.decode(tokenizer.encode(odd)) == odd


def test_the_config_reads_them(tmp_path):
  stories.write_stories(tmp_path / "a.jsonl", 50, seed=1)
  stories.write_tokenizer(tmp_path / "bpe")
  config = demo.get_config()
  config.data.update(
    train=str(tmp_path / "a.jsonl"),
    tokenizer_folder=str(tmp_path / "bpe"),
    folder=str(tmp_path / "cache"),
  )
  assert Run.from_config(config.to_dict()).model.max_length == 32
