"""A small masked diffusion model of LLaDA's architecture, to be retrofitted.

  python -m experiments.reasoning_data --out=build/reasoning
  python -m experiments.train --config=experiments/configs/small_llada.py \
    --workdir=build/code_parent --config.data.text_key=code \
    --config.data.train=build/reasoning/code/train.jsonl \
    --config.data.validation=build/reasoning/code/validation.jsonl \
    --config.data.test=build/reasoning/code/test.jsonl \
    --config.data.tokenizer_folder=build/reasoning/code/tokenizer

It is a baseline of a fixed length, which predicts padding, as LLaDA is: what
`small_infilling` starts from, 1.3M parameters, half an hour of two CPU cores.
`small_gsm8k` starts from one of word problems, .9M parameters and as long:
--config.data.text_key=text --config.data.max_length=72
--config.train.num_steps=15000, and the folders of problems/.
"""

from experiments.configs import base


def get_config():
  config = base.get_config()
  config.method = "mdm"
  config.data.update(
    base.text_data(max_length=96, buckets=(), tokenizer="folder")
  )
  config.model = model()
  config.optimizer.update(learning_rate=2e-3, warmup_steps=100)
  config.train.update(
    num_steps=7000,
    batch_size=32,
    ema_decay=0.995,
    report_every=50,
    checkpoint_every=250,
  )
  return config


def model(**added):
  """The network; a retrofit adds to it what a FlexMDM needs."""
  return dict(
    kind="transformer",
    hidden_size=128,
    num_layers=4,
    num_heads=4,
    num_kv_heads=4,
    mlp_size=352,
    rotary_base=10_000.0,
    dtype="float32",
    **added,
  )
