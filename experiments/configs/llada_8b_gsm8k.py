"""GSM8K on a retrofitted LLaDA-8B: questions are given, answers learned.

  python -m experiments.train --config=experiments/configs/llada_8b_gsm8k.py \
    --workdir=DIR --config.pretrained=RETROFIT \
    --config.data.tokenizer_folder=LLADA \
    --config.data.train=gsm8k/train.jsonl.gz \
    --config.data.test=gsm8k/test.jsonl.gz [--config.mesh.layout=16xh100]

RETROFIT is the work directory of `llada_8b_retrofit`, a folder exported from
one, or, to train all that a FlexMDM adds in one go, what experiments.convert
made of LLaDA. --config.method=mdm trains the baseline: the answer's room is
all that the question leaves, and its padding is predicted.
100 epochs of 7,473 rows, as the paper; 40 minutes of 16 H100 (derived).
`experiments.evaluate --task=gsm8k` scores it. The paper: 67 %, and 58 % for
LLaDA fine-tuned alike.
"""

from experiments.configs import base, llada_8b_retrofit


def get_config():
  config = llada_8b_retrofit.get_config()
  config.data = base.finetune_data(
    "gsm8k",
    folder=config.data.folder,
    max_length=512,
    buckets=(128, 256, 512),
  )
  config.optimizer.update(warmup_steps=200, weight_decay=0.1)
  config.train.update(num_steps=11_700, batch_size=64, checkpoint_every=500)
  config.train.states.update(base.curriculum(opens=0.0, full=0.3, blank=0.05))
  config.sampler.update(
    steps=256, method="adaptive", confidence="margin", insertions="rounded"
  )
  return config
