"""The random draws of a step: worked by hand, and their laws tested."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flexmdm_jax.sampling import draws
from tests.stats import chi_square

P = jnp.array([[0.1, 0.4, 0.2, 0.3], [0.25, 0.25, 0.25, 0.25]])
NUM = 20_000


def draw(logits, temperature=1.0, top_p=1.0, seed=0):
  keys = jax.random.split(jax.random.key(seed), logits.shape[:-1])
  drawn = jax.jit(draws.draw_tokens, static_argnums=(2, 3))
  return drawn(keys, logits, temperature, top_p)


def test_nucleus_keeps_ties_and_forbids_the_forbidden():
  logits = jnp.broadcast_to(jnp.array([0.0, 0.0, 0.0, -jnp.inf]), (200, 4))
  assert set(np.ravel(draw(logits, top_p=0.5).token)) == {0, 1, 2}


def test_temperature_zero_takes_the_mode():
  np.testing.assert_array_equal(draw(jnp.log(P), 0.0, 0.5).token, [1, 0])
  np.testing.assert_array_equal(draw(jnp.log(P[:1]), 1.0, 0.3).token, [1])


@pytest.mark.parametrize(
  ("temperature", "top_p", "law"),
  [
    (1.0, 1.0, [0.1, 0.4, 0.2, 0.3]),
    (1.0, 0.5, [0, 4 / 7, 0, 3 / 7]),
    (1.0, 0.69, [0, 4 / 7, 0, 3 / 7]),
    (1.0, 0.71, [0, 4 / 9, 2 / 9, 3 / 9]),
    (0.5, 1.0, np.array([1, 16, 4, 9]) / 30),
    # The nucleus is that of the tempered law, 1/30, 16/30, 4/30, 9/30.
    (0.5, 0.6, [0, 16 / 25, 0, 9 / 25]),
  ],
)
def test_law_of_the_tokens(temperature, top_p, law):
  logits = jnp.broadcast_to(jnp.log(P[0]), (NUM, 4))
  tokens = draw(logits, temperature, top_p, seed=1).token
  assert chi_square(tokens, law) > 1e-3


@pytest.mark.parametrize(
  ("kind", "expected"),
  [
    ("top_prob", [0.4, 0.25]),
    ("margin", [0.1, 0.0]),
    ("entropy", [(np.log(P[0]) * P[0]).sum(), -np.log(4)]),
    ("position", [0, -1]),
  ],
)
def test_confidence(kind, expected):
  # Of the law itself, whatever the temperature.
  score = draws.confidence(kind, draw(7.0 + jnp.log(P), temperature=0.3))
  np.testing.assert_allclose(score, expected, atol=1e-6)


@pytest.mark.parametrize(
  ("kind", "expected"),
  [("top_prob", [0.5, 1]), ("margin", [0, 1]), ("entropy", [-np.log(2), 0])],
)
def test_confidence_with_forbidden_tokens(kind, expected):
  logits = jnp.log(jnp.array([[0.5, 0.5, 0.0], [1.0, 0.0, 0.0]]))
  score = draws.confidence(kind, draw(logits))
  np.testing.assert_allclose(score, expected, atol=1e-6)


@jax.jit
def most_confident(masked, score, count, window):
  eligible = draws.leftmost(masked, window)
  return draws.most_confident(eligible, score, count)


@pytest.mark.parametrize(
  ("count", "window", "chosen"),
  [
    (0, 6, "------"),
    (1, 6, "----x-"),
    (2, 6, "-x--x-"),  # a tie: the left one
    (3, 6, "-x-xx-"),
    (9, 6, "-x-xx-"),  # no more than there are masks
    (1, 2, "-x----"),
    (9, 2, "-x-x--"),
    (9, 0, "------"),
  ],
)
def test_most_confident(count, window, chosen):
  masked = jnp.array([c == "x" for c in "-x-xx-"])
  score = jnp.array([0.9, 0.5, 0.9, 0.5, 0.8, jnp.inf])
  out = most_confident(masked, score, jnp.int32(count), jnp.int32(window))
  np.testing.assert_array_equal(out, [c == "x" for c in chosen])


@settings(max_examples=100, deadline=None)
@given(
  st.lists(st.booleans(), min_size=6, max_size=6),
  st.lists(st.sampled_from([-2.0, -1.0, 0.0, 2.0]), min_size=6, max_size=6),
  st.integers(0, 8),
  st.integers(0, 8),
)
def test_most_confident_as_in_a_sort(masked, score, count, window):
  eligible = [i for i in range(6) if masked[i]][:window]
  best = sorted(eligible, key=lambda i: -score[i])[:count]
  out = most_confident(
    jnp.array(masked), jnp.array(score), jnp.int32(count), jnp.int32(window)
  )
  np.testing.assert_array_equal(np.flatnonzero(out), sorted(best))


def test_bernoulli_insertions():
  drawn = draws.bernoulli_insertions(jax.random.key(2), jnp.full(NUM, 0.3))
  assert chi_square(drawn, [0.7, 0.3]) > 1e-3


def order(kind, masked, due=None, seed=0):
  masked = jnp.array([c == "x" for c in masked])
  due = jnp.zeros(masked.shape) if due is None else jnp.array(due)
  score = draws.order_before(kind, jax.random.key(seed), masked, due)
  if score is None:
    return None
  picked = np.argsort(-np.asarray(score), kind="stable")
  return [int(i) for i in picked if masked[i]]


def test_orders_by_hand():
  due = [9.0, 0.3, 9.0, 0.1, 0.2, 9.0]
  assert order("random", "-x-xx-", due) == [3, 4, 1]
  assert order("position", "-x-xx-", due) == [1, 3, 4]
  for kind in draws.CONFIDENCES:
    assert (order(kind, "-x-xx-") is None) == (kind != "position")
  assert set(draws.ORDERS) == {"spread", "random", *draws.CONFIDENCES}


def test_spread_lies_evenly_apart():
  masked = "x-" * 34 + "-"
  for seed in range(20):
    chosen = order("spread", masked, seed=seed)
    assert sorted(chosen) == list(range(0, 68, 2))
    for r in (2, 3, 8):
      gaps = np.diff(sorted(rank // 2 for rank in chosen[:r]))
      # The first r of a Kronecker sequence of 34 leave no two side by side.
      assert gaps.min() >= 34 / r / 2.7
  firsts = {order("spread", masked, seed=seed)[0] for seed in range(60)}
  assert len(firsts) > 20


def test_spread_does_not_depend_on_the_width():
  assert order("spread", "xx-xx") == order("spread", "xx-xx----")


@pytest.mark.parametrize(
  ("budget", "count"),
  # In order: entropies 0.5, 1, 0.25; all but the largest: 0, 0.5, 0.75.
  [(0.01, 1), (0.49, 1), (0.51, 2), (0.74, 2), (0.76, 3), (9, 3)],
)
def test_entropy_budget(budget, count):
  masked = jnp.array([c == "x" for c in "-x-xx-"])
  score = jnp.array([9.0, 0.5, 9.0, 0.3, 0.1, 9.0])
  entropy = jnp.array([0.0, 0.5, 0.0, 1.0, 0.25, 7.0])
  assert draws.within_budget(masked, score, entropy, budget) == count
  nothing = jnp.zeros(6, bool)
  assert draws.within_budget(nothing, score, entropy, budget) == 0
