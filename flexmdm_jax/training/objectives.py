"""Objectives of training: the FlexMDM bound, or next-token prediction.

An objective first draws what is random of a whole batch, so that cutting the
batch into parts changes nothing, then scores rows.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from flexmdm_jax import chunked_loss, losses
from flexmdm_jax.alignment import Alignment, align
from flexmdm_jax.interpolant import JointInterpolant, Noised
from flexmdm_jax.likelihood import next_token_nats
from flexmdm_jax.losses import GAP_LOSSES, ElboTerms
from flexmdm_jax.prediction import (
  Denoiser,
  Features,
  Prediction,
  features_or_prediction,
  forbid_mask,
)
from flexmdm_jax.rows import Rows
from flexmdm_jax.schema import count, require, setting
from flexmdm_jax.states import PathStates, StateLaw, States
from flexmdm_jax.vocab import Vocab

TARGETS = ("sampled", "aligned")

# Number of a row's logits that are made at once: 64 MiB in float32.
_ROW_LOGITS = 2**24


class Objective(Protocol):
  """A loss as a sum of named terms.

  Attributes:
    names: names of the terms, as metrics report them.
    bound_names: names of the terms of a likelihood bound that are worth
      measuring beside the loss now and then; empty where the loss is a bound
      itself.
    draw: `(key, B, step) -> tree of arrays [B, ...]`, the random part of a
      batch.
    terms: `(denoiser, batch, drawn) -> {name: f32[B]}`, nats a sequence.
    bound: `(denoiser, batch, key) -> {bound name: f32[B]}`, nats a sequence.
  """

  names: tuple[str, ...]
  bound_names: tuple[str, ...]
  draw: Callable[[Key[Array, ""], int, Any], Any]
  terms: Callable[[Denoiser, Rows, Any], dict[str, Float[Array, " B"]]]
  bound: Callable[
    [Denoiser, Rows, Key[Array, ""]], dict[str, Float[Array, " B"]]
  ]


@dataclasses.dataclass(frozen=True)
class Diffusion:
  """The FlexMDM loss over a law of states; an MDM's, where nothing is missing.

  Attributes:
    states: the law of states, with its weights; see `states`.
    vocab: the id space.
    targets: "sampled", the tokens and gaps of the drawn embedding, as in the
      paper; or "aligned", their mean over all embeddings: the same expected
      gradient with less variance. With the gap loss "law" the gaps stay
      sampled.
    gap_loss: "phi", the paper's; "damped", phi over (1 + the predicted
      number), without a gradient through that: the same minimiser, and a
      gradient that is no larger for a gap of a hundred tokens than for one of
      one; "poisson", phi without its constant; or "law", for models that
      predict the law of each gap: the cross-entropy of the counts. See
      `losses.gap_nats`.
    loss_chunk: positions of a row whose token logits are made at once, where
      the denoiser has `features`. None: 2^24 / V, in multiples of 128.
      Changes the memory, not the update.
    forbid_mask: leave the mask out of the law of a token, as samplers do.
      False is the public 7B's: it is one of the outcomes, of probability 0 in
      the data.

  Raises:
    InputError: `targets` or `gap_loss` is unknown, or loss_chunk < 1.
  """

  states: StateLaw
  vocab: Vocab
  targets: str = setting("sampled", among=TARGETS)
  gap_loss: str = setting("phi", among=GAP_LOSSES)
  loss_chunk: int | None = count(None)
  forbid_mask: bool = setting(True)
  names = ("unmask", "insert")

  def __post_init__(self):
    require(self, "train")

  @property
  def interpolant(self) -> JointInterpolant:
    """Schedules that the model is trained for."""
    return self.states.interpolant

  @property
  def bound_names(self) -> tuple[str, ...]:
    """Names of the bound's terms, where the loss is not the bound itself."""
    if self.states.is_bound and self.gap_loss == "phi":
      return ()
    return ("bound_unmask", "bound_insert")

  def draw(
    self, key: Key[Array, ""], batch_size: int, step: Int[Array, ""] | int = 0
  ) -> States:
    """Draws the states of a batch; `step` decides the curriculum's shares."""
    return self.states.draw(key, batch_size, step)

  def terms(
    self, denoiser: Denoiser, batch: Rows, drawn: States
  ) -> dict[str, Float[Array, " B"]]:
    """Computes the weighted token and gap losses of each row."""
    terms = self._terms(self.states, denoiser, batch, drawn, self.gap_loss)
    return terms._asdict()

  def bound(
    self, denoiser: Denoiser, batch: Rows, key: Key[Array, ""]
  ) -> dict[str, Float[Array, " B"]]:
    """Computes the bound on the trained schedules, whatever is minimised.

    One draw a row, as noisy as a loss; see `log_likelihood_bound` for a
    measurement.
    """
    law = PathStates(self.interpolant)
    drawn = law.draw(key, batch.tokens.shape[0])
    terms = self._terms(law, denoiser, batch, drawn, "phi")
    return {f"bound_{name}": x for name, x in terms._asdict().items()}

  def _terms(
    self,
    law: StateLaw,
    denoiser: Denoiser,
    batch: Rows,
    drawn: States,
    gap_loss: str,
  ) -> ElboTerms:
    """Makes the states that `drawn` says, and scores the denoiser on them."""
    noised = jax.vmap(law.noise, (0, 0, 0, None, 0, 0))(
      drawn,
      batch.tokens,
      batch.length,
      self.vocab,
      batch.frozen,
      batch.open_gaps,
    )
    predict = features_or_prediction(denoiser)
    predicted = predict(noised.tokens, noised.length, drawn.t)
    alignment = None
    if self.targets == "aligned":
      alignment = jax.vmap(align)(
        noised, batch.tokens, batch.length, batch.frozen
      )
    terms = self._unweighted_terms(predicted, noised, alignment, gap_loss)
    return terms.weighted(drawn.unmask_weight, drawn.insert_weight)

  def _unweighted_terms(
    self,
    predicted: Prediction | Features,
    noised: Noised,
    alignment: Alignment | None,
    gap_loss: str,
  ) -> ElboTerms:
    """Computes `losses.unweighted_terms` of each row, in chunks if need be."""
    if isinstance(predicted, Features):
      chunk = self.loss_chunk
      if chunk is None:
        chunk = max(_ROW_LOGITS // (128 * self.vocab.size), 1) * 128
      if chunk < noised.masked.shape[-1]:
        return chunked_loss.unweighted_terms(
          predicted,
          noised,
          self.vocab if self.forbid_mask else None,
          chunk,
          alignment,
          gap_loss,
        )
      predicted = predicted.prediction()
    if self.forbid_mask:
      predicted = predicted._replace(
        token_logits=forbid_mask(predicted.token_logits, self.vocab)
      )
    score = functools.partial(losses.unweighted_terms, gap_loss=gap_loss)
    return jax.vmap(score)(predicted, noised, alignment)


@dataclasses.dataclass(frozen=True)
class Autoregressive:
  """Next-token prediction, whose loss is the exact `-log p`.

  Rows start with the mask, which stands for the beginning; see
  `likelihood.next_token_nats`.

  Attributes:
    vocab: the id space; the pad ends a sequence.
  """

  vocab: Vocab
  names = ("next_token",)
  bound_names = ()

  def draw(
    self, key: Key[Array, ""], batch_size: int, step: Int[Array, ""] | int = 0
  ) -> tuple[()]:
    """Draws nothing: no part of the loss is random."""
    del key, batch_size, step
    return ()

  def terms(
    self, denoiser: Denoiser, batch: Rows, drawn: tuple[()]
  ) -> dict[str, Float[Array, " B"]]:
    """Computes the negative log-likelihood of each row."""
    del drawn
    nats = next_token_nats(denoiser, batch.tokens, batch.length, self.vocab)
    return {"next_token": jnp.sum(nats, axis=-1)}

  def bound(
    self, denoiser: Denoiser, batch: Rows, key: Key[Array, ""]
  ) -> dict[str, Float[Array, " B"]]:
    """Returns nothing: the loss itself is the exact `-log p`."""
    del denoiser, batch, key
    return {}
