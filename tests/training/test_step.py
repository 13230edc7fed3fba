import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flexmdm_jax.errors import InputError
from flexmdm_jax.states import MixedStates, PathStates
from flexmdm_jax.training.objectives import Diffusion
from flexmdm_jax.training.optimizer import (
  OptimizerConfig,
  ParameterGroup,
  decays,
  learning_rate_schedule,
  make_optimizer,
)
from flexmdm_jax.training.sharding import Rules
from tests.training import tiny


def run(train_step, num_steps=3, batch=None):
  state = train_step.init(jax.random.key(0))
  batch = jax.device_put(batch or tiny.batch(), train_step.batch_sharding)
  for _ in range(num_steps):
    state, metrics = train_step.update(state, batch)
  return jax.device_get(state.params), jax.device_get(metrics), state


@pytest.fixture(scope="module")
def single():
  return run(tiny.train_step())


@pytest.mark.parametrize(
  ("shape", "accumulation"),
  [
    pytest.param((1, 1, 1), 4, marks=pytest.mark.slow),
    pytest.param((2, 4, 1), 1, marks=pytest.mark.slow),
    ((2, 2, 2), 2),
  ],
)
def test_update_is_the_same_on_every_mesh(single, shape, accumulation):
  train_step = tiny.train_step(
    shape, Rules(vocab=None), accumulation=accumulation
  )
  params, metrics, state = run(train_step)
  for name, value in single[1].items():
    np.testing.assert_allclose(metrics[name], value, rtol=1e-5)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-6),
    params,
    single[0],
  )
  kernel = state.params["blocks"]["qkv"]["kernel"]
  assert kernel.sharding.spec[1] == "fsdp"
  # AdamW's moments lie as their parameters do.
  moments = [
    x
    for x in jax.tree.leaves(state.opt_state)
    if getattr(x, "shape", None) == kernel.shape
  ]
  assert len(moments) == 2
  assert all(x.sharding == kernel.sharding for x in moments)


@pytest.mark.parametrize(
  "gap_head",
  ["log_rate", "distribution"],
)
@pytest.mark.slow
def test_cropping_a_batch_to_its_bucket_changes_nothing(gap_head):
  batch = tiny.batch()
  batch = jax.tree.map(lambda x: np.resize(x[:4], x.shape), batch)
  short = batch.crop(4)  # lengths 1-4
  gap_loss = "law" if gap_head == "distribution" else "phi"
  train_step = tiny.train_step(
    model=tiny.model(gap_head=gap_head),
    objective=Diffusion(
      PathStates(tiny.INTERPOLANT), tiny.VOCAB, gap_loss=gap_loss
    ),
  )
  # JAX's draws are the same for a row of four as for the first four of eight.
  params, metrics, _ = run(train_step, batch=batch)
  short_params, short_metrics, _ = run(train_step, batch=short)
  for name, value in metrics.items():
    np.testing.assert_allclose(short_metrics[name], value, rtol=1e-5)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-6),
    short_params,
    params,
  )


@pytest.mark.slow
def test_aligned_targets_are_the_same_on_every_mesh():
  # With tokens that are given, where a state has its fewest embeddings.
  batch = tiny.batch()
  given = np.arange(tiny.L) < np.minimum(batch.length, 2)[:, None]
  batch = batch._replace(frozen=given)
  results = [
    run(
      tiny.train_step(
        shape,
        Rules(vocab=None),
        accumulation=accumulation,
        objective=Diffusion(
          PathStates(tiny.INTERPOLANT), tiny.VOCAB, "aligned"
        ),
      ),
      batch=batch,
    )
    for shape, accumulation in (((1, 1, 1), 1), ((2, 2, 2), 2))
  ]
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-6),
    results[0][0],
    results[1][0],
  )


def test_unknown_targets_are_refused():
  with pytest.raises(InputError, match=r"train\.targets='soft'"):
    Diffusion(PathStates(tiny.INTERPOLANT), tiny.VOCAB, "soft")


def test_metrics_are_means_since_the_last_report(single):
  train_step = tiny.train_step(report_every=2)
  state = train_step.init(jax.random.key(0))
  batch = jax.device_put(tiny.batch(), train_step.batch_sharding)
  losses = []
  for _ in range(4):
    before = jax.device_get(state.sums)
    state, metrics = train_step.update(state, batch)
    after = jax.device_get(state.sums)
    fresh = after["count"] == 1
    losses.append(after["loss"] - (0 if fresh else before["loss"]))
  np.testing.assert_allclose(metrics["loss"], np.mean(losses[2:]), rtol=1e-5)
  assert float(metrics["tokens"]) == tiny.batch().length.sum()


