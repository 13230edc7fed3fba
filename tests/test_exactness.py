"""With a perfect denoiser, the sampler's law is the data law.

Exact posteriors of small laws (tests/laws.py) leave two sources of error: the
noise of the sample, and the time step, whose bias vanishes with it.
"""

import dataclasses
import functools
import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse.linalg
import scipy.stats

import flexmdm_jax as fm
from flexmdm_jax import likelihood
from flexmdm_jax.exact.short import ShortDenoiser
from flexmdm_jax.schedules import Cosine, Linear, Power, Sine
from tests import laws
from tests.laws import VOCAB, L, quick_jit

LINEAR = fm.JointInterpolant(Linear(), Linear())

# An interpolant, with alpha, alpha' and beta in float64.
INTERPOLANTS = {
  "linear": (LINEAR, lambda t: t, np.ones_like, lambda t: t),
  "power": (
    fm.JointInterpolant(Power(1.7), Power(2.89)),
    lambda t: 1 - (1 - t) ** 1.7,
    lambda t: 1.7 * (1 - t) ** 0.7,
    lambda t: 1 - (1 - t) ** 2.89,
  ),
  "sine_cosine": (
    fm.JointInterpolant(Sine(), Cosine()),
    lambda t: np.sin(np.pi / 2 * t),
    lambda t: np.pi / 2 * np.cos(np.pi / 2 * t),
    lambda t: 1 - np.cos(np.pi / 2 * t),
  ),
}

# Conditional laws: what is given, which gaps are open, and what every state on
# the way must look like (3 is the mask).
CONDITIONALS = {
  "prompt": (
    laws.Law(
      {
        ("01", (0, 1)): 0.2,
        ("010", (0, 1)): 0.3,
        ("01011", (0, 1)): 0.4,
        ("010101", (0, 1)): 0.1,
      }
    ),
    ("01", {2}),
    "01.*",
  ),
  "infill": (
    laws.Law(
      {
        ("011", (0, 1, 2)): 0.3,
        ("00011", (0, 3, 4)): 0.3,
        ("01111", (0, 3, 4)): 0.1,
        ("001011", (0, 4, 5)): 0.3,
      }
    ),
    ("011", {1}),
    "0.*11",
  ),
  "holes": (
    laws.Law(
      {
        ("221", (0, 1, 2)): 0.1,
        ("02211", (1, 2, 4)): 0.3,
        ("10221", (2, 3, 4)): 0.2,
        ("12201", (1, 2, 4)): 0.2,
        ("022101", (1, 2, 5)): 0.2,
      }
    ),
    ("221", {0, 2}),
    "[013]*22[013]*1",
  ),
  # One sequence holds the anchors in several places.
  "anchors": (
    laws.Law(
      {
        ("01", (0, 1)): 0.15,
        ("0101", (0, 1)): 0.15,
        ("0101", (0, 3)): 0.2,
        ("1001", (1, 3)): 0.3,
        ("011", (0, 2)): 0.2,
      }
    ),
    ("01", {0, 1, 2}),
    ".*0.*1.*",
  ),
}


@functools.partial(quick_jit, static_argnames=("interpolant", "config"))
def draw(key, denoiser, start, interpolant, config):
  return fm.sample(key, denoiser, start, interpolant, VOCAB, config, True)


def draw_from(law, start, gap_law=False, interpolant=LINEAR, **config):
  """Samples of a law's perfect denoiser, with their trace."""
  config = fm.SamplerConfig(**config)
  own_clocks = config.method in ("events", "midpoint")
  denoiser = law.denoiser(interpolant.insertion, gap_law, not own_clocks)
  return draw(jax.random.key(0), denoiser, start, interpolant, config)


@functools.partial(jax.jit, static_argnames="interpolant")
def all_rates(denoiser, tokens, length, t, interpolant):
  prediction = denoiser(tokens, length, jnp.broadcast_to(t, length.shape))
  return jax.vmap(fm.rates, in_axes=(0, 0, 0, None, None, None))(
    prediction, tokens, length, t, interpolant, VOCAB
  )


def generator(law, rates):
  """Off-diagonal rates between the law's states; every move must be to one."""
  q = np.zeros((len(law.states), len(law.states)))
  for i, state in enumerate(law.states):
    for j, token in zip(*np.nonzero(rates.unmask[i]), strict=True):
      target = (*state[:j], int(token), *state[j + 1 :])
      q[i, law.index[target]] += rates.unmask[i, j, token]
    for j in np.flatnonzero(rates.insert[i]):
      target = (*state[:j], VOCAB.mask, *state[j:])
      q[i, law.index[target]] += rates.insert[i, j]
  return q


