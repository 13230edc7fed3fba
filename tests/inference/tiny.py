"""Tiny models of every method, whose parameters are random."""

import functools

import flax.linen as nn
import jax

import flexmdm_jax as fm
from flexmdm_jax.data.tokenizers import CharTokenizer, GPT2Tokenizer
from flexmdm_jax.inference import Model, Preset
from flexmdm_jax.models.parameters import init_params
from flexmdm_jax.schedules import Linear, Power
from tests.data.tiny_text import write_bpe

TRAINED = fm.JointInterpolant(Power(1.7), Power(2.89))
TOKENIZER = CharTokenizer("abcdefgh ")
VOCAB = TOKENIZER.vocab
# Rows begin with this id and answers with that one, in models that have a form.
BEGIN, PAD = 3, VOCAB.pad


@functools.cache
def network(method="flexmdm", vocab=VOCAB, L=12):
  """A network and its parameters; the heads are not at their zeros."""
  model = fm.DiT(
    vocab=vocab,
    max_length=L,
    hidden_size=16,
    num_layers=2,
    num_heads=2,
    cond_size=8,
    gap_head="log_rate" if method == "flexmdm" else None,
    causal=method == "autoregressive",
  )
  params = nn.unbox(init_params(model, jax.random.key(0)))
  leaves, tree = jax.tree.flatten(params)
  keys = jax.random.split(jax.random.key(1), len(leaves))
  noisy = [
    x + 0.1 * jax.random.normal(key, x.shape)
    for x, key in zip(leaves, keys, strict=True)
  ]
  return fm.denoiser(model, jax.tree.unflatten(tree, noisy))


def model(method="flexmdm", tokenizer=TOKENIZER, **fields):
  """A model that samples in four calls."""
  interpolant = TRAINED if method == "flexmdm" else fm.MDM(Linear())
  denoiser = network(method, tokenizer.vocab if tokenizer else VOCAB)
  return Model(
    denoiser=denoiser,
    vocab=denoiser.model.vocab,
    interpolant=interpolant,
    path=interpolant,
    sampler=fm.SamplerConfig(steps=4, buckets=()),
    max_length=denoiser.model.max_length,
    tokenizer=tokenizer,
    method=method,
    **fields,
  )


PRESETS = {
  "slow": Preset(
    fm.SamplerConfig(steps=6, method="tau_leaping", buckets=()),
    fm.lengths_first(),
  )
}


def bpe(folder):
  """GPT-2's tokenizer with five merges."""
  return GPT2Tokenizer(write_bpe(folder))
