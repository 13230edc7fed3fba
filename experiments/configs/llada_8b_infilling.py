"""Code infilling on a retrofitted LLaDA-8B: the hole's length is not known.

  python -m experiments.train \
    --config=experiments/configs/llada_8b_infilling.py \
    --workdir=DIR --config.pretrained=RETROFIT \
    --config.data.tokenizer_folder=LLADA \
    --config.data.train='educational_instruct/*.jsonl' \
    [--config.data.most_holes=3] [--config.data.cut=lines]

Rows are {"code"}; the paper's are the educational_instruct part of OpenCoder's
stage 2 (118,278 rows). A new random span is a hole in each of `data.holes`
examples of a text. RETROFIT is as in `llada_8b_gsm8k`, and so is the baseline.
50 epochs, as the paper; five hours of 16 H100 (derived).
`experiments.evaluate --task=infill` scores it. The paper: 65 % of HumanEval's
single lines, and 52 % for LLaDA fine-tuned alike.
"""

from experiments.configs import base, llada_8b_gsm8k


def get_config():
  config = llada_8b_gsm8k.get_config()
  config.data = base.finetune_data("code", folder=config.data.folder, holes=5)
  config.train.update(num_steps=92_000, batch_size=64, checkpoint_every=1000)
  config.sampler.update(
    steps=4096, confidence="top_prob", window_scale=15.0, max_window=32
  )
  return config
