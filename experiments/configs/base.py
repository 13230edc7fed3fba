"""The settings that every experiment has, with the paper's values.

An experiment's file starts from these and states what is its own. Each key can
be overridden on the command line: `--config.optimizer.learning_rate=1e-3`.
"""

import itertools
import typing
from collections.abc import Sequence
from typing import Any

from ml_collections import config_dict
from ml_collections.config_dict import placeholder

from flexmdm_jax import schema
from flexmdm_jax.models.dit import DiT
from flexmdm_jax.sampling import SamplerConfig
from flexmdm_jax.states import MixedStates, PathStates
from flexmdm_jax.training.loop import LoopConfig
from flexmdm_jax.training.objectives import Diffusion
from flexmdm_jax.training.optimizer import OptimizerConfig
from flexmdm_jax.training.step import StepConfig


def get_config() -> config_dict.ConfigDict:
  """A config whose `data` is still to be stated."""
  train = section(
    *(StepConfig, LoopConfig, Diffusion, PathStates),
    num_steps=1_000_000,
    batch_size=1024,
    checkpoint_every=5000,
  )
  train.states = section(
    MixedStates,
    without=("steps",),
    law="path",
    insertion=schedule("power", exponent=3.0),
    # The curriculum: at these points of the run (shares of num_steps), these
    # shares of rows; two points alike make a jump.
    at=(0.0,),
  )
  return config_dict.create(
    # What is trained: "flexmdm", or one of the data set's baselines.
    method="flexmdm",
    data=dict(folder="~/.cache/flexmdm_jax"),
    insertion=schedule("power", exponent=1.7),
    unmasking=schedule("power", exponent=2.89),
    # The schedules of sampling and of the likelihood's bound, which any model
    # may have of its own: "lengths_first", or an insertion and an unmasking
    # schedule as in "power:4,power:1"; None: those above, of its training.
    path=placeholder(str),
    # A fixed-length baseline's, whose tokens are all inserted at time 0.
    mdm_unmasking=schedule("linear"),
    # What to start from: a folder of converted weights, or the work directory
    # of another run, such as an MDM's; from random values without.
    pretrained=placeholder(str),
    model=section(DiT, without=("max_length", "causal"), dtype="bfloat16"),
    optimizer=section(OptimizerConfig, without=("num_steps",), groups={}),
    train=train,
    mesh=dict(
      layout="replicated",
      data=placeholder(int),
      fsdp=placeholder(int),
      tensor=placeholder(int),
    ),
    # Used by experiments.evaluate; experiments.sample takes --steps, --method
    # and --sampler.
    sampler=section(SamplerConfig, without=("buckets",), steps=256),
  )


def section(
  *classes: type, without: Sequence[str] = (), **own: Any
) -> config_dict.ConfigDict:
  """Makes a section of a config of the defaults of the settings.

  Args:
    *classes: what the settings belong to.
    without: settings that are not the user's to choose.
    **own: values that differ, and settings of no class.
  """
  known = {}
  for setting in itertools.chain(*map(schema.describe, classes)):
    if setting.name not in (*without, *own):
      known[setting.name] = setting.default
      if setting.default is None:  # its place remembers the type
        known[setting.name] = placeholder(typing.get_args(setting.hint)[0])
  return config_dict.create(**{**known, **own})


def curriculum(
  opens: float = 0.6, full: float = 0.5, blank: float = 0.15
) -> dict:
  """The `train.states` of a model that first learns as an MDM.

  Until then most rows lack no token, and some are of masks only, from which
  the length is learned; then the gaps open in the rest.

  Args:
    opens: the share of the run until then.
    full: share of rows without gaps from then on.
    blank: share of rows of masks only, throughout.
  """
  return dict(
    law="mixed",
    at=(opens, opens),
    full=(1.0 - blank, full),
    blank=(blank, blank),
  )


def schedule(name: str, **parameters: float) -> config_dict.ConfigDict:
  """A schedule, with a place for every parameter that one may have."""
  config = config_dict.create(
    name=name,
    exponent=placeholder(float),
    low=placeholder(float),
    high=placeholder(float),
  )
  config.update(parameters)
  return config


def text_data(**settings) -> config_dict.ConfigDict:
  """The `data` of a text, with places for what a run must be given.

  Args:
    **settings: `max_length` and `buckets` at least; see `TextTask`.
  """
  config = config_dict.create(
    name="text",
    source="files",
    train=placeholder(str),
    validation=placeholder(str),
    test=placeholder(str),
    text_key="text",
    chat=False,
    mixture={},
    tokenizer="gpt2",
    tokenizer_folder=placeholder(str),
    merges=placeholder(int),
    mask_id=placeholder(int),
    pad_id=placeholder(int),
    vocab_size=placeholder(int),
    long="split",
  )
  config.update(settings)
  return config


def mixture_source(weight: float, **settings) -> config_dict.ConfigDict:
  """A source of a text's `mixture`, with places for its files.

  Args:
    weight: its share of the records; relative to the others'.
    **settings: of the source; see `TextTask`.
  """
  config = config_dict.create(
    weight=float(weight),
    source="files",
    train=placeholder(str),
    validation=placeholder(str),
    test=placeholder(str),
    text_key="text",
    chat=False,
  )
  config.update(settings)
  return config


def openwebtext_proof_pile(**settings) -> config_dict.ConfigDict:
  """The `data` of the paper's retrofit: half web text, half Proof-Pile-2.

  A run is given the files, `--config.data.mixture.proof_pile.train=PATTERNS`
  (as published, arxiv/train/*.jsonl.zst and the like), and the folder of the
  model's tokenizer; TFDS prepares OpenWebText. Without `validation` and `test`
  a tenth of each source is held out.

  Args:
    **settings: what differs; see `TextTask`.
  """
  return text_data(
    **{
      "max_length": 1024,
      "buckets": (128, 256, 512, 1024),
      "tokenizer": "folder",
      "mixture": config_dict.create(
        openwebtext=mixture_source(
          0.5, source="tfds", train="openwebtext:train"
        ),
        proof_pile=mixture_source(0.5),
      ),
      **settings,
    }
  )


def finetune_data(name: str, **settings) -> config_dict.ConfigDict:
  """The `data` of a fine-tuning, with places for what a run must be given.

  Args:
    name: "gsm8k" or "code".
    **settings: what differs; see `FineTuneTask`.
  """
  config = config_dict.create(
    name=name,
    train=placeholder(str),
    validation=placeholder(str),
    test=placeholder(str),
    text_key="code",
    holes=1,
    most_holes=1,
    cut="span",
    chat=False,
    begin_id=placeholder(int),
    separator_id=placeholder(int),
    tokenizer="folder",
    tokenizer_folder=placeholder(str),
    merges=placeholder(int),
    mask_id=placeholder(int),
    pad_id=placeholder(int),
    vocab_size=placeholder(int),
    max_length=1024,
    buckets=(128, 256, 512, 1024),
  )
  config.update(settings)
  return config
