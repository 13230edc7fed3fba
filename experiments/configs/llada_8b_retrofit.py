"""The paper's retrofit: LLaDA-8B becomes a FlexMDM, by LoRA.

  python -m experiments.train \
    --config=experiments/configs/llada_8b_retrofit.py --workdir=DIR \
    --config.pretrained=FOLDER --config.data.tokenizer_folder=LLADA \
    --config.data.mixture.proof_pile.train='proof-pile-2/*/train/*.jsonl.zst' \
    [--config.mesh.layout=16xh100]

LLADA is the checkpoint's folder as published, FOLDER what
experiments.convert made of it. Updates of rank 128 of queries, keys,
values and the vocabulary head, a modulation by the time for each 8 blocks, and
a gap head: 402,657,281 of 8.4B parameters are trained, on 13.1B tokens.
--config.model.lora.rank=0 trains the model whole.
Hardware: 16 H100 (the paper: 3 days) or 16 chips of TPU v5p, 38 GB each; 10 GB
with --config.model.remat=full, as on TPU v6e. See experiments.dryrun.
"""

from experiments.configs import base


def get_config():
  config = base.get_config()
  config.data.update(base.openwebtext_proof_pile())
  config.model = dict(
    kind="transformer",
    vocab=dict(size=126_464, mask=126_336, pad=126_081),
    hidden_size=4096,
    num_layers=32,
    num_heads=32,
    num_kv_heads=32,
    mlp_size=12_288,
    rotary_base=500_000.0,
    norm_epsilon=1e-5,
    gap_head="log_rate",
    time_group=8,
    time_scale=1000.0,
    lora=dict(
      rank=128, alpha=128.0, dropout=0.1, targets=("q", "k", "v", "head")
    ),
    dtype="bfloat16",
    param_dtype="bfloat16",
    remat="dots",
    attention=base.placeholder(str),
    quantize=base.placeholder(str),
  )
  config.optimizer.update(learning_rate=1e-4, warmup_steps=1000)
  config.train.update(
    num_steps=100_000,
    batch_size=128,
    targets="aligned",
    gap_loss="damped",
    checkpoint_every=1000,
  )
  # The checkpoint is a masked diffusion model already: its gaps open at once.
  config.train.states.update(base.curriculum(opens=0.0, full=0.3))
  config.mesh.layout = "fsdp"
  return config
