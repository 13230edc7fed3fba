"""One step of the sampler: its events, and what the network makes of them.

The events are drawn first: they tell which positions want a token, and whether
the network has to be called at all.

Source: arXiv 2509.01025, "sampling algorithms".
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Bool, Int, Key

from flexmdm_jax.kernels.token_sample import TokenSamples, token_sample
from flexmdm_jax.prediction import forbid_mask
from flexmdm_jax.sampling import choices
from flexmdm_jax.sampling.placement import on_axis


class Plan(NamedTuple):
  """What a step decides before it calls the network.

  Attributes:
    token_keys, insert_keys: of each row.
    masked: positions that hold a mask.
    reveal: masks that events reveal; "adaptive" reveals as many others.
    count, window: see `choices.most_confident`.
    wanted: positions whose token, or confidence, the step will ask for.
    open_gaps: gaps in which the step may insert.
    moves: whether anything can change in any row.
  """

  token_keys: Key[Array, " B"]
  insert_keys: Key[Array, " B"]
  masked: Bool[Array, "B C"]
  reveal: Bool[Array, "B C"]
  count: Int[Array, " B"]
  window: Int[Array, " B"]
  wanted: Bool[Array, "B C"]
  open_gaps: Bool[Array, "B C+1"]
  moves: Bool[Array, ""]


def plan_step(
  keys, tokens, length, open_gaps, s, u, *, interpolant, vocab, config
) -> Plan:
  """Draws the events of the step from `s` to `u`; no network is called.

  Args:
    keys: of the rows, [B].
    tokens: the rows, i32[B, C].
    length: their numbers of tokens, i32[B].
    open_gaps: bool[B, C+1].
    s: time at which the step starts, f32[], in [0, 1].
    u: time at which it ends; at 1 all is revealed, nothing inserted.
    interpolant: the schedules.
    vocab: the id space.
    config: a `SamplerConfig`.
  """
  C = tokens.shape[1]
  token_keys, reveal_keys, insert_keys = jnp.moveaxis(
    jax.vmap(lambda k: jax.random.split(k, 3))(keys), 1, 0
  )
  masked = (tokens == vocab.mask) & (jnp.arange(C) < length[:, None])
  last = u >= 1.0
  if config.method == "euler":
    chance = interpolant.unmasking.hazard(s) * (u - s)
    inserts = interpolant.insertion.hazard(s)
  else:
    chance = interpolant.unmasking.jump(s, u)
    inserts = interpolant.insertion.jump(s, u)
  chance = jnp.where(last, 1.0, jnp.clip(chance, 0.0, 1.0))
  coins = jax.vmap(lambda k: jax.random.uniform(k, (C,)))(reveal_keys)
  reveal = masked & (coins < chance)
  count = jnp.sum(reveal, axis=1, dtype=jnp.int32)
  window = jnp.where(last, C, _window(count, C, config))
  wanted = reveal
  if config.method == "adaptive":
    wanted = masked & (jnp.cumsum(masked, axis=1) <= window[:, None])
    wanted &= (count > 0)[:, None]
  open_gaps = open_gaps & ~last & (inserts > 0)
  moves = jnp.any(wanted) | jnp.any(open_gaps)
  return Plan(
    token_keys,
    insert_keys,
    masked,
    reveal,
    count,
    window,
    wanted,
    open_gaps,
    moves,
  )


def choose(
  denoiser,
  plan,
  tokens,
  length,
  s,
  u,
  *,
  interpolant,
  vocab,
  config,
  vocab_axis,
) -> tuple[Int[Array, "B C"], Int[Array, "B C+1"]]:
  """What changes in the step from `s` to `u`.

  Args:
    denoiser: called once, at time `s`.
    plan: of the same rows and times.
    tokens: the rows, i32[B, C].
    length: their numbers of tokens, i32[B].
    s: time at which the step starts, f32[], in [0, 1].
    u: time at which it ends.
    interpolant: the schedules.
    vocab: the id space.
    config: a `SamplerConfig`.
    vocab_axis: mesh axis over which the vocabulary is split, or None.

  Returns:
    (revealed: the new token of each revealed position, -1 elsewhere;
     insertions: the number of masks to insert in each gap).
  """
  t = jnp.broadcast_to(s, length.shape)
  # A position draws from bits of its own, wherever the row's batch puts it.
  index = jnp.arange(tokens.shape[1])
  keys = jax.vmap(jax.vmap(jax.random.fold_in, (None, 0)), (0, None))(
    plan.token_keys, index
  )
  if hasattr(denoiser, "features"):
    predicted = denoiser.features(tokens, length, t)
    drawn = _draw_wanted(
      keys, predicted, plan.wanted, vocab, config, vocab_axis
    )
  else:
    predicted = denoiser(tokens, length, t)
    drawn = choices.draw_tokens(
      keys,
      forbid_mask(predicted.token_logits.astype(jnp.float32), vocab),
      config.temperature,
      config.top_p,
    )
  reveal = plan.reveal
  if config.method == "adaptive":
    reveal = jax.vmap(choices.most_confident)(
      plan.wanted,
      choices.confidence(config.confidence, drawn),
      plan.count,
      plan.window,
    )
  revealed = jnp.where(reveal, drawn.token, -1)

  log_gaps = predicted.log_gaps.astype(jnp.float32)
  if config.method == "euler":
    chance = interpolant.insertion.hazard(s) * jnp.exp(log_gaps) * (u - s)
    insertions = jax.vmap(choices.bernoulli_insertions)(
      plan.insert_keys, chance
    )
  elif predicted.law is not None:
    chance = interpolant.insertion.jump(s, u)
    insertions = jax.vmap(lambda key, law: law.thin(key, chance))(
      plan.insert_keys, predicted.law
    )
  else:
    # Each missing token is inserted with the probability `jump`. The integrated
    # hazard, the paper's, is larger, and the rates do not fall as it inserts:
    # a perfect denoiser of rows of 39 tokens then made 47.1 on average with 32
    # calls, and 43.0 so.
    expected = interpolant.insertion.jump(s, u) * jnp.exp(log_gaps)
    insertions = jax.vmap(choices.poisson_insertions)(
      plan.insert_keys, expected
    )
  return revealed, jnp.where(plan.open_gaps, insertions, 0)


def _draw_wanted(
  keys, features, wanted, vocab, config, vocab_axis
) -> TokenSamples:
  """Tokens of the wanted positions, [B, C]; elsewhere undefined.

  The positions are gathered, so that the vocabulary head's cost follows their
  number.
  """
  B, C = wanted.shape
  rows = jnp.nonzero(wanted.ravel(), size=B * C, fill_value=B * C)[0]
  hidden, unembed = features.hidden, features.unembed
  if features.adapter is not None:
    inner, matrix = features.adapter
    hidden = jnp.concatenate([hidden, inner.astype(hidden.dtype)], axis=-1)
    unembed = jnp.concatenate([unembed, matrix.astype(unembed.dtype)])
  draw = functools.partial(
    token_sample,
    temperature=config.temperature,
    top_p=config.top_p,
    banned=jnp.array([vocab.mask], jnp.int32),
    axis_name=vocab_axis,
  )
  bias = features.bias
  if bias is None:
    bias = jnp.zeros(unembed.shape[1], jnp.float32)
  columns = (P(), P(None, vocab_axis), P(), P(), P(vocab_axis))
  drawn = on_axis(
    vocab_axis, lambda *args: draw(*args[:4], bias=args[4]), columns, P()
  )(
    hidden.reshape(B * C, -1).at[rows].get(mode="clip"),
    unembed,
    jnp.sum(wanted, dtype=jnp.int32),
    keys.ravel().at[rows].get(mode="clip"),
    bias,
  )
  return jax.tree.map(
    lambda x: (
      jnp.zeros(B * C, x.dtype).at[rows].set(x, mode="drop").reshape(B, C)
    ),
    drawn,
  )


def _window(count: Int[Array, " B"], C: int, config) -> Int[Array, " B"]:
  """How many of the leftmost masks may be revealed when `count` are."""
  window = jnp.full_like(count, C)
  if config.window_scale is not None:
    scaled = config.window_scale * count.astype(jnp.float32)
    window = jnp.minimum(jnp.floor(scaled).astype(jnp.int32), window)
  if config.max_window is not None:
    window = jnp.minimum(window, config.max_window)
  return window
