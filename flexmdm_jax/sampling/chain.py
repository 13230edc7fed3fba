"""The chain that a sampler simulates: its states, rates and moves.

A denoiser and a path define a CTMC (see `prediction`). Here it answers, for a
batch of rows, the two things that a step needs: what the network says of them
now, and what they are after some masks were revealed and others inserted.
"""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Bool, Float, Int, Key

from flexmdm_jax.gap_laws import GapLaw
from flexmdm_jax.interpolant import JointInterpolant, noise
from flexmdm_jax.kernels.insert_unmask import insert_unmask
from flexmdm_jax.kernels.token_sample import TokenSamples
from flexmdm_jax.prediction import (
  Denoiser,
  Features,
  features_or_prediction,
  forbid_mask,
)
from flexmdm_jax.sampling.canvas import FROZEN, GIVEN, MARKS, Canvas
from flexmdm_jax.sampling.draws import draw_tokens, draw_tokens_at
from flexmdm_jax.sampling.placement import on_axis
from flexmdm_jax.vocab import Vocab

# The last time before 1, where the network was trained on none.
_LAST = 1.0 - 2.0**-24


class Answer(NamedTuple):
  """Answer of one network call about a batch of rows.

  Attributes:
    drawn: a token for each wanted position, and the denoiser's confidence in
      it; elsewhere undefined.
    log_gaps: log of the expected number of missing tokens in each gap.
    law: the law of that number, where the denoiser gives it.
  """

  drawn: TokenSamples
  log_gaps: Float[Array, "B C+1"]
  law: GapLaw | None


@dataclasses.dataclass(frozen=True)
class Chain:
  """The CTMC of a denoiser on a path.

  Attributes:
    denoiser: predicts tokens and gaps.
    path: the schedules, whose hazards scale the rates.
    vocab: the id space.
    temperature: temperature of the token posterior; 0 takes its mode.
    top_p: nucleus of the token posterior.
    vocab_axis: mesh axis over which the vocabulary is split, or None.
  """

  denoiser: Denoiser
  path: JointInterpolant
  vocab: Vocab
  temperature: float | int
  top_p: float | int
  vocab_axis: str | None = None

  def ask(
    self,
    keys: Key[Array, " B"],
    canvas: Canvas,
    t: Float[Array, " B"],
    wanted: Bool[Array, "B C"],
  ) -> Answer:
    """Calls the network once.

    Args:
      keys: a key for each row.
      canvas: the rows.
      t: the rows' times, in [0, 1]; 1 is asked for a little earlier.
      wanted: positions whose token or confidence will be looked at.
    """
    t = jnp.minimum(t, _LAST)
    # A position draws from bits of its own, wherever the row's batch puts it.
    index = jnp.arange(canvas.width)
    keys = jax.vmap(jax.vmap(jax.random.fold_in, (None, 0)), (0, None))(
      keys, index
    )
    predict = features_or_prediction(self.denoiser)
    predicted = predict(canvas.tokens, canvas.length, t)
    law = (self.temperature, self.top_p)
    if isinstance(predicted, Features):
      drawn = draw_tokens_at(
        wanted, keys, predicted, *law, self.vocab.mask, self.vocab_axis
      )
    else:
      logits = predicted.token_logits.astype(jnp.float32)
      drawn = draw_tokens(keys, forbid_mask(logits, self.vocab), *law)
    return Answer(drawn, predicted.log_gaps.astype(jnp.float32), predicted.law)

  def move(
    self,
    canvas: Canvas,
    revealed: Int[Array, "B C"],
    insertions: Int[Array, "B C+1"],
  ) -> tuple[Canvas, Bool[Array, " B"]]:
    """Reveals and inserts masks.

    Args:
      canvas: the rows.
      revealed: the new token of each revealed position, -1 elsewhere.
      insertions: the number of masks to insert in each gap.

    Returns:
      The rows after, and which of them wanted more room than the canvas has:
      these keep what fits.
    """
    # What is known of a token moves with it: packed into one id, a single pass
    # moves both. New masks have no marks.
    marks = canvas.marks
    insert = on_axis(
      self.vocab_axis,
      functools.partial(
        insert_unmask, mask=MARKS * self.vocab.mask, pad=MARKS * self.vocab.pad
      ),
      P(),
      P(),
    )
    packed, length, full = insert(
      MARKS * canvas.tokens + marks,
      canvas.length,
      jnp.where(revealed >= 0, MARKS * revealed + marks, -1),
      insertions,
    )
    moved = canvas._replace(
      tokens=packed // MARKS, length=length, marks=packed % MARKS
    )
    return moved, full

  def noise(
    self, keys: Key[Array, " B"], canvas: Canvas, t: Float[Array, ""]
  ) -> Canvas:
    """Takes finished rows back to time `t`, by the interpolant's own noise.

    If the rows have the model's law, so have they after they are denoised
    again. What the start held is never removed, and what it froze not masked.

    Args:
      keys: a key for each row.
      canvas: rows at time 1, without masks.
      t: the time, in (0, 1).
    """

    def of_row(key, tokens, length, marks):
      insertion_key, unmasking_key = jax.random.split(key)
      inserted = self.path.insertion.sample(insertion_key, tokens.shape)
      inserted = jnp.where(marks & GIVEN > 0, 0.0, inserted)
      noised = noise(
        tokens,
        length,
        inserted,
        self.path.unmasking.sample_after(unmasking_key, inserted),
        t,
        self.vocab,
        frozen=marks & FROZEN > 0,
      )
      inside = jnp.arange(tokens.size) < noised.length
      kept = jnp.where(inside, marks[noised.source], 0)
      return noised.tokens, noised.length, kept

    moved = jax.vmap(of_row)(keys, canvas.tokens, canvas.length, canvas.marks)
    return Canvas(*moved, canvas.end_open)
