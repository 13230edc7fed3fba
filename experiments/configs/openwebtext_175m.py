"""The paper's text experiment: a 175M DiT on OpenWebText, lengths to 1024.

  python -m experiments.train --config=experiments/configs/openwebtext_175m.py \
    --workdir=DIR --config.data.train='openwebtext/*.jsonl.gz' \
    --config.data.tokenizer_folder=gpt2 [--config.method=mdm]

GPT-2's BPE with a mask and a pad, documents cut at the blank line nearest the
middle. With `train` alone a tenth of it each is held out for validation and
test. TFDS has the data too: --config.data.source=tfds, with
--config.data.train='openwebtext:train[2%:]', and the first two percent for
`validation` and `test`. Hardware: 16 H100, about a million steps.

It learns as a masked diffusion model for 60 % of the run, then its gaps open.
With an MDM that is trained already, they open at once:

  --config.pretrained=MDM_WORKDIR --config.train.states.at='(0.0,0.0)'

The paper's own recipe: --config.train.states.law=path
--config.train.gap_loss=phi --config.model.gap_head=log_rate, and no
--config.model.neighbours.
"""

from experiments.configs import base


def get_config():
  config = base.get_config()
  config.data.update(
    base.text_data(max_length=1024, buckets=(128, 256, 512, 1024))
  )
  config.path = "lengths_first"
  config.model.update(gap_head="binned", neighbours="input")
  config.train.update(targets="aligned", gap_loss="damped")
  config.train.states.update(base.curriculum())
  return config
