"""Flags of a scorer of text, which evaluations and the tuner share.

A scorer is a causal language model of the Hugging Face hub, its folder, or a
GGUF file (`flexmdm_jax.evaluation.scorers` says where a small one is found), or
the work directory of an autoregressive run.
"""

from absl import flags

from experiments.common import cli
from flexmdm_jax.evaluation.run_scorer import load_scorer
from flexmdm_jax.evaluation.scorers import Scorer

_SCORER = flags.DEFINE_string(
  "scorer", None, "Hub name, folder, GGUF file or run that scores text."
)
_SCORER_BATCH = cli.count(
  "scorer_batch_size", 8, "Texts that the scorer reads at once."
)
_SCORER_LENGTH = cli.count(
  "scorer_max_length",
  None,
  "Tokens that the scorer reads of a text; by default 1,024 or its context.",
)
_SCORER_BEGIN = flags.DEFINE_string(
  "scorer_begin",
  None,
  "Text that the scorer reads before each, to score its first token too.",
)
_SCORER_DEVICE = flags.DEFINE_string(
  "scorer_device", None, "Device of the scorer: cpu, cuda, ..."
)


def load() -> Scorer | None:
  """Loads the scorer that flags name; None where they name none.

  Raises:
    InputError: it cannot be loaded, or a package is missing.
  """
  if _SCORER.value is None:
    return None
  return load_scorer(
    _SCORER.value,
    device=_SCORER_DEVICE.value,
    batch_size=_SCORER_BATCH.value,
    max_length=_SCORER_LENGTH.value,
    begin=_SCORER_BEGIN.value,
  )
