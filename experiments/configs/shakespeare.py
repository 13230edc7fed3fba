"""Speeches of Shakespeare, a natural law of lengths, on two CPU cores.

  python -m experiments.train --config=experiments/configs/shakespeare.py \
    --workdir=build/shakespeare --config.data.train=speeches.train.jsonl.gz \
    --config.data.validation=speeches.validation.jsonl.gz \
    --config.data.test=speeches.test.jsonl.gz \
    --config.data.tokenizer_folder=gpt2_bpe [--config.method=mdm]

Files have a row {"text": ...} a line; with `train` alone a tenth of it each is
held out for validation and test. The tokenizer is the first 1024 merges of
GPT-2's BPE. Hardware: 2 CPU cores, about half an hour. What to expect was
measured on 200 test speeches: 5.72 bits a token for the MDM, 5.82 for FlexMDM
on lengths first.
"""

from experiments.configs import base


def get_config():
  config = base.get_config()
  config.data.update(
    base.text_data(max_length=64, buckets=(16, 32, 64), merges=1024)
  )
  config.path = "lengths_first"
  config.model.update(
    hidden_size=96,
    num_layers=3,
    num_heads=4,
    cond_size=48,
    gap_head="binned",
    neighbours="input",
    unroll=3,
    dtype="float32",
  )
  config.optimizer.update(learning_rate=3e-3, warmup_steps=100, b2=0.99)
  config.train.update(
    num_steps=10_000,
    batch_size=32,
    ema_decay=0.999,
    targets="aligned",
    gap_loss="damped",
    report_every=50,
    checkpoint_every=1000,
    keep=10,
  )
  config.train.states.update(base.curriculum())
  config.sampler.update(steps=64)
  return config
