"""The whole method on one page: train, sample, and bound a tiny law.

  python -m examples.minimal        (half a minute on 2 CPU cores)

The law: balanced words of two kinds of brackets, with 2, 4 or 6 symbols. All
can be listed, so what the model learns can be held against the truth.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax

import flexmdm_jax as fm

SYMBOLS = "()[]"
LENGTHS = {2: 0.2, 4: 0.3, 6: 0.5}  # the law of the number of symbols
L = 6  # room for the longest word: arrays have fixed shapes, lengths vary

# Ids 0 to 3 are symbols. The mask stands for a symbol that is there but not yet
# known; the pad fills a row after its length and is never looked at.
VOCAB = fm.Vocab(size=6, mask=4, pad=5)

# A noisy word has lost symbols (not yet inserted) and masked others (not yet
# unmasked). Two schedules say when, as t goes from 0 (the empty word) to 1 (the
# clean word): each symbol is inserted at one random time and unmasked later.
INTERPOLANT = fm.JointInterpolant(
  insertion=fm.schedules.Linear(), unmasking=fm.schedules.Linear()
)


def balanced(length: int) -> list[tuple[int, ...]]:
  """Lists the balanced words; id 2k opens what 2k + 1 closes."""
  words = [(0, 1), (2, 3)] if length else [()]
  if length <= 2:
    return words
  # The first bracket holds a word inside and has another after it.
  return [
    (first, *inside, first + 1, *after)
    for n in range(0, length, 2)
    for first, inside, after in itertools.product(
      (0, 2), balanced(n), balanced(length - 2 - n)
    )
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


def main(num_steps: int = 2500, batch_size: int = 64, num_samples: int = 1000):
  """Prints what the model learns; returns it for the test of this file."""
  tokens, length, probability = make_law()
  sizes = dict(hidden_size=64, num_layers=2, num_heads=4, cond_size=64)
  model = fm.DiT(VOCAB, L, **sizes)
  keys = jax.random.split(jax.random.key(0), 4)
  init_key, train_key, sample_key, bound_key = keys

  # Train: noise clean words, predict what is missing, follow the gradient.
  params = jax.jit(model.init)(init_key, tokens[:1], length[:1], jnp.zeros(1))
  params = params["params"]
  optimizer = optax.chain(
    optax.clip_by_global_norm(1.0),
    optax.adam(optax.cosine_decay_schedule(3e-3, num_steps), b2=0.99),
  )

  @jax.jit
  def train_step(params, state, key, tokens, length):
    inputs = (model, key, tokens, length)
    value, gradient = jax.value_and_grad(loss)(params, *inputs)
    updates, state = optimizer.update(gradient, state)
    return optax.apply_updates(params, updates), state, value

  state = optimizer.init(params)
  draw = np.random.default_rng(0)
  losses = []
  for step, key in enumerate(jax.random.split(train_key, num_steps), 1):
    rows = draw.choice(len(tokens), batch_size, p=probability)
    batch = tokens[rows], length[rows]
    params, state, value = train_step(params, state, key, *batch)
    losses.append(float(value))
    if step % 250 == 0:
      print(f"step {step:5}  loss {np.mean(losses[-250:]):6.2f} nats")

  # Sample: from empty words, insert masks and unmask them until t is 1.
  denoiser = fm.denoiser(model, params)
  start = fm.empty_start(num_samples, L, VOCAB)
  config = fm.SamplerConfig(steps=64)
  samples = fm.sample(sample_key, denoiser, start, INTERPOLANT, VOCAB, config)
  rows, ends = np.asarray(samples.tokens), np.asarray(samples.length)
  words = [tuple(row[:n].tolist()) for row, n in zip(rows, ends, strict=True)]
  print("\nsamples:", *("".join(SYMBOLS[i] for i in w) for w in words[:8]))
  possible = {w for n in LENGTHS for w in balanced(n)}
  share = np.mean([word in possible for word in words])
  print(f"balanced: {100 * share:.1f} %")
  print("length  law    samples")
  found = np.bincount([len(word) for word in words], minlength=L + 1)
  for n in range(L + 1):
    print(f"{n:6}  {LENGTHS.get(n, 0):.3f}  {found[n] / num_samples:.3f}")

  # Bound: -log p of every word, at most, and its mean under the law. No model
  # can have a mean below the law's entropy.
  every_word = map(jnp.int32, (tokens, length))
  bound = fm.log_likelihood_bound(
    bound_key, denoiser, *every_word, INTERPOLANT, VOCAB, num_times=64
  )
  bound = float(np.sum(probability * bound))
  entropy = -float(np.sum(probability * np.log(probability)))
  print(f"\nbound {bound:.3f} nats, entropy {entropy:.3f} nats")
  return losses, words, bound, entropy


if __name__ == "__main__":
  main()
