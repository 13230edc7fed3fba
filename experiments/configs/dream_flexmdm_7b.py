"""Fine-tuning of the public 7B FlexMDM, on GSM8K or on code.

  python -m experiments.convert --input=FLEXMDM --output=FOLDER
  python -m experiments.train --config=experiments/configs/dream_flexmdm_7b.py \
    --workdir=DIR --config.pretrained=FOLDER \
    --config.data.tokenizer_folder=FLEXMDM --config.data.train='code/*.jsonl' \
    [--config.data.name=gsm8k] [--config.model.lora.rank=0]

FLEXMDM is the checkpoint's folder as published, with a tokenizer.json. By
default updates of rank 128 of queries, keys, values and the vocabulary head are
trained, and what was added to Dream-Coder stays (--config.model.lora.added=True
trains it on). --config.model.lora.rank=0 trains the model whole, as published
with --config.optimizer.learning_rate=1e-5.
The loss is the published one: its weights have a floor of 1e-3, its gap loss no
constant, its times are uniform. Prompts are BOS, prompt, pad. Sampling is ours;
docs/retrofit.md has the published one.
Hardware: one 80 GB GPU or 8 chips of TPU v5e with low-rank updates, 16 H100
whole. docs/retrofit.md has the memory that dry runs show.
"""

from experiments.configs import base


def get_config():
  config = base.get_config()
  config.data.update(
    base.finetune_data(
      "code",
      max_length=768,
      buckets=(128, 256, 512, 768),
      begin_id=151_665,  # the tokenizer's <|beginoftext|>
      separator_id=151_643,  # its <|endoftext|>, the pad
    )
  )
  config.model = dict(
    kind="transformer",
    vocab=dict(size=152_064, mask=151_666, pad=151_643),
    hidden_size=3584,
    num_layers=28,
    num_heads=28,
    num_kv_heads=4,
    mlp_size=18_944,
    rotary_base=1e6,
    norm_epsilon=1e-6,
    qkv_bias=True,
    shifted=True,
    gap_head="log_rate",
    time_group=1,
    time_scale=1000.0,
    lora=dict(
      rank=128,
      alpha=128.0,
      dropout=0.1,
      targets=("q", "k", "v", "head"),
      added=False,
    ),
    dtype="bfloat16",
    param_dtype="bfloat16",
    remat="full",
    attention=base.placeholder(str),
    quantize=base.placeholder(str),
  )
  config.optimizer.update(
    learning_rate=1e-4, warmup_steps=500, b2=0.95, weight_decay=0.01
  )
  config.train.update(
    num_steps=5000,
    batch_size=64,
    accumulation=8,
    gap_loss="poisson",
    forbid_mask=False,
    weight_floor=1e-3,
    time_exponent=1.0,
    checkpoint_every=500,
  )
  config.mesh.layout = "fsdp"
  return config
