"""Replays: how samples of a model came about, state by state, to be looked at.

model = fm.load(FOLDER)
played = replay(model, model.requests(2, prompts=["def f("]))
write_page("trace.html", "Two functions", played)
"""

import dataclasses
import functools
import os
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from flexmdm_jax.errors import InputError
from flexmdm_jax.inference.model import Model, Preset, Request
from flexmdm_jax.pictures.trace_html import (
  REVEALED,
  Frames,
  Render,
  write_trace_html,
)
from flexmdm_jax.prediction import Denoiser, as_pytree, forbid_mask
from flexmdm_jax.rows import stack
from flexmdm_jax.sampling import row_keys
from flexmdm_jax.vocab import Vocab

# The last time before 1, where a network was trained on none.
_LAST = 1.0 - 2.0**-24


class Replay(NamedTuple):
  """Samples that can be played.

  Attributes:
    samples: the states of each.
    times: time of each state by the sampler's grid, f32[steps+1].
    label: text of a token.
    between: what parts tokens: nothing in text, a space between ids.
  """

  samples: tuple[Frames, ...]
  times: np.ndarray
  label: Callable[[int], str]
  between: str = ""


def require_replay(model: Model, way: Preset | None = None) -> None:
  """Refuses a model, or a way to sample, whose steps cannot be played.

  Raises:
    InputError: the model reads from left to right, or the sampler noises
      finished rows again.
  """
  if model.method == "autoregressive":
    raise InputError(
      "method=autoregressive has no steps to play: give a model of another"
      " method."
    )
  way = way or Preset(model.sampler, model.path)
  if way.sampler.plan(way.path).goes_back:
    raise InputError(
      "a sampler with corrections takes tokens back, which cannot be played:"
      " leave the corrections out."
    )


def replay(
  model: Model,
  requests: Sequence[Request],
  way: Preset | None = None,
  *,
  seed: int = 0,
  names: Sequence[str] | None = None,
  chances: bool = False,
) -> Replay:
  """Samples as `Model.stream` does its first rows, and keeps every state.

  Args:
    model: the model.
    requests: what to sample, all in one batch.
    way: how; None for the model's own.
    seed: seed of all that is random.
    names: heading of each sample; None for none.
    chances: call the network once more for each state, for the probability of
      each token that is revealed next. It is that of temperature 1, at the time
      of the grid; a row that has a clock of its own was asked somewhat before.

  Raises:
    InputError: as `require_replay`, or there are no requests.
  """
  require_replay(model, way)
  if not requests:
    raise InputError("there is no sample to play: give at least one request.")
  way = way or Preset(model.sampler, model.path)
  keys = row_keys(jax.random.key(seed), len(requests))
  start = stack(request.start for request in requests)
  trace = model.trace(keys, start, way).trace
  times = np.append(np.float32(0), way.sampler.plan(way.path).end)
  samples = []
  for i, name in enumerate(names or [""] * len(requests)):
    frames = Frames(
      trace.tokens[:, i],
      trace.length[:, i],
      np.asarray(start.frozen[i]),
      model.vocab.mask,
      name=name,
    )
    if chances:
      denoiser = as_pytree(model.on_path(way.path))
      found = _chances(denoiser, frames, times, model.vocab)
      frames = dataclasses.replace(frames, chance=found)
    samples.append(frames)
  return Replay(
    tuple(samples),
    times,
    functools.cache(token_labels(model)),
    between=" " if model.tokenizer is None else "",
  )


def write_page(path: str | os.PathLike, title: str, played: Replay) -> None:
  """Writes a page that plays samples in a browser; it needs no network.

  Args:
    path: HTML file to write.
    title: heading of the page, plain text.
    played: the samples.
  """
  render = Render(labels=played.label, running=not played.between)
  write_trace_html(path, title, played.samples, played.times, render)


def token_labels(model: Model) -> Callable[[int], str]:
  """Makes what tells the text of a token as it stands within a text.

  Without a tokenizer it is the id.
  """

  def label(token):
    one = model.decode([token])
    if one is None:
      return str(token)
    # Some tokenizers leave out a space at the beginning of a text.
    two = model.decode([token, token])
    return two[len(one) :] if two.startswith(one) else one

  return label


def _chances(
  denoiser: Denoiser, frames: Frames, times: np.ndarray, vocab: Vocab
) -> np.ndarray:
  """Computes `Frames.chance`; calls the network where a token is revealed."""
  chance = np.zeros(frames.tokens.shape)
  for step, (after, status, origin) in enumerate(frames.steps()):
    revealed = np.flatnonzero([s == REVEALED for s in status])
    if not len(revealed):
      continue
    becomes = np.zeros(frames.tokens.shape[1:], np.int32)
    becomes[origin[revealed]] = after[revealed]
    chance[step] = _chance(
      denoiser,
      np.asarray(frames.tokens[step], np.int32),
      np.asarray(frames.length[step], np.int32),
      np.minimum(np.float32(times[step]), np.float32(_LAST)),
      becomes,
      vocab=vocab,
    )
  return chance


@functools.partial(jax.jit, static_argnames="vocab")
def _chance(
  denoiser: Denoiser,
  tokens: Int[Array, " L"],
  length: Int[Array, ""],
  t: Float[Array, ""],
  becomes: Int[Array, " L"],
  *,
  vocab: Vocab,
) -> Float[Array, " L"]:
  """Computes the probability of a token at each position of one state."""
  logits = denoiser(tokens[None], length[None], t[None]).token_logits[0]
  law = jax.nn.softmax(forbid_mask(logits.astype(jnp.float32), vocab))
  return jnp.take_along_axis(law, becomes[:, None], axis=1)[:, 0]
