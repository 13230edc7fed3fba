"""The settings that every experiment has, with the paper's values.

An experiment's file starts from these and states what is its own. Each key can
be overridden on the command line: `--config.optimizer.learning_rate=1e-3`.
"""

from ml_collections import config_dict
from ml_collections.config_dict import placeholder


def get_config() -> config_dict.ConfigDict:
  """A config whose `data` is still to be stated."""
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
    model=dict(
      hidden_size=768,
      num_layers=12,
      num_heads=12,
      cond_size=128,
      mlp_ratio=4,
      gap_head="log_rate",
      time_scale=1000.0,
      dtype="bfloat16",
      remat="elementwise",
      attention=placeholder(str),
      # "input" or "blocks"; see flexmdm_jax/models/dit.py.
      neighbours=placeholder(str),
      # Blocks in one turn of their loop; on a CPU all of them are faster.
      unroll=1,
    ),
    optimizer=dict(
      learning_rate=3e-4,
      warmup_steps=2000,
      final_ratio=0.0,
      weight_decay=0.03,
      clip_norm=1.0,
      b1=0.9,
      b2=0.999,
      # Parameters with another learning rate or decay, by any name:
      # dict(pattern="gap_head", learning_rate=10.0, weight_decay=None).
      groups=dict(),
    ),
    train=dict(
      num_steps=1_000_000,
      batch_size=1024,
      accumulation=1,
      ema_decay=0.9999,
      # "sampled" or "aligned"; see flexmdm_jax/training/objectives.py.
      targets="sampled",
      # "phi" or "damped"; see there too.
      gap_loss="phi",
      # What the model is trained on: "path", the states of the schedules at
      # times of density time_exponent near 1; or "mixed", with all that is
      # below it; see flexmdm_jax/states.py.
      time_exponent=2.0,
      states=dict(
        law="path",
        insertion=schedule("power", exponent=3.0),
        mask_exponent=1.0,
        # The curriculum: at these points of the run (shares of num_steps),
        # these shares of rows that lack nothing (full) and of rows of masks
        # only (blank); two points alike make a jump.
        at=(0.0,),
        full=(0.3,),
        blank=(0.05,),
      ),
      # Steps between measurements of the bound, where the loss is none.
      bound_every=10,
      # Positions of a row whose logits are made at once; None: by their size.
      loss_chunk=placeholder(int),
      report_every=100,
      checkpoint_every=5000,
      keep=3,
      seed=0,
    ),
    # A layout of flexmdm_jax/training/sharding.py, and sizes that differ.
    mesh=dict(
      layout="replicated",
      data=placeholder(int),
      fsdp=placeholder(int),
      tensor=placeholder(int),
    ),
    # Used by experiments.evaluate; experiments.sample takes --steps, --method
    # and --sampler. See flexmdm_jax/sampling/config.py.
    sampler=dict(
      steps=256,
      method="events",
      # Which masks are revealed first; None: what suits the method.
      confidence=placeholder(str),
      # "thinned", "rounded", "poisson" or "published"; None: by the gap head.
      insertions=placeholder(str),
      # Of method "adaptive": among how many leftmost masks it chooses.
      window_scale=placeholder(float),
      max_window=placeholder(int),
      temperature=1.0,
      top_p=1.0,
      # Where the steps end, "time" or "events"; not of method "events".
      grid="time",
      time_exponent=1.0,
      # Last calls that only reveal; not of methods "events" and "midpoint".
      finish=0,
      # Of method "events": events a call at least; and what a call reveals
      # (nats) and inserts (tokens) beyond the clock's.
      group=1,
      entropy_budget=placeholder(float),
      insert_budget=placeholder(float),
      # Times that finished rows are noised again, to which time, and the calls
      # of each; None: as many as of the first round.
      corrections=0,
      correction_time=0.5,
      correction_calls=placeholder(int),
    ),
  )


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