def marginal(law, name, t):
  """`p_t` in float64."""
  _, alpha, derivative, beta = INTERPOLANTS[name]
  x, weight = np.polynomial.legendre.leggauss(40)
  u = t * (x + 1) / 2
  kept = derivative(u) * (1 - beta(t)) / (1 - beta(u))
  masked = t / 2 * np.sum(weight * kept)
  return law.marginal(1 - alpha(t), masked, alpha(t) - masked)


def forward_error(law, name, t, factor=1.0):
  """Largest violation of d/dt p_t = p_t Q_t, insertion rates times `factor`."""
  interpolant = INTERPOLANTS[name][0]
  rates = all_rates(
    law.denoiser(interpolant.insertion),
    *laws.pack(law.states),
    jnp.float32(t),
    interpolant,
  )
  rates = rates._replace(insert=rates.insert * factor)
  q = generator(law, jax.tree.map(np.asarray, rates))
  p = marginal(law, name, t)
  flow = p @ q - p * q.sum(axis=1)
  step = 1e-4
  change = marginal(law, name, t + step) - marginal(law, name, t - step)
  return np.abs(flow - change / (2 * step)).max()


def test_exit_rate_counts_masks_and_missing_tokens():
  law, t = laws.PAPER, 0.3
  denoiser = law.denoiser(Linear())
  tokens, length = laws.pack(law.states)
  rates = all_rates(denoiser, tokens, length, jnp.float32(t), LINEAR)
  log_gaps = denoiser(tokens, length, jnp.full(len(length), t)).log_gaps
  masks = (tokens == VOCAB.mask).sum(axis=1)
  missing = np.where(
    np.arange(L + 1) <= length[:, None], np.exp(log_gaps), 0
  ).sum(axis=1)
  np.testing.assert_allclose(
    generator(law, jax.tree.map(np.asarray, rates)).sum(axis=1),
    (masks + missing) / (1 - t),
    rtol=1e-5,
  )


@pytest.mark.parametrize("name", INTERPOLANTS)
@pytest.mark.parametrize("t", [0.1, 0.5, 0.9])
def test_forward_equation(name, t):
  # float32 rates of up to 40 have an error of 1e-6 of that.
  assert forward_error(laws.PAPER, name, t) < 2e-5
  assert forward_error(laws.PAPER, name, t, factor=1.1) > 1e-3


@pytest.mark.parametrize("name", CONDITIONALS)
def test_forward_equation_with_frozen_tokens(name):
  law, _, _ = CONDITIONALS[name]
  assert forward_error(law, "power", 0.5) < 2e-5


def test_noised_states_follow_the_marginal():
  num, t, name = 20_000, 0.6, "power"
  law, interpolant = laws.PAPER, INTERPOLANTS[name][0]
  tokens, length = rows(law, num)

  @jax.jit
  @functools.partial(jax.vmap, in_axes=(0, 0, 0))
  def state(key, tokens, length):
    times = fm.draw_times(key, interpolant, L)
    return fm.noise(tokens, length, *times, jnp.float32(t), VOCAB)

  noised = state(jax.random.split(jax.random.key(0), num), tokens, length)
  code = laws.encode(np.asarray(noised.tokens), np.asarray(noised.length))
  counts = (code[:, None] == laws.encode(*laws.pack(law.states))).sum(axis=0)
  expected = num * marginal(law, name, t)
  assert counts.sum() == num
  assert scipy.stats.chisquare(counts, expected).pvalue > 1e-3


def rows(law, num):
  """(tokens, length) of `num` clean rows in proportion to the law."""
  counts = [round(num * item.probability) for item in law.items]
  assert sum(counts) == num
  return laws.pack(
    [
      item.tokens
      for item, n in zip(law.items, counts, strict=True)
      for _ in range(n)
    ]
  )


NUM = 3000
EMPTY = fm.empty_start(NUM, L, VOCAB)
# Inserting by the law of the missing tokens, on a grid that is finer at the
# end, has a bias far below that of Poisson insertions.
THINNED = dict(gap_law=True, time_exponent=2.0, steps=128)


@pytest.mark.parametrize(
  "method",
  [
    "euler",
    pytest.param("tau_leaping", marks=pytest.mark.slow),
    pytest.param("adaptive", marks=pytest.mark.slow),
  ],
)
def test_bias_vanishes_with_the_step(method):
  # At 128 steps it is 0.050, 0.039, 0.041: nearly all of it insertions that
  # a step makes twice.
  config = dict(method=method)
  if method != "euler":
    config["insertions"] = "published"
  coarse = draw_from(laws.PAPER, EMPTY, **config, steps=8)
  fine = draw_from(laws.PAPER, EMPTY, **config, steps=128)
  assert laws.PAPER.tv(fine) < 6 / 128 + laws.PAPER.floor(NUM)
  assert laws.PAPER.tv(coarse) > 5 * laws.PAPER.tv(fine)


