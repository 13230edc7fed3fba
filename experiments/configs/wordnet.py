"""Definitions of WordNet, short texts with a natural law of lengths.

  python -m experiments.train --config=experiments/configs/wordnet.py \
    --workdir=build/wordnet --config.data.train=glosses.train.jsonl.gz \
    --config.data.validation=glosses.validation.jsonl.gz \
    --config.data.test=glosses.test.jsonl.gz \
    --config.data.tokenizer_folder=gpt2_bpe [--config.method=mdm]

As `shakespeare`, on other files. To expect: 5.8 bits a token for FlexMDM and
the MDM, 4.2 for the autoregressive model; see docs/results.md.
"""

from experiments.configs import shakespeare


def get_config():
  return shakespeare.get_config()
