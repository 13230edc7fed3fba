"""Frozen parameters beside the state; where pretrained ones come from."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from flax import traverse_util

from experiments.configs import brackets_quickstart
from flexmdm_jax.errors import InputError
from flexmdm_jax.models.dit import DiT
from flexmdm_jax.runs import Run
from flexmdm_jax.states import PathStates
from flexmdm_jax.training import partition
from flexmdm_jax.training.checkpoint import restore_ema
from flexmdm_jax.training.objectives import Diffusion
from flexmdm_jax.training.sharding import Rules
from tests.training import stub, tiny


def train_step(shape=(1, 1, 1), rules=None, chunk=3, **changes):
  settings = {
    name: changes.pop(name)
    for name in ("dropout", "trains_base")
    if name in changes
  }
  return tiny.train_step(
    shape,
    rules or Rules(),
    model=stub.Stub(tiny.VOCAB, tiny.L, **settings),
    objective=Diffusion(
      PathStates(tiny.INTERPOLANT), tiny.VOCAB, loss_chunk=chunk
    ),
    **changes,
  )


def run(step, num_steps=2, state=None):
  base = step.init_base(jax.random.key(0))
  step = dataclasses.replace(step, base=base)
  state = step.init(jax.random.key(0)) if state is None else state
  batch = jax.device_put(tiny.batch(), step.batch_sharding)
  for _ in range(num_steps):
    state, metrics = step.update(state, batch)
  return jax.device_get(state), jax.device_get(metrics), step


@pytest.fixture(scope="module")
def single():
  return run(train_step())


def assert_close(a, b):
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-6), a, b
  )


@pytest.mark.parametrize(
  ("shape", "rules", "accumulation"),
  [
    ((2, 4, 1), Rules(), 1),
    ((2, 2, 2), Rules(), 2),
    ((1, 4, 2), Rules(embed="tensor", mlp="fsdp", vocab=None), 1),
    ((2, 2, 2), Rules(lora_rank="fsdp", embed=None), 1),
  ],
)
def test_update_is_the_same_on_every_mesh(single, shape, rules, accumulation):
  state, metrics, step = run(
    train_step(shape, rules, accumulation=accumulation)
  )
  assert_close(state.params, single[0].params)
  assert_close(metrics, single[1])
  spec = step.base["base"]["embed"].sharding.spec
  assert spec == rules.spec("embed", ("vocab", "embed"))


def test_chunks_change_no_update(single):
  state, metrics, _ = run(train_step(chunk=None))
  assert_close(state.params, single[0].params)
  assert_close(metrics, single[1])


def test_the_state_holds_what_is_trained(single):
  state, _, step = single
  for tree in (state.params, state.ema, state.opt_state[1][0].mu):
    assert tree.keys() == {"mlp", "gap_head", "lora_a", "lora_b"}
    assert all(x.dtype == jnp.float32 for x in jax.tree.leaves(tree))
  # The base is as it was, and its arrays are still there.
  assert step.base.keys() == step.abstract_base.keys() == {"base"}
  for name, x in step.base["base"].items():
    assert x.dtype == jnp.bfloat16
    fresh = train_step().init_base(jax.random.key(0))["base"][name]
    np.testing.assert_array_equal(x, fresh)


def test_dropout_is_drawn_anew_each_step_from_the_runs_key(single):
  step = train_step(dropout=0.5)
  state, metrics, _ = run(step)
  again, same, _ = run(step)
  jax.tree.map(np.testing.assert_array_equal, state.params, again.params)
  assert metrics["loss"] == same["loss"]
  assert abs(metrics["loss"] - single[1]["loss"]) > 1e-3


def test_first_values_may_be_given():
  step = train_step(trains_base=True)
  assert not step.abstract_base
  given = {"base": {"embed": jnp.ones((6, stub.SIZE), jnp.bfloat16)}}
  state = step.init(jax.random.key(0), given)
  usual = step.init(jax.random.key(0))
  for tree in (state.params, state.ema):
    embed = tree["base"]["embed"]
    assert embed.dtype == jnp.float32
    np.testing.assert_array_equal(embed, np.ones((6, stub.SIZE)))
    np.testing.assert_array_equal(tree["lora_a"], usual.params["lora_a"])
  with pytest.raises(ValueError, match="base/other"):
    step.init(jax.random.key(0), {"base": {"other": jnp.ones(1)}})


def test_split_and_join():
  model = stub.Stub(tiny.VOCAB, tiny.L)
  params = {"base": {"embed": 1, "unembed": 2}, "mlp": {"kernel": 3}, "a": 4}
  trained, frozen = partition.split(model, params)
  assert trained == {"mlp": {"kernel": 3}, "a": 4}
  assert frozen == {"base": {"embed": 1, "unembed": 2}}
  assert partition.join(trained, frozen) == params
  assert partition.split(tiny.model(), params) == (params, {})
  with pytest.raises(ValueError, match="base/embed is in two parts"):
    partition.join(params, {"base": {"embed": 0}})


def save(folder, params):
  """Writes constant parameters as a converted folder has them."""
  with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
    checkpointer.save(
      folder / "params", args=ocp.args.PyTreeSave(params), force=True
    )
  flat = traverse_util.flatten_dict(params, sep="/")
  samples = {
    path: [float(x.min())] * 16 * (len(x) if path.startswith("blocks/") else 1)
    for path, x in flat.items()
  }
  (folder / "pretrained.json").write_text(json.dumps({"samples": samples}))


class HeadOnly(DiT):
  def trainable(self, path):
    return path[0] != "blocks"


@pytest.fixture(scope="module")
def experiment(tmp_path_factory):
  config = brackets_quickstart.get_config()
  config.model.update(hidden_size=16, num_layers=1, num_heads=2, cond_size=8)
  config.data.update(
    folder=str(tmp_path_factory.mktemp("data")), num_train=100, num_eval=8
  )
  config.train.update(batch_size=8, num_steps=2, report_every=1)
  config.optimizer.update(warmup_steps=0)
  made = Run.from_config(config.to_dict())
  fields = {
    f.name: getattr(made.model, f.name)
    for f in dataclasses.fields(made.model)
    if f.name not in ("parent", "name")
  }
  return dataclasses.replace(made, model=HeadOnly(**fields))


@pytest.fixture(scope="module")
def folder(experiment, tmp_path_factory):
  """Pretrained weights: all but the gap head."""
  path = tmp_path_factory.mktemp("pretrained")
  abstract = experiment.train_step().abstract_params
  params = jax.tree.map(
    lambda x: jnp.full(x.shape, 0.01, x.dtype),
    {name: x for name, x in abstract.items() if name != "gap_head"},
  )
  save(path, params)
  return path


@pytest.mark.slow
def test_a_run_writes_what_is_trained_and_restores_the_whole(
  experiment, folder, tmp_path
):
  experiment = dataclasses.replace(experiment, pretrained=str(folder))
  workdir = tmp_path / "work"
  result = experiment.train(workdir, progress=False)
  assert result["step"] == 2
  trained, _ = partition.split(
    experiment.model, experiment.train_step().abstract_params
  )
  step, ema, _ = restore_ema(workdir, trained)
  assert step == 2 and "blocks" not in ema
  step, denoiser = experiment.restore(workdir)
  kernel = denoiser.params["blocks"]["qkv"]["kernel"]
  np.testing.assert_array_equal(kernel, np.full(kernel.shape, 0.01, np.float32))
  embed = denoiser.params["embed"]["embedding"]
  assert 0 < np.abs(embed - 0.01).max() < 0.01
  # And goes on.
  longer = dataclasses.replace(experiment.loop, num_steps=3)
  experiment = dataclasses.replace(experiment, loop=longer)
  assert experiment.train(workdir, progress=False)["step"] == 3


def test_folder_and_model_must_agree(experiment, folder, tmp_path):
  step = experiment.train_step()
  with pytest.raises(InputError, match=r"freezes .* as blocks/.*pretrained"):
    experiment.with_weights(step)

  def with_folder(path):
    return dataclasses.replace(experiment, pretrained=str(path))

  with pytest.raises(InputError, match=r"holds no pretrained\.json"):
    with_folder(tmp_path / "nothing").with_weights(step)
  save(tmp_path, {"blocks": {"qkv": {"kernel": jnp.ones(3)}}})
  with pytest.raises(InputError, match=r"blocks/qkv/kernel of the shape \[3\]"):
    with_folder(tmp_path).with_weights(step)
  save(tmp_path, {"decoder": jnp.ones(3)})
  with pytest.raises(InputError, match="decoder, which the model lacks"):
    with_folder(tmp_path).with_weights(step)
  shape = step.abstract_params["embed"]["embedding"].shape
  save(tmp_path, {"embed": {"embedding": jnp.ones(shape)}})
  with pytest.raises(InputError, match=r"lacks .* of the frozen"):
    with_folder(tmp_path).with_weights(step)