@pytest.mark.slow
def test_training_lowers_the_loss():
  train_step = tiny.train_step(
    report_every=50,
    optimizer=OptimizerConfig(300, learning_rate=1e-2, warmup_steps=10),
  )
  _, first, _ = run(train_step, 50)
  _, last, state = run(train_step, 300)
  assert last["loss"] < 0.75 * first["loss"]
  # The EMA moves, and is not the parameters.
  gap = jax.tree.map(
    lambda a, b: float(jnp.abs(a - b).max()), state.params, state.ema
  )
  assert 0 < max(jax.tree.leaves(gap)) < 1


def test_a_step_that_is_not_finite_changes_no_parameter():
  train_step = tiny.train_step()
  state = train_step.init(jax.random.key(0))
  broken = jax.tree.map(lambda x: x, state.params)
  broken["vocab_head"]["out"]["bias"] = jnp.full_like(
    broken["vocab_head"]["out"]["bias"], jnp.nan
  )
  state = state.replace(params=broken)
  kept = jax.device_get((state.params, state.ema, state.opt_state))
  batch = jax.device_put(tiny.batch(), train_step.batch_sharding)
  state, metrics = train_step.update(state, batch)
  assert metrics["finite"] == 0
  assert state.step == 1
  jax.tree.map(
    np.testing.assert_array_equal,
    kept,
    jax.device_get((state.params, state.ema, state.opt_state)),
  )


def test_only_kernels_decay():
  params = tiny.train_step().abstract_state.params
  mask = decays(params)
  assert mask["blocks"]["mlp_in"] == {"kernel": True, "bias": False}
  assert mask["embed"] == {"embedding": False}
  assert mask["blocks"]["norm_1"] == {"scale": False}


def test_learning_rate_warms_up_and_decays():
  rate = learning_rate_schedule(
    OptimizerConfig(100, learning_rate=0.5, warmup_steps=10, final_ratio=0.1)
  )
  np.testing.assert_allclose(rate(0), 0.0)
  np.testing.assert_allclose(rate(5), 0.25)
  np.testing.assert_allclose(rate(10), 0.5)
  np.testing.assert_allclose(rate(100), 0.05, rtol=1e-6)


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    (dict(batch_size=6, accumulation=4), "batch_size=6 .* multiple of 4"),
    (dict(shape=(8, 1, 1), batch_size=4), "batch_size=4 .* multiple of 8"),
    (dict(rules=Rules(heads="fsdp")), "one of them twice"),
    (dict(shape=(1, 1, 4)), "does not divide over mesh axis 'tensor'"),
  ],
)
def test_layouts_that_do_not_fit_are_refused(changes, message):
  with pytest.raises(InputError, match=message):
    tiny.train_step(**changes)


PARAMS = {
  "blocks": {"q": {"kernel": 1.0, "lora_a": 2.0}, "norm": {"scale": 3.0}},
  "gap_head": {"out": {"kernel": 4.0, "bias": 5.0}},
}


def updates_of(*groups, num_steps=3):
  """The updates after some steps of a gradient of 1, and the last rate."""
  config = OptimizerConfig(
    100,
    learning_rate=0.1,
    warmup_steps=0,
    weight_decay=0.5,
    clip_norm=1e9,
    groups=tuple(groups),
  )
  params = jax.tree.map(jnp.float32, PARAMS)
  optimizer = make_optimizer(config)
  state = optimizer.init(params)
  with jax.numpy_dtype_promotion("standard"):
    for _ in range(num_steps):
      ones = jax.tree.map(jnp.ones_like, params)
      updates, state = optimizer.update(ones, state, params)
  rate = float(learning_rate_schedule(config)(num_steps - 1))
  return jax.device_get(updates), rate


def test_groups_have_their_own_rate_and_decay():
  updates, rate = updates_of(
    ParameterGroup("lora_", learning_rate=3.0, weight_decay=0.25),
    ParameterGroup("^gap_head/", learning_rate=0.5),
  )
  # Adam's own update of a constant gradient is 1.
  expected = {
    "blocks": {
      "q": {"kernel": 1 + 0.5 * 1, "lora_a": 3 * (1 + 0.25 * 2)},
      "norm": {"scale": 1},
    },
    "gap_head": {"out": {"kernel": 0.5 * (1 + 0.5 * 4), "bias": 0.5 * 1}},
  }
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, -rate * b, rtol=1e-5),
    updates,
    expected,
  )


def test_groups_that_change_nothing_are_the_default():
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6),
    updates_of(ParameterGroup("kernel")),
    updates_of(),
  )


