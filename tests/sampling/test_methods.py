"""The sampler's methods: what they want, reveal and insert, for one row."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flexmdm_jax as fm
from flexmdm_jax.kernels.token_sample import TokenSamples
from flexmdm_jax.prediction import insert_rates
from flexmdm_jax.sampling.config import METHODS
from flexmdm_jax.sampling.events import Events
from flexmdm_jax.sampling.methods import Adaptive, Euler, TauLeaping
from flexmdm_jax.sampling.midpoint import Midpoint
from flexmdm_jax.schedules import Linear, Power

PATH = fm.JointInterpolant(Power(2.0), Linear())
S, U = jnp.float32(0.5), jnp.float32(0.75)
MASKED = jnp.array([c == "x" for c in "-x-xx-x"])
DUE = jnp.array([c == "x" for c in "----x-x"])


def marks(x):
  return "".join("x" if y else "-" for y in np.asarray(x))


def drawn(margin):
  margin = jnp.array(margin)
  return TokenSamples(jnp.zeros(7, jnp.int32), *[jnp.zeros(7)] * 2, margin, 0.0)


def test_methods_by_name():
  made = {name: fm.SamplerConfig(4, name).make_method() for name in METHODS}
  assert made == {
    "events": Events(),
    "midpoint": Midpoint(),
    "tau_leaping": TauLeaping(),
    "euler": Euler(),
    "adaptive": Adaptive(),
  }
  config = fm.SamplerConfig(
    4, "adaptive", "entropy", window_scale=2, max_window=5
  )
  wanted = Adaptive("entropy", window_scale=2, max_window=5)
  assert config.make_method() == wanted
  assert hash(config.make_method()) == hash(wanted)
  config = fm.SamplerConfig(
    4, confidence="margin", group=2, entropy_budget=0.5, insert_budget=3
  )
  assert config.make_method() == Events("margin", None, 2, 0.5, 3)
  config = fm.SamplerConfig(4, "tau_leaping", insertions="poisson", finish=1)
  assert config.make_method() == TauLeaping("margin", True, "poisson")


@pytest.mark.parametrize("method", [TauLeaping(), Euler()])
def test_due_masks_are_revealed(method):
  assert marks(method.wants(MASKED, DUE)) == "----x-x"
  assert marks(method.reveals(DUE, DUE, drawn([0.0] * 7))) == "----x-x"


@pytest.mark.parametrize(
  ("window", "wanted", "revealed"),
  [
    ((None, None), "-x-xx-x", "-x----x"),
    ((1.5, None), "-x-xx--", "-x-x---"),
    ((4.0, 2), "-x-x---", "-x-x---"),
  ],
)
def test_adaptive_reveals_as_many_but_others(window, wanted, revealed):
  scale, most = window
  method = Adaptive("margin", window_scale=scale, max_window=most)
  wants = method.wants(MASKED, DUE)
  assert marks(wants) == wanted
  score = drawn([0.9, 0.5, 0.9, 0.3, 0.2, 0.9, 0.8])
  assert marks(method.reveals(wants, DUE, score)) == revealed
  assert not method.wants(MASKED, jnp.zeros(7, bool)).any()


def test_probabilities_of_a_step_by_hand():
  # Survivals fall from 1/4 to 1/16, and from 1/2 to 1/4.
  for method in (TauLeaping(), Adaptive()):
    assert float(method.insert_probability(PATH, S, U)) == pytest.approx(3 / 4)
    assert float(method.unmask_probability(PATH, S, U)) == pytest.approx(1 / 2)
  # Hazards of 4 and 2, for a quarter of the time.
  assert float(Euler().insert_probability(PATH, S, U)) == pytest.approx(1.0)
  assert float(Euler().unmask_probability(PATH, S, U)) == pytest.approx(1 / 2)


def test_euler_inserts_at_the_rates():
  log_gaps = jnp.log(jnp.array([0.0, 0.5, 1e3]))
  rates = insert_rates(log_gaps, S, PATH)
  np.testing.assert_allclose(rates, [0.0, 2.0, 4e3], rtol=1e-6)
  keys = jax.random.split(jax.random.key(0), 4000)
  drawn = jax.vmap(lambda k: Euler().inserts(k, log_gaps, None, PATH, S, U))(
    keys
  )
  none, half, all_of_them = np.asarray(drawn).mean(axis=0)
  assert (none, all_of_them) == (0.0, 1.0)
  assert abs(half - 0.5) < 4 * 0.5 / 4000**0.5


@dataclasses.dataclass(frozen=True)
class RightToLeft(TauLeaping):
  """A method of another file: reveals the rightmost masks."""

  def wants(self, masked, due):
    count = jnp.sum(due, dtype=jnp.int32)
    return masked & (jnp.cumsum(masked[::-1])[::-1] <= count)

  def reveals(self, wanted, due, drawn):
    return wanted


def test_a_method_is_one_class(monkeypatch):
  monkeypatch.setitem(METHODS, "right_to_left", lambda config: RightToLeft())
  vocab = fm.Vocab(size=4, mask=2, pad=3)

  def denoiser(tokens, length, t):
    return fm.Prediction(jnp.zeros((64, 5, 4)), jnp.zeros((64, 6)))

  samples = fm.sample(
    jax.random.key(0),
    denoiser,
    fm.mask_start(64, 5, vocab),
    fm.MDM(Linear()),
    vocab,
    fm.SamplerConfig(4, "right_to_left"),
    trace=True,
  )
  masked = np.asarray(samples.trace.tokens == vocab.mask)
  assert masked[1:-1].any() and not masked[-1].any()
  assert not (~masked[..., :-1] & masked[..., 1:]).any()
