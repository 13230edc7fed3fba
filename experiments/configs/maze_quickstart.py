"""Planning in a 7x7 maze, small enough for two CPU cores.

  python -m experiments.train --config=experiments/configs/maze_quickstart.py \
    --workdir=build/maze_quickstart [--config.method=mdm_pinned]

`make quickstart` trains this and the pinned baseline. Hardware: 2 CPU cores,
about 3 minutes a model. To expect, on held-out problems: FlexMDM solves nine
in ten at 64 calls, the pinned baseline one in ten.
"""

from experiments.configs import base


def get_config():
  config = base.get_config()
  config.data.update(
    name="mazes",
    size=7,
    maze_seed=0,
    subgoals=3,
    max_length=25,
    num_train=3200,
    num_eval=400,
    pinned="law",
  )
  config.model.update(
    hidden_size=96,
    num_layers=3,
    num_heads=4,
    cond_size=48,
    gap_head="distribution",
    neighbours="input",
    unroll=3,
    dtype="float32",
  )
  config.optimizer.update(learning_rate=3e-3, warmup_steps=50, b2=0.99)
  config.train.update(
    num_steps=1000,
    batch_size=64,
    ema_decay=0.995,
    report_every=20,
    checkpoint_every=250,
  )
  config.sampler.update(steps=64)
  return config
