"""Noising: golden parity, examples by hand, marginal laws, and the edges."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import flexmdm_jax as fm
from flexmdm_jax import schedules

VOCAB = fm.Vocab(size=40, mask=38, pad=39)
M, PAD = VOCAB.mask, VOCAB.pad
LINEAR = fm.JointInterpolant(schedules.Linear(), schedules.Linear())
noise = jax.jit(fm.noise, static_argnames="vocab")


def noise_lists(tokens, insertion, unmasking, t, frozen=None, open_gaps=None):
  """`noise` of Python lists that hold no padding."""
  return noise(
    jnp.array(tokens, jnp.int32),
    jnp.int32(len(tokens) - tokens.count(PAD)),
    jnp.array(insertion, jnp.float32),
    jnp.array(unmasking, jnp.float32),
    jnp.float32(t),
    VOCAB,
    None if frozen is None else jnp.array(frozen),
    None if open_gaps is None else jnp.array(open_gaps),
  )


def assert_noised(actual, **expected):
  for name, value in expected.items():
    assert np.asarray(getattr(actual, name)).tolist() == value, name


def test_golden(golden):
  expected = golden("core_tiny/interpolant_and_loss.safetensors")
  noised = jax.vmap(noise, in_axes=(0, 0, 0, 0, 0, None))(
    jnp.asarray(expected["x1"], jnp.int32),
    jnp.asarray(expected["length1"], jnp.int32),
    jnp.asarray(expected["insertion_time"]),
    jnp.asarray(expected["unmasking_time"]),
    jnp.asarray(expected["t"]),
    VOCAB,
  )
  np.testing.assert_array_equal(noised.length, expected["xt_length"])
  np.testing.assert_array_equal(noised.open_gaps, expected["gap_valid"])
  for row, n in enumerate(expected["xt_length"]):
    for ours, theirs, size in [
      (noised.tokens, "xt", n),
      (noised.source, "st", n),
      (noised.target, "target", n),
      (noised.masked, "masked", n),
      (noised.gaps, "gaps", n + 1),
    ]:
      np.testing.assert_array_equal(
        ours[row, :size], expected[theirs][row, :size], theirs
      )


# --- Examples by hand. Tokens are 10, 11, ... in order. ---

# At t = 0.5: absent, clean, absent, absent, mask.
INSERTION = [0.9, 0.1, 0.6, 0.8, 0.2]
UNMASKING = [0.95, 0.3, 0.7, 0.9, 0.8]


def test_without_frozen_tokens():
  noised = noise_lists([10, 11, 12, 13, 14], INSERTION, UNMASKING, 0.5)
  assert_noised(
    noised,
    tokens=[11, M, PAD, PAD, PAD],
    length=2,
    source=[1, 4, 0, 0, 0],
    target=[11, 14, PAD, PAD, PAD],
    masked=[False, True, False, False, False],
    gaps=[1, 2, 0, 0, 0, 0],
    open_gaps=[True, True, True, False, False, False],
  )


def test_events_happen_at_their_times():
  def at(t):
    return noise_lists([10], [0.25], [0.75], t).tokens.tolist()

  assert at(0.2499) == [PAD]
  assert at(0.25) == [M]
  assert at(0.7499) == [M]
  assert at(0.75) == [10]


def test_prompt_stays_and_its_gaps_are_closed():
  noised = noise_lists(
    [10, 11, 12, 13, 14],
    [0.9, 0.9, 0.1, 0.9, 0.2],
    [0.9, 0.9, 0.3, 0.9, 0.8],
    0.5,
    frozen=[True, True, False, False, False],
  )
  # 10 and 11 are given, 12 is clean, 13 is absent, 14 is a mask.
  assert_noised(
    noised,
    tokens=[10, 11, 12, M, PAD],
    source=[0, 1, 2, 4, 0],
    masked=[False, False, False, True, False],
    gaps=[0, 0, 0, 1, 0, 0],
    open_gaps=[False, False, True, True, True, False],
  )


def test_gap_after_a_prompt_is_open_when_nothing_follows():
  noised = noise_lists([10, 11], [1, 1], [1, 1], 0.5, frozen=[True, True])
  assert_noised(noised, gaps=[0, 0, 0], open_gaps=[False, False, True])


def test_anchors_leave_every_gap_open():
  noised = noise_lists(
    [10, 11, 12],
    [0.9, 0.9, 0.9],
    [0.9, 0.9, 0.9],
    0.5,
    frozen=[True, True, False],
    open_gaps=[True] * 4,
  )
  assert_noised(
    noised,
    tokens=[10, 11, PAD],
    gaps=[0, 0, 1, 0],
    open_gaps=[True, True, True, False],
  )


@pytest.mark.parametrize(
  ("tokens", "hole", "state", "gaps", "open_gaps"),
  [
    # 11, 12, 13 lie in the hole between the frozen 10 and 14.
    (
      [10, 11, 12, 13, 14],
      {1, 2, 3, 4},
      [10, 14, PAD, PAD, PAD],
      [0, 3, 0, 0, 0, 0],
      [False, True, False, False, False, False],
    ),
    # The same hole, of which the caller names the first gap only.
    (
      [10, 11, 14, PAD, PAD],
      {1},
      [10, 14, PAD, PAD, PAD],
      [0, 1, 0, 0, 0, 0],
      [False, True, False, False, False, False],
    ),
    # An empty hole is open all the same: its truth is no token.
    (
      [10, 14, PAD, PAD, PAD],
      {1},
      [10, 14, PAD, PAD, PAD],
      [0, 0, 0, 0, 0, 0],
      [False, True, False, False, False, False],
    ),
  ],
)
def test_infilling_opens_the_hole_only(tokens, hole, state, gaps, open_gaps):
  noised = noise_lists(
    tokens,
    [0.9] * 5,
    [0.9] * 5,
    0.5,
    frozen=[token in (10, 14) for token in tokens],
    open_gaps=[j in hole for j in range(6)],
  )
  assert_noised(noised, tokens=state, gaps=gaps, open_gaps=open_gaps)


# --- Laws. Tokens are independent: one long sequence is a large sample. ---

N = 20_000


@pytest.mark.parametrize("t", [0.1, 0.5, 0.9])
def test_marginals_of_linear_schedules(t):
  times = fm.draw_times(jax.random.key(5), LINEAR, N)
  noised = noise(
    jnp.zeros(N, jnp.int32), jnp.int32(N), *times, jnp.float32(t), VOCAB
  )
  masks = int(noised.masked.sum())
  counts = [N - int(noised.length), masks, int(noised.length) - masks]
  rest = (1 - t) * np.log(1 - t)
  law = np.array([1 - t, -rest, t + rest])
  assert stats.chisquare(counts, N * law).pvalue > 1e-3


def test_unmasking_follows_insertion():
  interpolant = fm.JointInterpolant(schedules.Sine(), schedules.Power(2.89))
  insertion, unmasking = fm.draw_times(jax.random.key(6), interpolant, N)
  assert (unmasking >= insertion).all()
  quantiles = interpolant.insertion.alpha(insertion)
  assert stats.kstest(np.asarray(quantiles), "uniform").pvalue > 1e-3
  quantiles = interpolant.unmasking.jump(insertion, unmasking)
  assert stats.kstest(np.asarray(quantiles), "uniform").pvalue > 1e-3


def test_mdm_has_masks_only():
  interpolant = fm.MDM(schedules.Linear())
  times = fm.draw_times(jax.random.key(7), interpolant, N)
  for t in (0.0, 0.3):
    noised = noise(
      jnp.zeros(N, jnp.int32), jnp.int32(N), *times, jnp.float32(t), VOCAB
    )
    assert noised.length == N
    assert (noised.gaps == 0).all()
    np.testing.assert_array_equal(noised.source, np.arange(N))
    masks = int(noised.masked.sum())
    assert stats.binomtest(masks, N, 1 - t).pvalue > 1e-3


# --- Edges. ---


@pytest.mark.parametrize(
  "schedule",
  [
    schedules.Linear(),
    schedules.Sine(),
    schedules.Power(2.89),
    schedules.Geometric(10.0, 0.01),
  ],
  ids=str,
)
def test_ends_of_time(schedule):
  interpolant = fm.JointInterpolant(schedule, schedule)
  tokens = jnp.arange(N, dtype=jnp.int32) % VOCAB.mask
  times = fm.draw_times(jax.random.key(8), interpolant, N)
  length = jnp.int32(N)
  start = noise(tokens, length, *times, jnp.float32(0.0), VOCAB)
  assert start.length == 0
  assert start.gaps[0] == N and (start.gaps[1:] == 0).all()
  assert (start.tokens == PAD).all()
  end = noise(tokens, length, *times, jnp.float32(1.0), VOCAB)
  np.testing.assert_array_equal(end.tokens, tokens)
  assert not end.masked.any()
  assert (end.gaps == 0).all() and end.open_gaps.all()


def test_empty_sequence():
  noised = noise_lists([PAD, PAD], [0.1, 0.1], [0.2, 0.2], 0.5)
  assert_noised(
    noised,
    tokens=[PAD, PAD],
    length=0,
    gaps=[0, 0, 0],
    open_gaps=[True, False, False],
  )


def test_full_length_has_an_open_last_gap():
  noised = noise_lists([10, 11], [0.1, 0.9], [0.2, 0.9], 0.5)
  assert_noised(noised, length=1, gaps=[0, 1, 0], open_gaps=[True, True, False])
  noised = noise_lists([10, 11], [0.1, 0.1], [0.2, 0.9], 0.5)
  assert_noised(noised, tokens=[10, M], gaps=[0, 0, 0], open_gaps=[True] * 3)


@pytest.mark.parametrize("frozen", [None, [True, False], [True, True]])
def test_nothing_beyond_the_length_is_read(frozen):
  def run(poison, time, given):
    return noise(
      jnp.array([10, 11, poison, poison], jnp.int32),
      jnp.int32(2),
      jnp.array([0.1, 0.9, time, time]),
      jnp.array([0.7, 0.9, time, time]),
      jnp.float32(0.5),
      VOCAB,
      None if frozen is None else jnp.array([*frozen, given, given]),
    )

  clean = run(PAD, 1.0, False)
  for poisoned in (run(M, 0.0, True), run(-7, jnp.nan, True)):
    jax.tree.map(np.testing.assert_array_equal, poisoned, clean)


def test_config_round_trip():
  interpolant = fm.JointInterpolant(
    schedules.Power(1.7), schedules.Geometric(10.0, 0.01)
  )
  for value in (interpolant, fm.MDM(schedules.Cosine())):
    assert fm.JointInterpolant.from_config(value.to_config()) == value
