"""Predictions of a denoiser, and the jump rates of the CTMC built from it.

The process has two moves. A mask at position i becomes token v at rate
`h_beta(t) f[i, v]`; a mask is inserted in gap i at rate `h_alpha(t) g[i]`.
Here `f` is the posterior of the mask's token, `g` the expected number of
tokens still missing in the gap, and `h` the hazard of a schedule.

Source: arXiv 2509.01025, "rates of the CTMC".
"""

from collections.abc import Callable
from typing import NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from flexmdm_jax.gap_laws import Categorical, GapLaw
from flexmdm_jax.interpolant import JointInterpolant
from flexmdm_jax.vocab import Vocab


class Prediction(NamedTuple):
  """A denoiser's output for the state `x_t`.

  Attributes:
    token_logits: unnormalised log-posterior of the token behind each mask.
    log_gaps: log of the expected number of missing tokens in each gap; -inf
      where there can be none.
    gap_logits: unnormalised log-law of that number (0, 1, ..., C-1), where a
      head gives it.
    gap_law: law of that number in another form, where a head gives it.
  """

  token_logits: Float[Array, "*b L V"]
  log_gaps: Float[Array, "*b L+1"]
  gap_logits: Float[Array, "*b L+1 C"] | None = None
  gap_law: GapLaw | None = None

  @property
  def law(self) -> GapLaw | None:
    """Law of the missing tokens, in whichever form it was given."""
    return _law(self.gap_logits, self.gap_law)


class Features(NamedTuple):
  """A prediction whose token logits are yet to be computed.

  They are `hidden @ unembed + bias`: a sampler that needs few positions
  computes those alone, and need not write them. Where the matrix is updated at
  low rank, by `adapter = (inner, matrix)`, `inner @ matrix` is added; a matrix
  that is frozen then needs no gradient.

  Attributes:
    hidden: the last hidden states.
    unembed: the vocabulary head's matrix.
    bias: its bias, if it has one.
    log_gaps: see `Prediction`.
    gap_logits: see `Prediction`.
    adapter: the low-rank update, if there is one.
    gap_law: see `Prediction`.
  """

  hidden: Float[Array, "*b L D"]
  unembed: Float[Array, "D V"]
  bias: Float[Array, " V"] | None
  log_gaps: Float[Array, "*b L+1"]
  gap_logits: Float[Array, "*b L+1 C"] | None = None
  adapter: tuple[Float[Array, "*b L r"], Float[Array, "r V"]] | None = None
  gap_law: GapLaw | None = None

  @property
  def law(self) -> GapLaw | None:
    """Law of the missing tokens, in whichever form it was given."""
    return _law(self.gap_logits, self.gap_law)

  def token_logits(self) -> Float[Array, "*b L V"]:
    """Computes the token logits, float32."""
    logits = jnp.matmul(
      self.hidden, self.unembed, preferred_element_type=jnp.float32
    )
    if self.adapter is not None:
      logits += jnp.matmul(*self.adapter, preferred_element_type=jnp.float32)
    if self.bias is not None:
      logits = logits + self.bias.astype(jnp.float32)
    return logits

  def prediction(self) -> Prediction:
    """Computes the prediction, with float32 logits at every position."""
    return Prediction(
      self.token_logits(), self.log_gaps, self.gap_logits, self.gap_law
    )


def _law(gap_logits, gap_law):
  if gap_law is None and gap_logits is not None:
    return Categorical(gap_logits)
  return gap_law


@runtime_checkable
class Denoiser(Protocol):
  """A batched predictor; any callable of this form will do.

  A denoiser may have two more attributes, which save work and change no
  result. Ask for them with `features_or_prediction` and `ignores_padding`,
  which answer for any callable:

  - `features(tokens, length, t) -> Features`: the prediction before the
    vocabulary head's product;
  - `ignores_padding: bool`: whether a row's prediction is the same whatever L
    is, so that it may be called with shorter rows.

  It is a pytree if its parameters are to pass through `jax.jit` as arguments;
  see `as_pytree`.
  """

  def __call__(
    self,
    tokens: Int[Array, "B L"],
    length: Int[Array, " B"],
    t: Float[Array, " B"],
  ) -> Prediction: ...


def features_or_prediction(
  denoiser: Denoiser,
) -> Callable[..., Features | Prediction]:
  """Picks a denoiser's cheapest call: its `features`, else the denoiser."""
  return getattr(denoiser, "features", denoiser)


def ignores_padding(denoiser: Denoiser) -> bool:
  """Tells whether L changes no row's prediction, as far as a denoiser says.

  A plain callable says nothing, and may know one L only: False.
  """
  return getattr(denoiser, "ignores_padding", False)


def as_pytree(denoiser: Denoiser) -> Denoiser:
  """Makes a denoiser an argument that `jax.jit` takes: wraps a function."""
  if jax.tree_util.all_leaves([denoiser]):
    return jax.tree_util.Partial(denoiser)
  return denoiser


class Rates(NamedTuple):
  """Jump rates per unit of time; what is not listed has rate 0.

  Attributes:
    unmask: rate at which position i becomes token v; 0 where i is no mask.
    insert: rate at which a mask is inserted in gap i; 0 beyond the length.
  """

  unmask: Float[Array, "L V"]
  insert: Float[Array, " L+1"]


def forbid_mask(
  token_logits: Float[Array, "*b V"], vocab: Vocab
) -> Float[Array, "*b V"]:
  """Conditions the law of a token on not being the mask itself."""
  return jnp.where(jnp.arange(vocab.size) == vocab.mask, -jnp.inf, token_logits)


def insert_rates(
  log_gaps: Float[Array, "*b G"],
  t: Float[Array, ""],
  interpolant: JointInterpolant,
) -> Float[Array, "*b G"]:
  """Computes the rate at which a mask is inserted in each gap: `h_alpha g`.

  Args:
    log_gaps: log of the expected numbers of missing tokens, `log g`.
    t: the time, in [0, 1).
    interpolant: the schedules.
  """
  return interpolant.insertion.hazard(t) * jnp.exp(log_gaps)


def rates(
  prediction: Prediction,
  tokens: Int[Array, " L"],
  length: Int[Array, ""],
  t: Float[Array, ""],
  interpolant: JointInterpolant,
  vocab: Vocab,
) -> Rates:
  """Computes the rates at which one sequence's state changes at time `t`.

  Args:
    prediction: the denoiser's output for this state.
    tokens: the state; positions that hold `vocab.mask` may be unmasked.
    length: its number of tokens.
    t: the time, in [0, 1).
    interpolant: the schedules, whose hazards scale the rates.
    vocab: supplies the mask id.

  Returns:
    The `Rates`. Closed gaps are the caller's: a state does not know them.
  """
  (L,) = tokens.shape
  masked = (tokens == vocab.mask) & (jnp.arange(L) < length)
  posterior = jax.nn.softmax(forbid_mask(prediction.token_logits, vocab))
  unmask = interpolant.unmasking.hazard(t) * posterior
  insert = insert_rates(prediction.log_gaps, t, interpolant)
  return Rates(
    unmask=jnp.where(masked[:, None], unmask, 0.0),
    insert=jnp.where(jnp.arange(L + 1) <= length, insert, 0.0),
  )
