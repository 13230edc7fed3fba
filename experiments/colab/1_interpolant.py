# %% [markdown]
# # 1. The interpolant
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/OWNER/flexmdm_jax/blob/main/experiments/colab/1_interpolant.ipynb)
#
# A FlexMDM learns to undo noise that both **deletes** and **masks** tokens. This
# notebook looks at that noise, at what a perfect model would know, and at the
# bound of the likelihood, on a law so small that all of it can be counted.
# Nothing is trained: a CPU and a minute are enough.

# %%
# Installs what is missing: nothing, where the library is there already.
import importlib.util
import os
import pathlib
import subprocess
import sys

REPOSITORY = "https://github.com/OWNER/flexmdm_jax"
WHEEL = None  # path of a wheel to install in place of the clone
TINY = os.environ.get("FLEXMDM_NOTEBOOKS") == "tiny"  # seconds, not minutes

found = importlib.util.find_spec("flexmdm_jax")
root = pathlib.Path(found.origin).parents[1] if found else None
if root is None or not (root / "experiments").is_dir():
  clone = pathlib.Path("flexmdm_jax_source").resolve()  # a wheel has no configs
  if not clone.exists():
    subprocess.run(["git", "clone", "--depth=1", REPOSITORY, clone], check=True)
  if root is None:
    package = f"{WHEEL or clone}[notebooks]"
    subprocess.run(
      [sys.executable, "-m", "pip", "install", package], check=True
    )
  root = clone
if str(root) not in sys.path:
  sys.path.append(str(root))

# %%
import jax
import jax.numpy as jnp
import numpy as np

import flexmdm_jax as fm
from flexmdm_jax.exact import ShortLaw, token_shares
from flexmdm_jax.likelihood import bound_terms
from flexmdm_jax.pictures import process
from flexmdm_jax.pictures.notebook import show_picture

# %% [markdown]
# ## Two times for each token
#
# Each token of a clean text draws the time of its **insertion** and, after it,
# the time at which its mask is **revealed**, all independently. Before the
# first it is absent, between the two a mask, then clean. Read from left to right
# the picture is generation; from right to left it is the noise. Above it stands
# the state at three times: note that it does not say where tokens are missing.

# %%
path = fm.JointInterpolant(fm.schedules.Linear(), fm.schedules.Linear())
text = "any order"
inserted, revealed = fm.draw_times(jax.random.key(3), path, len(text))
letters = ["␣" if letter == " " else letter for letter in text]
show_picture(
  process.plot_hitting_times, letters, inserted, revealed, [0.25, 0.5, 0.75]
)

# %% [markdown]
# ## Three states, and who chooses the schedules
#
# The two schedules say how likely each state is at each time. Three pairs: the
# paper's linear one; the powers that this package trains with; and a path that
# inserts everything before it reveals anything, on which a FlexMDM is a masked
# diffusion model that draws its own length. What a model learns, the law of a
# token and the number of missing tokens given a state, depends on the insertion
# schedule's value alone. So one network serves all three (`fm.on_path`).

# %%
power = fm.JointInterpolant(fm.schedules.Power(1.7), fm.schedules.Power(2.89))
paths = {"linear": path, "powers": power, "lengths first": fm.lengths_first()}
times = np.linspace(0, 0.999, 60)
show_picture(
  process.plot_token_shares,
  times,
  {
    name: np.array([token_shares(each, float(t)) for t in times])
    for name, each in paths.items()
  },
)

# %% [markdown]
# ## A law that can be listed
#
# Three texts: nothing with 20 %, `a` with 30 %, `ab` with 50 %. The noise makes
# eight states of them. `□` is a mask.

# %%
vocab = fm.Vocab(size=4, mask=2, pad=3)
law = ShortLaw({(): 0.2, (0,): 0.3, (0, 1): 0.5}, vocab, max_length=2)


def name(state):
  return "".join(f"ab{process.MASK}"[token] for token in state) or "(empty)"


print(*map(name, law.states), sep="   ")

