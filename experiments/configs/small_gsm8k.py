"""Word problems: a small MDM becomes a FlexMDM that answers, on two cores.

  python -m experiments.train --config=experiments/configs/small_gsm8k.py \
    --workdir=build/problems_flexmdm --config.pretrained=build/problems_parent \
    --config.data.train=build/reasoning/problems/train.jsonl \
    --config.data.validation=build/reasoning/problems/validation.jsonl \
    --config.data.test=build/reasoning/problems/test.jsonl \
    --config.data.tokenizer_folder=build/reasoning/problems/tokenizer

build/problems_parent is the work directory of `small_llada` on the same data,
as its docstring has it.
What is trained is what the 8B retrofit trains: low-rank updates, a modulation
by the time and a gap head. --config.method=mdm trains the baseline alike, whose
answer has all the room there is and predicts its padding. From random values:
--config.model.lora.rank=0. GSM8K itself fits with data.max_length=512. Ten
minutes; docs/results.md has what to expect.

Sampling is lengths first: of the states that it meets, some are of masks alone
and the others lack nothing, and so are most states of the training. The gap
head gives the exact law of a number: bins cannot tell 17 tokens from 18.
"""

from experiments.configs import base, small_llada


def get_config():
  config = small_llada.get_config()
  config.method = "flexmdm"
  config.data = base.finetune_data(
    "gsm8k",
    folder=config.data.folder,
    max_length=72,
    buckets=(40, 48, 56, 72),
  )
  config.model = small_llada.model(
    gap_head="distribution",
    time_group=2,
    lora=dict(
      rank=32, alpha=32.0, dropout=0.0, targets=("q", "k", "v", "head")
    ),
  )
  config.path = "lengths_first"
  config.optimizer.update(learning_rate=2e-3)
  config.train.update(num_steps=5000, targets="aligned", gap_loss="law")
  config.train.states.update(base.curriculum(opens=0.0, full=0.6, blank=0.3))
  config.sampler.update(steps=64, temperature=0.0, confidence="top_prob")
  return config
