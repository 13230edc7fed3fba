"""A run small enough for tests: a two-layer DiT on counting sequences."""

import dataclasses

import grain
import jax
import numpy as np
from jax.sharding import AxisType

import flexmdm_jax as fm
from flexmdm_jax import schedules
from flexmdm_jax.mesh import AXES
from flexmdm_jax.rows import Rows, stack
from flexmdm_jax.states import PathStates
from flexmdm_jax.training.objectives import Diffusion
from flexmdm_jax.training.optimizer import OptimizerConfig, make_optimizer
from flexmdm_jax.training.sharding import Rules
from flexmdm_jax.training.step import StepConfig, make_train_step

L = 8
VOCAB = fm.Vocab(6, mask=4, pad=5)
INTERPOLANT = fm.JointInterpolant(schedules.Linear(), schedules.Linear())
BATCH = 8


def mesh(shape=(1, 1, 1)):
  devices = jax.devices()[: int(np.prod(shape))]
  return jax.make_mesh(
    shape, AXES, axis_types=(AxisType.Auto,) * 3, devices=devices
  )


def model(**changes):
  sizes = dict(hidden_size=16, num_layers=2, num_heads=2, cond_size=8)
  return fm.DiT(VOCAB, L, **{**sizes, **changes})


def train_step(shape=(1, 1, 1), rules=None, optimizer=None, **changes):
  optimizer = optimizer or OptimizerConfig(num_steps=100, warmup_steps=0)
  names = {field.name for field in dataclasses.fields(StepConfig)}
  config = {name: changes.pop(name) for name in names & changes.keys()}
  settings = dict(
    objective=Diffusion(PathStates(INTERPOLANT), VOCAB),
    config=StepConfig(**{"batch_size": BATCH, "ema_decay": 0.9, **config}),
    report_every=2,
  )
  return make_train_step(
    changes.pop("model", None) or model(),
    rules or Rules(),
    mesh(shape),
    optimizer=make_optimizer(optimizer),
    **{**settings, **changes},
  )


def example(index):
  """Counts up from a digit, `index % L + 1` tokens long."""
  length = index % L + 1
  tokens = np.full(L, VOCAB.pad, np.int32)
  tokens[:length] = (index + np.arange(length)) % 4
  return Rows(
    tokens=tokens,
    length=np.int32(length),
    frozen=np.zeros(L, bool),
    open_gaps=np.arange(L + 1) <= length,
  )


def batch():
  return stack(example(i) for i in range(BATCH))


def data():
  return iter(
    grain.MapDataset.source(range(64))
    .seed(0)
    .shuffle()
    .map(example)
    .repeat()
    .batch(BATCH)
    .to_iter_dataset()
  )
