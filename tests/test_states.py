"""Laws of states: shares, strata, weights and their noise."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import flexmdm_jax as fm
from flexmdm_jax.schedules import Linear, Power
from flexmdm_jax.states import MixedStates, PathStates

VOCAB = fm.Vocab(6, mask=4, pad=5)
PAIR = fm.JointInterpolant(Power(1.7), Power(2.89))
L = 12
CURRICULUM = dict(
  steps=(0, 100, 100, 200),
  full=(1.0, 0.8, 0.4, 0.2),
  blank=(0.0, 0.2, 0.1, 0.1),
)


def noised(law, states, length=L):
  tokens = jnp.arange(L, dtype=jnp.int32) % 4
  return jax.vmap(
    lambda state: law.noise(
      state,
      tokens,
      jnp.int32(length),
      VOCAB,
      jnp.zeros(L, bool),
      jnp.ones(L + 1, bool),
    )
  )(states)


def test_shares_follow_the_curriculum():
  law = MixedStates(PAIR, **CURRICULUM)
  shares = jax.jit(law.shares)
  for step, expected in {
    0: (1.0, 0.0),
    50: (0.9, 0.1),
    99: (0.802, 0.198),
    100: (0.4, 0.1),
    150: (0.3, 0.1),
    200: (0.2, 0.1),
    9999: (0.2, 0.1),
  }.items():
    np.testing.assert_allclose(shares(step), expected, atol=1e-6)
  constant = MixedStates(PAIR, full=(0.5,), blank=(0.25,))
  np.testing.assert_allclose(constant.shares(7), (0.5, 0.25))


def test_rows_are_full_blank_or_mixed():
  law = MixedStates(PAIR, full=(0.5,), blank=(0.25,))
  states = law.draw(jax.random.key(0), 64, 0)
  full, blank, mixed = np.split(np.arange(64), [32, 48])
  assert (states.progress[full] == 1).all()
  assert (states.t[full] == 1).all()
  assert (states.insert_weight[full] == 0).all()
  assert (states.masks[blank] == 1).all()
  assert (states.unmask_weight[blank] == 0).all()
  assert (states.progress[blank] == 0).sum() in (6, 7)  # where samples start
  for rows in (blank, mixed):
    assert (states.progress[rows] < 1).all()
    assert (states.insert_weight[rows] > 0).all()
  # The network sees the trained clock at the row's progress.
  np.testing.assert_allclose(
    PAIR.insertion.alpha(states.t), states.progress, atol=1e-6
  )
  state = noised(law, states)
  assert (state.length[full] == L).all()
  assert (state.gaps[full] == 0).all()
  masks = state.masked.sum(-1)
  assert (masks[blank] == state.length[blank]).all()


def test_progress_and_masks_are_stratified_together():
  law = MixedStates(PAIR, insertion=Linear(), full=(0.0,), blank=(0.0,))
  states = law.draw(jax.random.key(1), 64, 0)
  for x in (states.progress, states.masks):
    assert np.histogram(x, 16, (0, 1))[0].tolist() == [4] * 16 or (
      np.abs(np.histogram(x, 16, (0, 1))[0] - 4).max() <= 1
    )
  quarters, _, _ = np.histogram2d(
    states.progress, states.masks, 4, [[0, 1], [0, 1]]
  )
  assert np.abs(quarters - 4).max() <= 2


def test_coins_have_the_rows_shares():
  law = MixedStates(PAIR, full=(0.0,), blank=(0.0,))
  one = jax.tree.map(lambda x: x[3], law.draw(jax.random.key(2), 8, 0))
  keys = jax.random.split(jax.random.key(3), 2000)
  states = one._replace(
    **{
      name: jnp.broadcast_to(getattr(one, name), 2000)
      for name in one._fields
      if name != "key"
    },
    key=keys,
  )
  state = noised(law, states)
  present, masks = int(state.length.sum()), int(state.masked.sum())
  trials = 2000 * L
  assert stats.binomtest(present, trials, float(one.progress)).pvalue > 1e-3
  assert stats.binomtest(masks, present, float(one.masks)).pvalue > 1e-3


@pytest.mark.parametrize("exponent", [1.0, 2.0])
def test_weights_are_those_of_a_bound(exponent):
  # Of every token the weights' mean is one: it is revealed once, and inserted
  # once, if it was missing.
  law = MixedStates(
    PAIR,
    mask_exponent=exponent,
    full=(0.0,),
    blank=(0.0,),
    insertion=Power(2.0),
  )
  states = jax.vmap(lambda key: law.draw(key, 32, 0))(
    jax.random.split(jax.random.key(4), 200)
  )
  np.testing.assert_allclose(
    jnp.mean(states.unmask_weight * states.masks), 1.0, rtol=2e-2
  )
  missing = 1 - states.progress
  np.testing.assert_allclose(
    jnp.mean(states.insert_weight * missing), 1.0, rtol=2e-2
  )


def test_path_states_are_the_interpolants():
  law = PathStates(PAIR)
  states = jax.vmap(lambda key: law.draw(key, 32))(
    jax.random.split(jax.random.key(5), 100)
  )
  state = jax.vmap(lambda s: noised(law, s))(states)
  present = np.asarray(state.length).mean(0) / L
  expected = np.asarray(PAIR.insertion.alpha(states.t)).mean(0)
  assert np.abs(present - expected).max() < 5 * 0.5 / np.sqrt(100 * L)
  hazard = PAIR.unmasking.hazard(states.t)
  weight = states.unmask_weight / hazard
  assert jnp.mean(weight) == pytest.approx(1.0, rel=1e-2)


@pytest.mark.parametrize(
  ("changes", "says"),
  [
    (dict(full=(0.8,), blank=(0.3,)), "sum to at most 1"),
    (dict(full=(-0.1,)), r"full=\(-0.1,\)"),
    (dict(full=(1.1,), blank=(0.0,)), r"full=\(1.1,\)"),
    (dict(full=(float("nan"),)), r"full=\(nan,\)"),
    (dict(steps=(0, 5)), "of one length"),
    (dict(steps=(), full=(), blank=()), "at least 1"),
    (dict(steps=(5, 0), full=(0, 0), blank=(0, 0)), "must ascend"),
    (dict(mask_exponent=0.0), "mask_exponent=0.0"),
    (dict(interpolant=fm.MDM(Linear())), "fixed-length"),
  ],
)
def test_bad_laws_are_refused(changes, says):
  with pytest.raises(fm.InputError, match=says):
    MixedStates(**{"interpolant": PAIR, **changes})


def test_bad_time_exponent_is_refused():
  with pytest.raises(fm.InputError, match="time_exponent=0"):
    PathStates(PAIR, 0)
