"""Likelihood of held-out sequences, in the units that people compare.

A FlexMDM and a fixed-length MDM have a bound, an autoregressive model the exact
number; all are of `-log p(x)`, the length of `x` included. An MDM pays for its
length by predicting the padding behind it.
"""

import dataclasses
import math

import numpy as np
from jaxtyping import Array, Key

from flexmdm_jax.errors import InputError
from flexmdm_jax.evaluation.evaluation import Evaluation, require_task
from flexmdm_jax.evaluation.samples import Records
from flexmdm_jax.inference.likelihood import (
  bound,
  exact_nats,
  make_batches,
  mean_error,
  require_calls,
)
from flexmdm_jax.likelihood import KINDS
from flexmdm_jax.models.denoiser import ModelDenoiser
from flexmdm_jax.runs import Run
from flexmdm_jax.schema import count, require, setting
from flexmdm_jax.tasks import MarkovTask, Task
from flexmdm_jax.tasks.task import SequenceTask


@dataclasses.dataclass(frozen=True)
class Likelihood:
  """Negative log-likelihood of a set of sequences, or a bound on it.

  Attributes:
    kind: "tight" or "paper", a bound; "exact", of an autoregressive model.
    nats: mean over the sequences.
    stderr: error of `nats` as an estimate of the bound of these very sequences:
      the noise of times and masks; 0 if exact.
    data_stderr: error of `nats` as an estimate of the mean over all data: what
      another held-out set would change.
    calls: network calls a sequence.
    nats_per_token, bits_per_token, perplexity: by the tokens of the sequences;
      neither an end nor padding counts as one.
    bits_per_character: None where tokens are no text.
  """

  kind: str
  nats: float
  stderr: float
  data_stderr: float
  calls: int
  nats_per_token: float
  bits_per_token: float
  perplexity: float
  bits_per_character: float | None


@dataclasses.dataclass(frozen=True)
class HeldOutLikelihood(Evaluation):
  """Likelihood of held-out sequences, or a bound on it; see `Likelihood`.

  On a hidden Markov language it also tells `entropy`, the exact mean of
  `-log p` of the very sequences that are scored, in nats, and `nats_above`,
  how many more nats the model needs.

  Attributes:
    kind: kind of bound, see `log_likelihood_bound`; an autoregressive model's
      number is exact, whatever the kind.
    num_times: network calls for each sequence, at most.
    max_stderr: standard error, nats a sequence, at which to stop.

  Raises:
    InputError: unknown `kind`, or a negative `max_stderr`.
  """

  kind: str = setting("tight", among=KINDS)
  num_times: int = count(128)
  max_stderr: float = setting(0.0, least=0)

  def __post_init__(self):
    require(self, "likelihood")

  def __call__(self, run, denoiser, records, key, batch_size=256):
    found = self.measure(run, denoiser, records, key, batch_size)
    report = dataclasses.asdict(found)
    exact = entropy(run.task, records)
    if exact is not None:
      report |= {"entropy": exact, "nats_above": found.nats - exact}
    return report

  def measure(
    self,
    run: Run,
    denoiser: ModelDenoiser,
    records: Records,
    key: Key[Array, ""],
    batch_size: int = 256,
  ) -> Likelihood:
    """Measures the likelihood of sequences, on the path of the run.

    Takes what an `Evaluation` is called with, and at least two records.

    Raises:
      InputError: the run is not on unconditional sequences, there are fewer
        than two records, batch_size < 1, or `num_times` is too small to tell
        the error of a bound.
    """
    require_task(run, SequenceTask, "likelihood", "unconditional sequences")
    if len(records) < 2:
      raise InputError(
        f"num={len(records)} must be at least 2: errors need it."
      )
    if not run.task.causal:
      require_calls(self.num_times)
    rows = [run.task.encode(record) for record in records]
    batches = make_batches(rows, batch_size)
    if run.task.causal:
      kind, nats = "exact", exact_nats(denoiser, batches, run.task.vocab)
      error, calls = np.zeros_like(nats), 1
    else:
      kind = self.kind
      nats, error, calls = bound(
        *(key, run.on_path(denoiser), batches, run.path, run.task.vocab),
        num_times=self.num_times,
        kind=kind,
        max_stderr=self.max_stderr,
      )

    nats_per_token = nats.sum() / sum(len(x["tokens"]) for x in records)
    bits_per_character = None
    if all("characters" in record for record in records):
      characters = sum(record["characters"] for record in records)
      bits_per_character = float(nats.sum() / characters / math.log(2))
    return Likelihood(
      kind=kind,
      nats=float(nats.mean()),
      stderr=mean_error(error),
      data_stderr=float(nats.std(ddof=1) / math.sqrt(len(nats))),
      calls=calls,
      nats_per_token=float(nats_per_token),
      bits_per_token=float(nats_per_token / math.log(2)),
      perplexity=math.exp(nats_per_token),
      bits_per_character=bits_per_character,
    )


def entropy(task: Task, records: Records) -> float | None:
  """Computes the mean of `-log p` of records, nats, if their law is known."""
  if not isinstance(task, MarkovTask):
    return None
  return -float(task.language.log_prob([x["tokens"] for x in records]).mean())
