"""What a training step minimises: the FlexMDM bound, or next-token prediction.

An objective first draws what is random of a whole batch, so that cutting the
batch into parts changes nothing, then scores rows.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from flexmdm_jax.alignment import align
from flexmdm_jax.errors import InputError
from flexmdm_jax.interpolant import JointInterpolant, draw_times, noise
from flexmdm_jax.likelihood import next_token_nats
from flexmdm_jax.losses import (
  gap_law_term,
  gap_term,
  mask_nats,
  mask_nats_in_chunks,
)
from flexmdm_jax.rates import Denoiser, Features, forbid_mask
from flexmdm_jax.times import EXPONENT, Times, stratified_times
from flexmdm_jax.vocab import Vocab

# A batch is a dict of arrays, one row an example:
#   tokens i32[B, L], length i32[B], frozen bool[B, L], open_gaps bool[B, L+1].
# L is that of the batch's bucket, at most the model's: one compilation each.
Batch = dict[str, Array]

TARGETS = ("sampled", "aligned")

# Logits of a row that are made at once: 64 MiB of them.
_ROW_LOGITS = 2**24


class Objective(Protocol):
  """A loss as a sum of named terms.

  Attributes:
    names: of the terms, as metrics report them.
    draw: `(key, B) -> tree of arrays [B, ...]`, the random part of a batch.
    terms: `(denoiser, batch, drawn) -> {name: f32[B]}`, nats a sequence.
  """

  names: tuple[str, ...]
  draw: Callable[[Key[Array, ""], int], Any]
  terms: Callable[[Denoiser, Batch, Any], dict[str, Float[Array, " B"]]]


class Draws(NamedTuple):
  """A key and a time for each row."""

  key: Key[Array, " B"]
  times: Times


@dataclasses.dataclass(frozen=True)
class Diffusion:
  """The FlexMDM bound; of a fixed-length MDM, with its interpolant.

  Attributes:
    interpolant: the noise.
    vocab: the id space.
    targets: "sampled", the tokens and gaps of the drawn embedding, as in the
      paper; or "aligned", their mean over all embeddings: the same expected
      gradient with less variance. WORKSPACE.md has what that bought. Where the
      model predicts the law of each gap, its gaps stay sampled.
    time_exponent: density of the times near 1; see `times`.
    loss_chunk: positions of a row whose token logits are made at once, where
      the denoiser has `features`. None: 2^24 / V, in multiples of 128.
      Changes the memory, not the update.

  Raises:
    InputError: `targets` is unknown, or loss_chunk < 1.
  """

  interpolant: JointInterpolant
  vocab: Vocab
  targets: str = "sampled"
  time_exponent: float = EXPONENT
  loss_chunk: int | None = None
  names = ("unmask", "insert")

  def __post_init__(self):
    if self.targets not in TARGETS:
      raise InputError(
        f"train.targets={self.targets!r} is unknown: choose one of"
        f" {', '.join(TARGETS)}."
      )
    if self.loss_chunk is not None and self.loss_chunk < 1:
      raise InputError(
        f"train.loss_chunk={self.loss_chunk} must be at least 1."
      )

  def draw(self, key: Key[Array, ""], batch_size: int) -> Draws:
    """Draws stratified times and the keys of the noise."""
    time_key, row_key = jax.random.split(key)
    times = stratified_times(time_key, batch_size, self.time_exponent)
    return Draws(jax.random.split(row_key, batch_size), times)

  def terms(
    self, denoiser: Denoiser, batch: Batch, drawn: Draws
  ) -> dict[str, Float[Array, " B"]]:
    """The two terms of the bound, weighted for the density of the times."""
    _, L = batch["tokens"].shape
    t, weight = drawn.times

    def noise_row(key, row, t):
      drawn = draw_times(key, self.interpolant, L)
      return noise(
        row["tokens"],
        row["length"],
        *drawn,
        t,
        self.vocab,
        row["frozen"],
        row["open_gaps"],
      )

    noised = jax.vmap(noise_row)(drawn.key, batch, t)
    predict = getattr(denoiser, "features", denoiser)
    predicted = predict(noised.tokens, noised.length, t)
    alignment = None
    if self.targets == "aligned":
      alignment = jax.vmap(align)(
        noised, batch["tokens"], batch["length"], batch["frozen"]
      )
    hazard = jax.vmap(self.interpolant.unmasking.hazard)(t)
    unmask = hazard * self._mask_nats(predicted, noised, alignment)
    if predicted.gap_logits is not None:
      insert = jax.vmap(gap_law_term, (0, 0, 0, None))(
        predicted.gap_logits, noised, t, self.interpolant
      )
    else:
      insert = jax.vmap(gap_term, (0, 0, 0, None, 0))(
        predicted.log_gaps, noised, t, self.interpolant, alignment
      )
    return {"unmask": weight * unmask, "insert": weight * insert}

  def _mask_nats(self, predicted, noised, alignment) -> Float[Array, " B"]:
    if isinstance(predicted, Features):
      L = noised.masked.shape[-1]
      chunk = self.loss_chunk
      if chunk is None:
        chunk = max(_ROW_LOGITS // (128 * self.vocab.size), 1) * 128
      if chunk < L:
        return mask_nats_in_chunks(
          predicted, noised, self.vocab, chunk, alignment
        )
      predicted = predicted.prediction()
    logits = forbid_mask(predicted.token_logits, self.vocab)
    return jax.vmap(mask_nats)(logits, noised, alignment)


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

  def draw(self, key: Key[Array, ""], batch_size: int) -> tuple[()]:
    """Nothing is random."""
    del key, batch_size
    return ()

  def terms(
    self, denoiser: Denoiser, batch: Batch, drawn: tuple[()]
  ) -> dict[str, Float[Array, " B"]]:
    """The negative log-likelihood of each row."""
    del drawn
    nats = next_token_nats(
      denoiser, batch["tokens"], batch["length"], self.vocab
    )
    return {"next_token": jnp.sum(nats, axis=-1)}
