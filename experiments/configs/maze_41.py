"""Planning in the paper's 41x41 maze, with K subgoals.

  python -m experiments.train --config=experiments/configs/maze_41.py \
    --workdir=DIR --config.data.subgoals=7 [--config.method=mdm_pinned]

K counts the start and the goal. `make maze_41` trains FlexMDM and both
baselines for K = 2, 7 and 12, with room for 192, 768 and 1152 tokens, and
scores 1,000 held-out problems of each. Hardware: one 80 GB GPU. The paper, at
K = 2 / 7 / 12: FlexMDM 92.3 / 90.4 / 90.0 %, MDM 68.4 / 29.3 / 24.2 %.
"""

from experiments.configs import base


def get_config():
  config = base.get_config()
  config.data.update(
    name="mazes",
    size=41,
    maze_seed=0,
    subgoals=7,
    max_length=768,
    num_train=100_000,
    num_eval=1000,
    pinned="law",
  )
  config.model.update(
    hidden_size=384,
    num_layers=8,
    num_heads=6,
    cond_size=128,
    gap_head="distribution",
  )
  config.optimizer.update(warmup_steps=500, learning_rate=1e-3, b2=0.99)
  config.train.update(
    num_steps=5000,
    batch_size=256,
    ema_decay=0.999,
    checkpoint_every=1000,
  )
  config.sampler.update(steps=256)
  return config