@pytest.mark.parametrize(
  ("patterns", "message"),
  [
    (["lora_", "q/"], "blocks/q/lora_a matches two patterns"),
    (["lora_", "head_2"], "pattern='head_2' matches no parameter"),
    (["("], "no regular expression"),
  ],
)
def test_groups_that_do_not_fit_are_refused(patterns, message):
  with pytest.raises(InputError, match=message):
    updates_of(*(ParameterGroup(pattern) for pattern in patterns))


@pytest.mark.slow
def test_groups_work_on_a_mesh():
  group = ParameterGroup("gap_head", learning_rate=2.0, weight_decay=0.1)
  optimizer = OptimizerConfig(num_steps=100, warmup_steps=0, groups=(group,))
  results = [
    run(tiny.train_step(shape, Rules(vocab=None), optimizer))
    for shape in ((1, 1, 1), (2, 2, 2))
  ]
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-6),
    results[0][0],
    results[1][0],
  )


@pytest.mark.parametrize(
  "changes",
  [
    dict(learning_rate=-1.0),
    dict(weight_decay=-0.1),
  ],
)
def test_group_settings_out_of_range_are_refused(changes):
  (name,) = changes
  with pytest.raises(InputError, match=name):
    ParameterGroup("kernel", **changes)


@pytest.mark.parametrize(
  "changes",
  [
    dict(num_steps=0),
    dict(warmup_steps=100),
    dict(learning_rate=0.0),
    dict(clip_norm=-1.0),
  ],
)
def test_optimizer_settings_out_of_range_are_refused(changes):
  (name,) = changes
  with pytest.raises(InputError, match=name):
    OptimizerConfig(**{"num_steps": 100, "warmup_steps": 0, **changes})


MIXED = MixedStates(
  tiny.INTERPOLANT, steps=(2, 2), full=(0.8, 0.4), blank=(0.2, 0.1)
)


@pytest.mark.slow
def test_mixed_states_report_the_bound_too():
  # Two of the four steps measure it; the metrics are means of those alone.
  objective = Diffusion(MIXED, tiny.VOCAB, gap_loss="damped")
  train_step = tiny.train_step(
    objective=objective, report_every=4, bound_every=2, accumulation=2
  )
  state = train_step.init(jax.random.key(0))
  batch = jax.device_put(tiny.batch(), train_step.batch_sharding)
  seen = []
  for _ in range(4):
    state, metrics = train_step.update(state, batch)
    seen.append(jax.device_get(state.sums))
  assert [float(x["bound_count"]) for x in seen] == [1, 1, 2, 2]
  assert seen[0]["bound_unmask"] == seen[1]["bound_unmask"]
  np.testing.assert_allclose(
    metrics["bound_insert"], seen[3]["bound_insert"] / 2, rtol=1e-6
  )
  assert np.isfinite(list(jax.device_get(metrics).values())).all()
  assert "bound_count" not in metrics


@pytest.mark.slow
def test_the_bound_does_not_depend_on_the_weights():
  # At equal parameters: the states of the loss are others, those of the bound
  # are not.
  found = []
  for states in (MIXED, PathStates(tiny.INTERPOLANT)):
    objective = Diffusion(states, tiny.VOCAB, gap_loss="damped")
    train_step = tiny.train_step(objective=objective, bound_every=2)
    state = train_step.init(jax.random.key(0))
    batch = jax.device_put(tiny.batch(), train_step.batch_sharding)
    _, metrics = train_step.update(state, batch)
    found.append([metrics["bound_unmask"], metrics["bound_insert"]])
  np.testing.assert_allclose(*found, rtol=1e-5)


@pytest.mark.slow
def test_a_predicted_law_reports_the_bound_and_trains_the_same():
  def result(bound_every):
    return run(
      tiny.train_step(
        model=tiny.model(gap_head="negative_binomial"),
        objective=Diffusion(
          PathStates(tiny.INTERPOLANT), tiny.VOCAB, gap_loss="law"
        ),
        bound_every=bound_every,
      ),
      num_steps=2,
    )

  params, metrics, _ = result(None)
  measured_params, measured, _ = result(2)
  assert measured.keys() - metrics.keys() == {"bound_unmask", "bound_insert"}
  assert measured["loss"] == metrics["loss"]
  jax.tree.map(np.testing.assert_array_equal, measured_params, params)


def test_bad_bound_every_is_refused():
  with pytest.raises(InputError, match=r"bound_every=0"):
    tiny.train_step(bound_every=0)


def test_unknown_gap_loss_is_refused():
  with pytest.raises(InputError, match=r"train\.gap_loss='huber'"):
    Diffusion(MIXED, tiny.VOCAB, gap_loss="huber")