@pytest.mark.parametrize(
  "method",
  [
    dict(method="tau_leaping"),
    dict(method="adaptive", confidence="margin"),
    *(
      pytest.param(
        dict(method="adaptive", confidence=order), marks=pytest.mark.slow
      )
      for order in ("top_prob", "entropy", "position")
    ),
    dict(method="adaptive", window_scale=1.5, max_window=2),
  ],
  ids=["tau_leaping", "margin", "top_prob", "entropy", "position", "window"],
)
def test_every_order_samples_the_law(method):
  law = laws.THREE
  samples = draw_from(law, EMPTY, **method, **THINNED)
  assert law.tv(samples) < 3 / 128 + law.floor(NUM)
  assert law.p_value(samples) > 1e-3


@pytest.mark.parametrize(
  "config",
  [
    dict(steps=48, gap_law=True),
    pytest.param(dict(method="adaptive", **THINNED), marks=pytest.mark.slow),
  ],
  ids=["events", "adaptive"],
)
@pytest.mark.parametrize("name", CONDITIONALS)
def test_frozen_tokens(name, config):
  law, (given, holes), pattern = CONDITIONALS[name]
  start = general_start(given, holes)
  samples = draw_from(law, start, **config)
  assert law.tv(samples) < 2 / 128 + law.floor(NUM)
  assert law.p_value(samples) > 1e-3
  states = laws.texts(*map(np.asarray, samples.trace))
  assert len(states) > 10
  assert all(re.fullmatch(pattern, state) for state in states)


def general_start(given, holes):
  """`NUM` rows of frozen tokens, with the gaps in `holes` open."""
  tokens, length = laws.pack([tuple(map(int, given))] * NUM)
  return fm.Start(
    tokens=jnp.asarray(tokens),
    length=jnp.asarray(length),
    frozen=jnp.asarray(tokens != VOCAB.pad),
    open_gaps=jnp.broadcast_to(
      jnp.isin(jnp.arange(L + 1), jnp.array(list(holes))), (NUM, L + 1)
    ),
  )


@pytest.mark.slow
def test_rows_may_fill_up():
  law = laws.FULL
  thinned = draw_from(law, EMPTY, method="tau_leaping", **THINNED)
  assert law.tv(thinned) < 3 / 128 + law.floor(NUM)
  assert law.p_value(thinned) > 1e-3
  # The published insertions overshoot, less and less: at 128 steps it is
  # 0.074 and 0.084 with two keys, 3.2 and 3.9 % of the rows are cut, and at 8
  # steps 7.1 and 6.3 %.
  coarse, fine = (
    draw_from(
      law,
      EMPTY,
      method="tau_leaping",
      insertions="published",
      steps=steps,
    )
    for steps in (8, 128)
  )
  assert law.tv(fine) < 11 / 128 + law.floor(NUM)
  assert 0 < fine.truncated.mean() < 0.8 * coarse.truncated.mean()


@pytest.mark.parametrize(
  "method",
  [
    "events",
    pytest.param("tau_leaping", marks=pytest.mark.slow),
    pytest.param("midpoint", marks=pytest.mark.slow),
    pytest.param("adaptive", marks=pytest.mark.slow),
  ],
)
def test_fixed_length_mdm(method):
  samples = draw_from(
    laws.FIXED,
    fm.mask_start(NUM, L, VOCAB),
    interpolant=fm.MDM(Linear()),
    method=method,
    steps=128,
  )
  assert (samples.length == L).all()
  assert laws.FIXED.tv(samples) < 4 / 128 + laws.FIXED.floor(NUM)


def expected_bound(law, denoiser, interpolant, kind, num=1000):
  """The mean bound over `rows` of a law, and its standard error."""
  bound = jax.jit(
    lambda key, tokens, length: fm.log_likelihood_bound(
      key, denoiser, tokens, length, interpolant, VOCAB, 128, kind
    )
  )(jax.random.key(0), *rows(law, num))
  # The mix of sequences is fixed: only the noise within each counts.
  groups = np.split(
    np.asarray(bound),
    np.cumsum([round(p * num) for p in law.outcomes.values()])[:-1],
  )
  error = np.sqrt(sum(len(g) * g.var(ddof=1) for g in groups)) / num
  return bound.mean(), error, groups


