"""Infilling of Python: a small MDM becomes a FlexMDM, on two cores.

  python -m experiments.train --config=experiments/configs/small_infilling.py \
    --workdir=build/code_flexmdm --config.pretrained=build/code_parent \
    --config.data.train=build/reasoning/code/train.jsonl \
    --config.data.validation=build/reasoning/code/validation.jsonl \
    --config.data.test=build/reasoning/code/test.jsonl \
    --config.data.tokenizer_folder=build/reasoning/code/tokenizer \
    [--config.data.most_holes=3]

As `small_gsm8k`, on functions of Python's standard library. Holes are whole
lines; --config.method=mdm trains the baseline, whose holes have more room than
they need and predict their padding.
"""

from experiments.configs import base, small_gsm8k


def get_config():
  config = small_gsm8k.get_config()
  config.data = base.finetune_data(
    "code",
    folder=config.data.folder,
    max_length=96,
    buckets=(32, 48, 64, 96),
    holes=4,
    cut="lines",
  )
  return config
