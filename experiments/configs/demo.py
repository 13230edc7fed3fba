"""Small stories by rules, for the demo's model; see `experiments.demo_model`.

Hardware: 2 CPU cores, about three minutes. Sentences are mostly grammatical;
whom they tell of changes now and then from one to the next.
"""

from experiments.configs import base


def get_config():
  config = base.get_config()
  config.data.update(
    base.text_data(max_length=32, buckets=(16, 32)),
  )
  config.model.update(
    hidden_size=64,
    num_layers=3,
    num_heads=4,
    cond_size=64,
    gap_head="binned",
    neighbours="input",
    dtype="float32",
  )
  config.optimizer.update(learning_rate=3e-3, warmup_steps=100, b2=0.99)
  config.train.update(
    num_steps=2000,
    batch_size=32,
    ema_decay=0.99,
    gap_loss="damped",
    report_every=50,
    checkpoint_every=500,
  )
  config.sampler.update(steps=64)
  return config
