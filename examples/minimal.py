"""The whole method on one page: train, sample, and bound a tiny law.

  python -m examples.minimal        (less than a minute on 2 CPU cores)

The law: balanced words of brackets with 2, 4, 6 or 8 symbols, such as (())().
All 22 can be listed, so what the model learns can be held against the truth.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax

import flexmdm_jax as fm

SYMBOLS = "()"
LENGTHS = {2: 0.1, 4: 0.2, 6: 0.3, 8: 0.4}  # the law of the number of symbols
L = 8  # room for the longest word: arrays have fixed shapes, lengths vary

# Ids 0 and 1 are symbols. The mask is a symbol that is there but not yet known;
# the pad fills a row after its length and is never looked at.
VOCAB = fm.Vocab(size=4, mask=2, pad=3)

# A noisy word has lost symbols (not yet inserted) and masked others (not yet
# unmasked). Two schedules say when, as t goes from 0 (the empty word) to 1 (the
# clean word): each symbol is inserted at one random time and unmasked later.
INTERPOLANT = fm.JointInterpolant(
  insertion=fm.schedules.Linear(), unmasking=fm.schedules.Linear()
)


def balanced(length: int) -> list[tuple[int, ...]]:
  """Lists the balanced words of a length."""
  return [
    word
    for word in itertools.product((0, 1), repeat=length)
    if word.count(0) == word.count(1)
    if all(word[:n].count(0) >= word[:n].count(1) for n in range(length))
  ]


def make_law() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Lists the law: tokens [N, L], length [N], probability [N]."""
  words = [word for length in LENGTHS for word in balanced(length)]
  length = np.array([len(word) for word in words])
  tokens = np.full((len(words), L), VOCAB.pad)
  for row, word in zip(tokens, words, strict=True):
    row[: len(word)] = word
  # Of each length all words are equally likely.
  count = np.bincount(length)
  probability = np.array([LENGTHS[n] / count[n] for n in length])
  return tokens, length, probability


def loss(params, model, key, tokens, length):
  """Estimates the paper's bound on -log p, in nats, averaged over a batch."""
  B = len(tokens)
  time_key, noise_key = jax.random.split(key)
  # One time a row. Near 1 the few symbols left weigh most, so more times are
  # drawn there: u is uniform, and t = 1 - u^2 has the density 1 / (2 u).
  u = jax.random.uniform(time_key, (B,))
  t = 1 - u**2

  def noise(key, tokens, length, t):
    # When each symbol is inserted and unmasked, and what is there at time t.
    times = fm.draw_times(key, INTERPOLANT, L)
    return fm.noise(tokens, length, *times, t, VOCAB)

  keys = jax.random.split(noise_key, B)
  noised = jax.vmap(noise)(keys, tokens, length, t)  # functions take one row
  # The network predicts, of a noisy word, the symbol at each mask and how many
  # symbols are missing in each gap.
  prediction = fm.denoiser(model, params)(noised.tokens, noised.length, t)
  terms = jax.vmap(fm.elbo_terms, (0, 0, 0, None))(
    prediction, noised, t, INTERPOLANT
  )
  return jnp.mean(2 * u * (terms.unmask + terms.insert))


def main(num_steps: int = 2000, batch_size: int = 64, num_samples: int = 500):
  """Prints what the model learns; returns it for the test of this file."""
  tokens, length, probability = make_law()
  # With "neighbours" each position reads those beside it; it learns faster.
  size = dict(hidden_size=64, num_layers=2, num_heads=4, cond_size=64)
  model = fm.DiT(VOCAB, L, **size, neighbours="blocks")
  keys = jax.random.split(jax.random.key(0), 4)

  # Train: noise clean words, predict what is missing, follow the gradient.
  params = jax.jit(model.init)(keys[0], tokens[:1], length[:1], jnp.zeros(1))
  params = params["params"]
  optimizer = optax.chain(
    optax.clip_by_global_norm(1.0),
    optax.adam(optax.cosine_decay_schedule(2e-3, num_steps), b2=0.99),
  )

  @jax.jit
  def train_step(params, state, key, tokens, length):
    value, gradient = jax.value_and_grad(loss)(
      params, model, key, tokens, length
    )
    updates, state = optimizer.update(gradient, state)
    return optax.apply_updates(params, updates), state, value

  state = optimizer.init(params)
  draw = np.random.default_rng(0)
  losses, every = [], max(1, num_steps // 10)
  for step in range(num_steps):
    rows = draw.choice(len(tokens), batch_size, p=probability)
    key = jax.random.fold_in(keys[1], step)
    params, state, value = train_step(
      params, state, key, tokens[rows], length[rows]
    )
    losses.append(float(value))
    if (step + 1) % every == 0:
      print(f"step {step + 1:5}  loss {np.mean(losses[-every:]):6.2f} nats")

  # Sample: from empty words, insert masks and unmask them until t is 1.
  denoiser = fm.denoiser(model, params)
  start, config = fm.empty_start(num_samples, L, VOCAB), fm.SamplerConfig(64)
  samples = fm.sample(keys[2], denoiser, start, INTERPOLANT, VOCAB, config)
  lengths = np.asarray(samples.length)
  rows = zip(np.asarray(samples.tokens), lengths, strict=True)
  words = [tuple(row[:n].tolist()) for row, n in rows]
  print("\nsamples:", *("".join(SYMBOLS[i] for i in w) for w in words[:8]))
  share = np.mean([word in balanced(len(word)) for word in words])
  print(f"balanced: {100 * share:.1f} %")
  print("length  law    samples")
  found = np.bincount(lengths, minlength=L + 1) / num_samples
  for n in range(L + 1):
    print(f"{n:6}  {LENGTHS.get(n, 0):.3f}  {found[n]:.3f}")

  # Bound: -log p of every word, at most, and its mean under the law. No model
  # can have a mean below the law's entropy.
  clean = jnp.array(tokens), jnp.array(length)
  bound = fm.log_likelihood_bound(
    keys[3], denoiser, *clean, INTERPOLANT, VOCAB, num_times=64
  )
  bound = float(np.sum(probability * np.asarray(bound)))
  entropy = -float(np.sum(probability * np.log(probability)))
  print(f"\nbound {bound:.3f} nats, entropy {entropy:.3f} nats")
  return losses, words, bound, entropy


if __name__ == "__main__":
  main()
