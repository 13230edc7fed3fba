"""Balanced brackets in about four minutes on 2 CPU cores.

python -m experiments.train \
    --config=experiments/configs/brackets_quickstart.py \
    --workdir=build/brackets_quickstart [--config.method=mdm]
"""

from experiments.configs import brackets


def get_config():
  config = brackets.get_config()
  config.data.num_train = 20_000
  config.model.update(hidden_size=64, num_layers=3, num_heads=4, cond_size=64)
  config.train.update(
    num_steps=1000,
    batch_size=32,
    ema_decay=0.99,
    report_every=20,
    checkpoint_every=250,
  )
  return config
