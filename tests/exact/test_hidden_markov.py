"""The law of a hidden Markov chain, and its denoiser against enumeration."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

import flexmdm_jax as fm
from flexmdm_jax.exact import HiddenMarkovLaw, KnownLaw, markov_law
from flexmdm_jax.prediction import ignores_padding
from flexmdm_jax.schedules import Linear
from tests import stats

# A sequence of more than 9 tokens has probability 1.4e-9.
TINY = HiddenMarkovLaw(
  initial=np.array([0.4, 0.3]),
  transitions=np.array([[0.02, 0.06], [0.1, 0.04]]),
  emissions=np.array([[0.9, 0.1], [0.25, 0.75]]),
  max_length=9,
)
MASK = TINY.vocab.mask
# A seed by which all three symbols are common.
LARGER = markov_law(symbols=3, phases=3, stages=2, mean_length=7.0, seed=5)


@functools.cache
def enumerated():
  """`TINY` as a law that lists its sequences."""
  sequences = [
    s for n in range(10) for s in itertools.product((0, 1), repeat=n)
  ]
  p = np.exp(TINY.log_prob(sequences))
  return dict(zip(sequences, p / p.sum(), strict=True))


def by_hand(sequence):
  """The probability of a sequence of `TINY`, over all hidden paths."""
  total = 0.0
  for path in itertools.product((0, 1), repeat=len(sequence)):
    p, ends = TINY.initial, 1 - TINY.initial.sum()
    for phase, token in zip(path, sequence, strict=True):
      step = p[phase] * TINY.emissions[phase, token]
      p, ends = (
        step * TINY.transitions[phase],
        step * (1 - TINY.transitions[phase].sum()),
      )
    total += ends
  return total


def posterior(state, q):
  """The law of what a state of `TINY` hides, over all ways to show it.

  Returns:
    The laws of its tokens [n, 2] and of its gaps' missing tokens [n + 1, 10].
  """
  tokens, gaps = np.zeros((len(state), 2)), np.zeros((len(state) + 1, 10))
  for sequence, p in enumerated().items():
    for source in itertools.combinations(range(len(sequence)), len(state)):
      shown = [sequence[i] for i in source]
      if any(
        s not in (MASK, token) for s, token in zip(state, shown, strict=True)
      ):
        continue
      weight = p * q ** (len(sequence) - len(state))
      tokens[np.arange(len(state)), shown] += weight
      ends = np.diff([-1, *source, len(sequence)]) - 1
      gaps[np.arange(len(ends)), ends] += weight
  return tokens / tokens.sum(-1, keepdims=True), gaps / gaps.sum(
    -1, keepdims=True
  )


@functools.partial(jax.jit, static_argnames="law")
def _predict(law, tokens, length, t):
  return law.denoiser(Linear(), gap_law=True)(tokens, length, t)


def predict(law, states, alpha, L):
  """Predictions for rows of L positions, with junk beyond their lengths."""
  tokens = np.full((len(states), L), law.vocab.mask, np.int32)
  tokens[:, ::2] = 0
  for row, state in zip(tokens, states, strict=True):
    row[: len(state)] = state
  length = np.array([len(state) for state in states], np.int32)
  t = jnp.broadcast_to(jnp.float32(alpha), length.shape)
  return jax.tree.map(np.asarray, _predict(law, tokens, length, t))


def softmax(logits):
  return scipy.special.softmax(logits.astype(np.float64), axis=-1)


STATES = [
  (),
  (0,),
  (1,),
  (MASK,),
  (MASK, MASK),
  (1, MASK, 0),
  (MASK, 1, MASK),
]


@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.9, 1.0])
def test_posterior_is_that_of_all_sequences(alpha):
  prediction = predict(TINY, STATES, alpha, L=5)
  for i, state in enumerate(STATES):
    n = len(state)
    tokens, gaps = posterior(state, 1 - alpha)
    masks = np.array(state, int) == MASK
    made = softmax(prediction.token_logits[i, :n])
    np.testing.assert_allclose(made[masks, :2], tokens[masks], atol=2e-5)
    assert (made[:, 2:] == 0).all()
    law = softmax(prediction.gap_logits[i])
    np.testing.assert_allclose(law[: n + 1], gaps, atol=2e-5)
    assert (law[n + 1 :, 0] == 1).all()
    mean = np.exp(prediction.log_gaps[i])
    np.testing.assert_allclose(mean[: n + 1], gaps @ np.arange(10), atol=5e-5)
    assert (mean[n + 1 :] == 0).all()


def test_posterior_is_that_of_noised_draws():
  # Draws that show up as a state, by their number of missing tokens and the
  # token behind the mask.
  alpha, masked, num = 0.5, 0.4, 400_000
  V = LARGER.vocab.mask
  rng = np.random.default_rng(0)
  states = [(), (V,), (0,), (V, 2), (0, V)]
  seen = {state: [] for state in states}
  for sequence in LARGER.draw(num, seed=1):
    present = rng.random(len(sequence)) < alpha
    if present.sum() > 2:
      continue
    source = np.flatnonzero(present)
    hidden = rng.random(len(source)) < masked
    state = tuple(np.where(hidden, V, sequence[source]).tolist())
    if state in seen:
      gaps = np.diff([-1, *source, len(sequence)]) - 1
      seen[state].append([*sequence[source], *gaps])
  prediction = predict(LARGER, states, alpha, L=2)
  for i, state in enumerate(states):
    n, rows = len(state), np.array(seen[state])
    assert len(rows) > 1000
    gaps = rows[:, n:]
    error = gaps.std(axis=0) / np.sqrt(len(rows))
    mean = np.exp(prediction.log_gaps[i, : n + 1])
    assert (np.abs(gaps.mean(axis=0) - mean) < 4 * error).all()
    for j in range(n + 1):
      law = softmax(prediction.gap_logits[i, j])
      assert stats.chi_square(gaps[:, j], law) > 1e-3
    for j in np.flatnonzero(np.array(state, int) == V):
      law = softmax(prediction.token_logits[i, j])
      assert stats.chi_square(rows[:, j], law[:V]) > 1e-3


def test_padding_and_batch_mates_change_nothing():
  short = predict(TINY, STATES, 0.4, L=5)
  wide = predict(TINY, STATES, 0.4, L=11)
  alone = predict(TINY, STATES[5:6], 0.4, L=5)
  assert ignores_padding(TINY.denoiser(Linear()))
  for i, state in enumerate(STATES):
    n = len(state)
    for name, upto in (("token_logits", n), ("log_gaps", n + 1)):
      np.testing.assert_allclose(
        getattr(short, name)[i, :upto],
        getattr(wide, name)[i, :upto],
        atol=1e-6,
      )
  for ours, theirs in zip(alone[:3], short[:3], strict=True):
    np.testing.assert_allclose(ours[0], theirs[5], atol=1e-6)


def test_impossible_states_get_any_token_and_nothing_missing():
  # It only ever says 0.
  law = HiddenMarkovLaw(
    np.ones(1), np.full((1, 1), 0.5), np.array([[1.0, 0.0]])
  )
  prediction = predict(law, [(1, law.vocab.mask)], 0.5, L=3)
  np.testing.assert_allclose(
    softmax(prediction.token_logits[0, 1]), [0.5, 0.5, 0, 0]
  )
  assert (prediction.log_gaps == -np.inf).all()
  assert (softmax(prediction.gap_logits)[..., 0] == 1).all()
  assert np.isneginf(law.log_prob([[0, 1], [0, 5]])).all()


def test_log_prob_sums_over_hidden_paths():
  sequences = list(enumerated())[:31]
  np.testing.assert_allclose(
    np.exp(TINY.log_prob(sequences)), list(map(by_hand, sequences))
  )
  assert TINY.length_law().sum() == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("law", [TINY, LARGER], ids=["tiny", "larger"])
def test_draws_follow_the_law(law):
  assert isinstance(law, KnownLaw)
  draws = law.draw(20_000, seed=0)
  lengths = np.array([len(x) for x in draws])
  assert stats.chi_square(lengths, law.length_law()) > 1e-3
  error = lengths.std() / np.sqrt(len(lengths))
  assert abs(lengths.mean() - law.mean_length()) < 4 * error
  assert law.length_law() @ np.arange(law.max_length + 1) == pytest.approx(
    law.mean_length(), rel=0.01
  )
  nats = -law.log_prob(draws)
  entropy, entropy_error = law.entropy(num=50_000, seed=1)
  error = np.hypot(entropy_error, nats.std() / np.sqrt(len(nats)))
  assert abs(nats.mean() - entropy) < 4 * error
  for a, b in zip(draws[:100], law.draw(20_000, seed=0), strict=False):
    np.testing.assert_array_equal(a, b)


def test_entropy_is_that_of_all_sequences():
  p = np.array(list(enumerated().values()))
  entropy, error = TINY.entropy(num=50_000)
  assert abs(entropy + (p * np.log(p)).sum()) < 4 * error


def test_room_by_default():
  lengths = LARGER.length_law()
  assert len(lengths) == LARGER.max_length + 1
  assert 1 - lengths.sum() < 1e-4 <= 1 - lengths[:-1].sum()
  assert LARGER.mean_length() == pytest.approx(7.0)
  assert markov_law(max_length=96).max_length == 96


@pytest.mark.parametrize(
  ("change", "says"),
  [
    (dict(transitions=np.zeros((3, 3))), r"shape \(3, 3\)"),
    (dict(initial=np.array([0.9, 0.3])), "initial must be probabilities"),
    (dict(initial=np.array([-0.1, 0.3])), "initial must be probabilities"),
    (dict(emissions=np.full((2, 2), 0.4)), "emissions must sum to 1"),
    (dict(transitions=np.eye(2)), "go on for ever"),
    (dict(max_length=0), "max_length=0"),
  ],
)
def test_bad_laws_are_refused(change, says):
  fields = dict(
    initial=TINY.initial,
    transitions=TINY.transitions,
    emissions=TINY.emissions,
  )
  with pytest.raises(fm.InputError, match=says):
    HiddenMarkovLaw(**(fields | change))


@pytest.mark.parametrize(
  ("settings", "says"),
  [
    (dict(stages=0), "stages=0"),
    (dict(mean_length=2.0), "mean_length=2.0 must be at least 3"),
  ],
)
def test_bad_settings_are_refused(settings, says):
  with pytest.raises(fm.InputError, match=says):
    markov_law(**settings)
  with pytest.raises(fm.InputError, match="num=1"):
    TINY.entropy(num=1)
