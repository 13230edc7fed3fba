"""A hidden Markov language: how far from its entropy does a model stay?

  python -m experiments.train --config=experiments/configs/markov.py \
    --workdir=build/markov [--config.method=mdm]

Hardware: 2 CPU cores, ten minutes. `experiments.evaluate --task=likelihood`
tells as `nats_above` what the model needs above the exact entropy. To expect:
1.3 nats above 51.1 for FlexMDM and .5 for the MDM, ± .2, after 1,500 steps (300
test sequences, 64 calls).
"""

from experiments.configs import base


def get_config():
  config = base.get_config()
  config.data.update(
    name="markov",
    symbols=8,
    phases=4,
    mean_length=40.0,
    max_length=96,
    # A language with much to learn: 54 nats a sequence, where a chain of
    # visible tokens has 58 and independent tokens 64.
    seed=7,
    num_train=20_000,
    num_eval=1000,
  )
  config.model.update(
    hidden_size=64,
    num_layers=2,
    num_heads=4,
    cond_size=48,
    gap_head="binned",
    neighbours="input",
    unroll=2,
    dtype="float32",
  )
  config.path = "lengths_first"
  config.optimizer.update(learning_rate=3e-3, warmup_steps=100, b2=0.99)
  config.train.update(
    num_steps=3000,
    gap_loss="damped",
    batch_size=32,
    ema_decay=0.999,
    targets="aligned",
    report_every=50,
    checkpoint_every=500,
    keep=6,
  )
  config.train.states.update(base.curriculum())
  config.sampler.update(steps=96)
  return config