# %% [markdown]
# A state has several **ways** to come about. These are the ways to a lone mask,
# with the chance of the text, the number of tokens that are absent, and which
# token of the text the mask is:

# %%
for way in law.embeddings:
  if way.state == (vocab.mask,):
    word, (place,) = name(way.item.tokens), way.source
    chance = f"{way.item.probability:.0%} of {word:2}"
    print(f"{chance}: {way.absent} absent, the mask is {word[place]!r}")

# %% [markdown]
# ## What a perfect model knows
#
# Sum the ways, each with its chance at time t, and you have the exact posterior:
# which token is behind a mask, and how many are missing in a gap. Early, much
# may still be missing, so a lone mask may well be the `b` of `ab`; late, next to
# nothing is missing, and it is the `a` of `a`.

# %%
denoiser = law.denoiser(path.insertion, gap_law=True)
curve = jnp.linspace(0, 0.999, 60)


def posterior(state):
  tokens, length = (jnp.asarray(x) for x in law.pack([state] * len(curve)))
  return denoiser(tokens, length, curve)


mask = jax.nn.softmax(posterior((vocab.mask,)).token_logits)[:, 0]
empty = jax.nn.softmax(posterior(()).gap_logits)[:, 0]
after = jax.nn.softmax(posterior((0,)).gap_logits)[:, 1]
show_picture(
  process.plot_law_over_time,
  curve,
  {
    f"{process.MASK} : which token is it?": {"a": mask[:, 0], "b": mask[:, 1]},
    "(empty): how many are missing?": {
      f"{n} missing": empty[:, n] for n in range(3)
    },
    "a : how many are missing after it?": {
      f"{n} missing": after[:, n] for n in range(2)
    },
  },
)

# %% [markdown]
# ## The generator
#
# The posterior gives the rates of a Markov chain over states: each mask is
# revealed at the hazard of the unmasking schedule, split by its law; a mask
# appears in a gap at the hazard of the insertion schedule times the expected
# number of missing tokens. Every row of the picture has few entries: a step
# reveals one mask or inserts one. With exact rates the chain has the right law at
# every time (`tests/test_exactness.py` checks it to 2e-5).

# %%
show_picture(
  process.plot_generator,
  [name(state) for state in law.states],
  law.generator(path, 0.5),
)

# %% [markdown]
# ## The bound, and why the paper's is loose
#
# Training minimises an upper bound of -log p: at each time it compares the
# model's rates with those of the drawn noise. No bound of a perfect model can be
# below the entropy of the data; a *tight* one is equal to it.
#
# The paper compares with the way that was drawn, as if it were known which
# token of the text a lone mask is. A model sees the state alone, so even a
# perfect one is charged for not knowing the way. This package sums over all ways
# that look alike, and over all gaps in which an insertion makes the same state.
# What is left is the entropy.

# %%
clean = [np.asarray(x) for x in law.pack([item.tokens for item in law.items])]
weight = np.array([item.probability for item in law.items])
copies = 200 if TINY else 2000
rows = [jnp.asarray(np.repeat(x, copies, axis=0)) for x in clean]
bounds = {}
for kind in ("paper", "tight"):
  terms = bound_terms(
    jax.random.key(0), denoiser, *rows, path, vocab, num_times=256, kind=kind
  )
  unmask, insert = (
    float(weight @ np.reshape(x, (len(weight), copies)).mean(axis=1))
    for x in terms
  )
  bounds[kind] = {"tokens": unmask, "insertions": insert}
entropy, _ = law.entropy()
show_picture(
  process.plot_parts,
  bounds,
  "nats a text, of a perfect model",
  ("entropy of the data", entropy),
)

# %%
for kind, parts in bounds.items():
  total = sum(parts.values())
  print(f"{kind:6} {total:.3f} nats, {total - entropy:+.3f} above the entropy")

# %% [markdown]
# The bound is an estimate by random times and masks, so the last digits are
# noise. **Next:** [2_train_and_sample](2_train_and_sample.ipynb) trains a network
# in place of the posterior. The method is told in full in `docs/method.md`.