@pytest.mark.parametrize(
  ("law", "interpolant", "kind", "expected"),
  [
    # By summation over all states; the entropy is 1.4964.
    (laws.PAPER, LINEAR, "paper", 2.7403),
    # Without insertions the bound of a perfect model is its entropy.
    (laws.FIXED, fm.MDM(Linear()), "paper", 1.2799),
    (laws.FIXED, fm.MDM(Linear()), "tight", 1.2799),
    # So it is with them, if states are compared rather than embeddings.
    (laws.PAPER, LINEAR, "tight", 1.4964),
    (laws.PAPER, INTERPOLANTS["power"][0], "tight", 1.4964),
    (laws.THREE, LINEAR, "tight", 1.5445),
    (laws.FULL, INTERPOLANTS["sine_cosine"][0], "tight", 1.4185),
  ],
)
def test_bound_of_a_perfect_model(law, interpolant, kind, expected):
  denoiser = law.denoiser(interpolant.insertion, one_time=False)
  mean, error, _ = expected_bound(law, denoiser, interpolant, kind)
  assert error < 0.02
  assert abs(mean - expected) < 4 * error


def test_bound_with_aligned_targets_alone(monkeypatch):
  # What is left above the entropy is that of the tokens' posteriors.
  monkeypatch.setattr(likelihood, "tight_terms", fm.elbo_terms)
  denoiser = laws.PAPER.denoiser(Linear(), one_time=False)
  mean, error, _ = expected_bound(laws.PAPER, denoiser, LINEAR, "tight")
  assert abs(mean - 1.9361) < 4 * error < 0.1


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Spoiled:
  """A denoiser that is wrong about tokens and gaps."""

  exact: ShortDenoiser

  def __call__(self, tokens, length, t):
    token_logits, log_gaps, *_ = self.exact(tokens, length, t)
    more = jnp.log(0.2 * (1 - t))[:, None]
    return fm.Prediction(0.7 * token_logits, jnp.logaddexp(log_gaps, more))


def log_probabilities(law, denoiser, room):
  """log p of a law's sequences under a model, of its chain over all states.

  Rows of `room` tokens that insert one more are lost: no sequence is as long.
  """
  strings = [
    s
    for n in range(room + 1)
    for s in itertools.product((0, 1, VOCAB.mask), repeat=n)
  ]
  index = {s: i for i, s in enumerate(strings)}
  moves = [
    (i, index[(*s[:j], v, *s[j + 1 :])], ("unmask", i, j, v))
    for i, s in enumerate(strings)
    for j, token in enumerate(s)
    if token == VOCAB.mask
    for v in (0, 1)
  ] + [
    (i, index.get((*s[:j], VOCAB.mask, *s[j:]), len(strings)), ("insert", i, j))
    for i, s in enumerate(strings)
    for j in range(len(s) + 1)
  ]
  source, target = np.array([m[:2] for m in moves]).T
  picked = {
    name: tuple(np.array([m[2][1:] for m in moves if m[2][0] == name]).T)
    for name in ("unmask", "insert")
  }
  size = len(strings) + 1
  p = np.zeros(size)
  p[index[()]] = 1.0
  left = np.linspace(1, 0.01, 200) ** 3
  state = laws.pack(strings)
  for s, u in itertools.pairwise(1 - left):
    middle = (s + u) / 2
    rates = all_rates(denoiser, *state, jnp.float32(middle), LINEAR)
    rate = np.concatenate(
      [np.asarray(getattr(rates, name))[at] for name, at in picked.items()]
    )
    # The hazard 1 / (1 - t) grows within the step: its integral, exactly.
    rate = rate * (1 - middle) * np.log((1 - s) / (1 - u))
    q = scipy.sparse.coo_array((rate, (source, target)), (size, size)).tocsr()
    q = q - scipy.sparse.diags_array(q.sum(axis=1))
    p = scipy.sparse.linalg.expm_multiply(q.T, p)
  return [np.log(p[index[tokens]]) for tokens in law.outcomes]


@pytest.mark.slow
def test_bound_is_never_below_minus_log_p():
  law = laws.PAPER
  perfect = law.denoiser(Linear(), one_time=False)
  # The chain itself: of a perfect model, p is the data's.
  np.testing.assert_allclose(
    log_probabilities(law, perfect, room=5),
    np.log(list(law.outcomes.values())),
    atol=5e-3,
  )
  spoiled = Spoiled(perfect)
  true = -np.array(log_probabilities(law, spoiled, room=5))
  bounds = {}
  for kind in ("tight", "paper"):
    _, _, groups = expected_bound(law, spoiled, LINEAR, kind)
    error = [4 * g.std() / np.sqrt(len(g)) + 5e-3 for g in groups]
    bounds[kind] = np.array([g.mean() for g in groups])
    assert (bounds[kind] > true - error).all(), (kind, bounds[kind], true)
  assert (bounds["tight"] < bounds["paper"] + error).all()
  weight = np.array(list(law.outcomes.values()))
  assert weight @ (bounds["tight"] - true) < 0.1 * weight @ (
    bounds["paper"] - true
  )
