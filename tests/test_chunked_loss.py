"""The loss of a large vocabulary in chunks is that of the dense logits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import jaxprs_in_params

import flexmdm_jax as fm
from flexmdm_jax import schedules
from flexmdm_jax.chunked_loss import mask_nats_in_chunks
from flexmdm_jax.prediction import Features
from flexmdm_jax.rows import Rows
from flexmdm_jax.states import PathStates
from flexmdm_jax.training.objectives import Diffusion

B, L, D, R = 4, 10, 6, 2
VOCAB = fm.Vocab(11, mask=0, pad=10)
INTERPOLANT = fm.JointInterpolant(schedules.Linear(), schedules.Linear())


class Linear:
  """Features linear in `params`, whatever the state."""

  def __init__(self, params):
    self.params = params

  def features(self, tokens, length, t):
    p = self.params
    hidden = jnp.sin(p["hidden"] + t[:, None, None])
    adapter = None
    if "inner" in p:
      adapter = (hidden @ p["inner"], p["outer"])
    gap_logits = p.get("gap_logits")
    log_gaps = p["log_gaps"]
    if gap_logits is not None:
      log_gaps = log_gaps + gap_logits[..., 0]
    return Features(
      hidden, p["unembed"], p.get("bias"), log_gaps, gap_logits, adapter
    )

  def __call__(self, tokens, length, t):
    return self.features(tokens, length, t).prediction()


def parameters(*extras):
  shapes = dict(hidden=(B, L, D), unembed=(D, 11), log_gaps=(B, L + 1))
  more = dict(bias=(11,), inner=(D, R), outer=(R, 11), gap_logits=(B, L + 1, 3))
  shapes.update({name: more[name] for name in extras})
  keys = jax.random.split(jax.random.key(0), len(shapes))
  return {
    name: jax.random.normal(key, shape)
    for key, (name, shape) in zip(keys, shapes.items(), strict=True)
  }


def batch():
  tokens = jax.random.randint(jax.random.key(1), (B, L), 1, 10)
  length = jnp.array([10, 7, 1, 0])
  return Rows(
    tokens=jnp.where(jnp.arange(L) < length[:, None], tokens, VOCAB.pad),
    length=length,
    frozen=jnp.zeros((B, L), bool).at[1, :2].set(True),
    open_gaps=jnp.ones((B, L + 1), bool),
  )


def loss(params, chunk, targets, dense=False):
  gap_loss = "law" if "gap_logits" in params else "phi"
  objective = Diffusion(
    PathStates(INTERPOLANT), VOCAB, targets, gap_loss, loss_chunk=chunk
  )
  drawn = objective.draw(jax.random.key(2), B)
  denoiser = Linear(params)
  terms = objective.terms(
    denoiser.__call__ if dense else denoiser, batch(), drawn
  )
  return sum(jnp.sum(x) for x in terms.values()), terms


@pytest.mark.parametrize(
  "targets", ["aligned", pytest.param("sampled", marks=pytest.mark.slow)]
)
@pytest.mark.parametrize(
  "extras",
  [
    pytest.param((), marks=pytest.mark.slow),
    ("bias", "inner", "outer", "gap_logits"),
  ],
)
def test_chunks_change_neither_loss_nor_gradient(targets, extras):
  params = parameters(*extras)
  gradient = jax.jit(
    jax.value_and_grad(loss, has_aux=True), static_argnums=(1, 2, 3)
  )
  dense = gradient(params, None, targets, True)
  others = [gradient(params, chunk, targets, False) for chunk in (None, 3, 5)]
  # A law of the gaps leaves their mean without a gradient.
  still = {"log_gaps"} if "gap_logits" in extras else set()
  assert {n for n, x in dense[1].items() if not np.abs(x).max()} == still
  for other in others:
    jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
      other,
      dense,
    )


def arrays(jaxpr):
  """The shapes of all that a program makes, those of its loops included."""
  for equation in jaxpr.eqns:
    for var in equation.outvars:
      yield var.aval.shape
    for inner in jaxprs_in_params(equation.params):
      yield from arrays(inner)


def test_neither_all_logits_nor_a_frozen_matrix_gradient_are_made():
  params = parameters("inner", "outer")
  frozen = params.pop("unembed")

  def trained(params):
    return loss({**params, "unembed": frozen}, 3, "sampled")[0]

  made = set(arrays(jax.make_jaxpr(jax.grad(trained))(params).jaxpr))
  assert (B, 3, 11) in made and (R, 11) in made
  assert (B, L, 11) not in made
  assert (D, 11) not in made


def test_small_models_take_one_chunk():
  params = jax.eval_shape(parameters)
  made = set(
    arrays(jax.make_jaxpr(lambda p: loss(p, None, "sampled")[0])(params).jaxpr)
  )
  assert (B, L, 11) in made


@pytest.mark.parametrize("chunk", [0, -1])
def test_chunk_below_one_is_refused(chunk):
  with pytest.raises(fm.InputError, match=r"train\.loss_chunk"):
    Diffusion(PathStates(INTERPOLANT), VOCAB, loss_chunk=chunk)


def test_gradients_of_half_precision_matrices_keep_their_type():
  params = jax.tree.map(lambda x: x.astype(jnp.bfloat16), parameters())
  params["hidden"] = params["hidden"].astype(jnp.float32)

  def features(params):
    return Features(
      params["hidden"].astype(jnp.bfloat16),
      params["unembed"],
      None,
      params["log_gaps"].astype(jnp.float32),
    )

  def chunked(params, chunk):
    masked = jnp.arange(L) % 3 == 0
    tokens = jnp.broadcast_to(jnp.arange(L) % 9 + 1, (B, L))
    noised = fm.Noised(
      tokens=tokens,
      length=jnp.full(B, L),
      source=tokens,
      target=tokens,
      masked=jnp.broadcast_to(masked, (B, L)),
      gaps=jnp.zeros((B, L + 1), jnp.int32),
      open_gaps=jnp.ones((B, L + 1), bool),
    )
    return jnp.sum(mask_nats_in_chunks(features(params), noised, VOCAB, chunk))

  gradient = jax.jit(jax.grad(chunked), static_argnums=1)
  few, whole = gradient(params, 3), gradient(params, L)
  assert few["unembed"].dtype == jnp.bfloat16
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(
      a.astype(jnp.float32), b.astype(jnp.float32), rtol=0.02, atol=0.02
    ),
    few,
    whole,
  )
