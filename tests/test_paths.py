"""One posterior serves every path: clocks, and exact laws on all of them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flexmdm_jax as fm
from flexmdm_jax import likelihood, paths, schedules
from flexmdm_jax.schedules import (
  Cosine,
  Immediate,
  Linear,
  Polynomial,
  Power,
  Sine,
  Window,
)
from tests import laws
from tests.laws import VOCAB, L, quick_jit
from tests.test_exactness import EMPTY, NUM, rows

TRAINED = fm.JointInterpolant(Power(1.7), Power(2.89))
PATHS = {
  "4/1": fm.JointInterpolant(Power(4.0), Power(1.0)),
  "lengths first": fm.lengths_first(),
  "sine/cosine": fm.JointInterpolant(Sine(), Cosine()),
}
every_path = pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)


@every_path
def test_clock_shows_equal_alpha(path):
  t = jnp.linspace(0.0, 1.0, 65)
  clock = paths.trained_clock(TRAINED, path, t)
  np.testing.assert_allclose(
    TRAINED.insertion.alpha(clock), path.insertion.alpha(t), atol=1e-6
  )
  assert (jnp.diff(clock) >= 0).all()
  assert clock[0] == 0
  assert clock[-1] == 1


def test_clock_is_precise_at_both_ends():
  path = PATHS["4/1"]
  # Near 0, alpha is 4 t there and 1.7 t' here; near 1, survivals are powers.
  small = jnp.array([1e-6, 1e-9])
  np.testing.assert_allclose(
    paths.trained_clock(TRAINED, path, small), 4 / 1.7 * small, rtol=1e-5
  )
  left = jnp.array([2.0**-5, 2.0**-8])
  clock = paths.trained_clock(TRAINED, path, 1 - left)
  np.testing.assert_allclose(1 - clock, left ** (4 / 1.7), atol=2.0**-23)


@every_path
def test_clock_is_differentiable(path):
  slope = jax.vmap(jax.grad(lambda t: paths.trained_clock(TRAINED, path, t)))(
    jnp.array([0.0, 0.05, 0.1, 0.4, 0.9, 0.999])
  )
  assert np.isfinite(slope).all()
  assert (slope[1:3] > 0).all()


def test_its_own_path_changes_nothing():
  denoiser = laws.PAPER.denoiser(TRAINED.insertion)
  assert fm.on_path(denoiser, TRAINED, TRAINED) is denoiser


@pytest.mark.slow
def test_what_a_denoiser_has_is_kept():
  model = fm.DiT(VOCAB, L, 16, 1, 2, 8)
  tokens, length, t = (
    jnp.zeros((2, L), jnp.int32),
    jnp.ones(2, int),
    jnp.ones(2),
  )
  params = model.init(jax.random.key(0), tokens, length, t)["params"]
  there = fm.on_path(fm.denoiser(model, params), TRAINED, PATHS["4/1"])
  assert there.ignores_padding
  assert there.features(tokens, length, t / 3).hidden.shape == (2, L, 16)
  plain = fm.on_path(
    lambda tokens, length, t: fm.Prediction(
      jnp.zeros((*tokens.shape, VOCAB.size)), t[:, None] + jnp.zeros(L + 1)
    ),
    TRAINED,
    PATHS["4/1"],
  )
  assert not hasattr(plain, "features")
  assert not plain.ignores_padding
  clock = jax.jit(lambda d: d(tokens, length, t / 3).log_gaps[0, 0])(plain)
  assert clock == pytest.approx(1 - (2 / 3) ** (4 / 1.7), rel=1e-5)


def entropy(probabilities):
  p = np.array(list(probabilities))
  return -(p * np.log(p)).sum()


def expected_terms(law, path, num=1000):
  """The means of the tight bound's two parts, and their errors.

  The denoiser knows the trained schedule only.
  """
  denoiser = fm.on_path(
    law.denoiser(TRAINED.insertion, one_time=False), TRAINED, path
  )
  terms = jax.jit(
    lambda key, tokens, length: likelihood.bound_terms(
      key, denoiser, tokens, length, path, VOCAB, 128
    )
  )(jax.random.key(1), *rows(law, num))
  cuts = np.cumsum([round(p * num) for p in law.outcomes.values()])[:-1]

  def mean_and_error(x):
    groups = np.split(np.asarray(x), cuts)
    error = np.sqrt(sum(len(g) * g.var(ddof=1) for g in groups)) / num
    return float(np.mean(x)), error

  return [mean_and_error(x) for x in (*terms, sum(terms))]


@every_path
def test_bound_of_a_perfect_model_is_the_entropy_on_every_path(path):
  *_, (total, error) = expected_terms(laws.PAPER, path)
  assert error < 0.02
  assert abs(total - 1.4964) < 4 * error


def test_lengths_first_parts_are_the_length_and_the_tokens_given_it():
  law = laws.THREE
  lengths = {}
  for tokens, p in law.outcomes.items():
    lengths[len(tokens)] = lengths.get(len(tokens), 0.0) + p
  of_length = entropy(lengths.values())
  of_all = entropy(law.outcomes.values())
  unmask, insert, _ = expected_terms(law, PATHS["lengths first"])
  assert abs(insert[0] - of_length) < 4 * insert[1] < 0.1
  assert abs(unmask[0] - (of_all - of_length)) < 4 * unmask[1] < 0.1


def test_known_length_is_a_path_too():
  # A FlexMDM's denoiser on the path of a fixed-length MDM.
  law = laws.Law({"01": 0.3, "10": 0.5, "11": 0.2})
  unmask, insert, _ = expected_terms(law, fm.MDM(Linear()))
  assert insert == (0.0, 0.0)
  assert abs(unmask[0] - entropy(law.outcomes.values())) < 4 * unmask[1] < 0.1


@quick_jit
def _draw(key, denoiser):
  path = PATHS["lengths first"]
  config = fm.SamplerConfig(128, "tau_leaping")
  return fm.sample(key, denoiser, EMPTY, path, VOCAB, config, True)


def test_sampler_follows_the_law_on_another_path():
  law = laws.PAPER
  denoiser = law.denoiser(TRAINED.insertion, gap_law=True)
  denoiser = fm.on_path(denoiser, TRAINED, PATHS["lengths first"])
  samples = _draw(jax.random.key(0), denoiser)
  assert law.p_value(samples) > 1e-3
  assert law.tv(samples) < 2 / 128 + law.floor(NUM)
  # Nothing is revealed before the turn, nothing inserted after it.
  tokens, length = samples.trace
  early = np.asarray(tokens[:16]) != VOCAB.mask
  inside = np.arange(L) < np.asarray(length)[:16, :, None]
  assert not (early & inside).any()
  assert (np.asarray(length)[16:] == np.asarray(length)[-1]).all()


def test_parse():
  assert paths.parse("trained", TRAINED) is TRAINED
  assert paths.parse("lengths_first", TRAINED) == fm.lengths_first()
  assert paths.parse("power:4,power:2@0.5-1", TRAINED) == fm.JointInterpolant(
    Power(4.0), Window(Power(2.0), 0.5, 1.0)
  )


@pytest.mark.parametrize(
  ("text", "says"),
  [
    ("fast", "must be one of"),
    ("power:4", "two schedules"),
    ("power:4,slope", "'slope'"),
    ("power:x,linear", "no number"),
    ("power,linear", "takes"),
    ("power:4@0.5,linear", "window is two times"),
    ("power:4@0.7-0.2,linear", "Window.begin=0.7"),
  ],
)
def test_parse_refuses(text, says):
  with pytest.raises(fm.InputError, match=says):
    paths.parse(text, TRAINED)


class Falling(Linear):
  def alpha(self, t):
    return 1.0 - jnp.asarray(t, jnp.float32)


def test_paths_that_are_none_are_refused():
  denoiser = laws.PAPER.denoiser(TRAINED.insertion)
  for path, says in (
    (fm.JointInterpolant(Falling(), Linear()), "insertion=.*must increase"),
    (fm.JointInterpolant(Linear(), Falling()), "unmasking=.*must increase"),
  ):
    with pytest.raises(fm.InputError, match=says):
      fm.on_path(denoiser, TRAINED, path)
  with pytest.raises(fm.InputError, match="trained at a fixed length"):
    fm.on_path(denoiser, fm.MDM(Linear()), TRAINED)
  with pytest.raises(fm.InputError, match=r"turn=1"):
    fm.lengths_first(1.0)


def test_fixed_length_models_walk_at_equal_beta():
  trained, path = fm.MDM(Linear()), fm.MDM(Polynomial(2.0))
  clock = paths.trained_clock(trained, path, jnp.array([0.0, 0.5, 1.0]))
  np.testing.assert_allclose(clock, [0.0, 0.25, 1.0], atol=1e-6)
  assert isinstance(path.insertion, Immediate)
  assert schedules.from_config(
    schedules.to_config(fm.lengths_first().insertion)
  ) == (fm.lengths_first().insertion)
