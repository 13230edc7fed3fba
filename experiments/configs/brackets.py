"""Balanced brackets of length 4, 16, 32 or 64: does the model learn the length?

  python -m experiments.train --config=experiments/configs/brackets.py \
    --workdir=build/brackets [--config.method=mdm]

Hardware: one GPU, about five minutes; or 2 CPU cores, about six hours. To
expect: `experiments.evaluate --task=lengths` finds balanced samples whose
length law is near the data's probabilities .1, .4, .4, .1.
"""

from experiments.configs import base


def get_config():
  config = base.get_config()
  config.data.update(
    name="brackets",
    kinds=4,
    data_seed=0,
    max_length=64,
    num_train=100_000,
    num_eval=2000,
  )
  config.model.update(
    hidden_size=256,
    num_layers=6,
    num_heads=8,
    cond_size=128,
    dtype="float32",
  )
  config.optimizer.update(learning_rate=1e-3, warmup_steps=200, b2=0.99)
  config.train.update(
    num_steps=10_000,
    batch_size=128,
    ema_decay=0.999,
    checkpoint_every=1000,
  )
  config.sampler.update(steps=128)
  return config
