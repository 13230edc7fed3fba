"""A model of text that takes no training."""

import jax
import jax.numpy as jnp
import numpy as np

import flexmdm_jax as fm
from flexmdm_jax.inference import Model
from flexmdm_jax.models.parameters import abstract_params

L = 16
PATH = fm.JointInterpolant(fm.schedules.Linear(), fm.schedules.Linear())


def tiny_model(tokenizer, **fields):
  """A network that was not trained, but has some law."""
  size = dict(hidden_size=8, num_layers=1, num_heads=2, cond_size=4)
  network = fm.DiT(tokenizer.vocab, L, **size)
  rng = np.random.default_rng(0)
  params = jax.tree.map(
    lambda x: jnp.asarray(rng.normal(0, 0.2, x.shape), x.dtype),
    abstract_params(network),
  )
  return Model(
    denoiser=fm.denoiser(network, params),
    vocab=tokenizer.vocab,
    interpolant=PATH,
    path=PATH,
    sampler=fm.SamplerConfig(steps=4),
    max_length=L,
    tokenizer=tokenizer,
    **fields,
  )
