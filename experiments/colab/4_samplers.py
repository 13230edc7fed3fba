# %% [markdown]
# # 4. Samplers
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/OWNER/flexmdm_jax/blob/main/experiments/colab/4_samplers.ipynb)
#
# A sample is wrong for two reasons: the network's errors, and the sampler's own,
# since all that it draws in one call is drawn without seeing each other. Here the
# network is replaced by the exact posterior of a known law, so that only the
# second is left. How far from the law are samples of n network calls?

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
import flexmdm_jax as fm
from flexmdm_jax.exact import ShortLaw, markov_law, sampler_quality
from flexmdm_jax.pictures.figures import plot_sampler_quality
from flexmdm_jax.pictures.notebook import show_picture

trained = fm.JointInterpolant(fm.schedules.Power(1.7), fm.schedules.Power(2.89))
calls = (4, 16) if TINY else (4, 8, 16, 32, 64)

# %% [markdown]
# ## The methods
#
# | method | what a call does |
# |---|---|
# | `events` | takes the earliest few events of each row, by a clock of its own; the default |
# | `midpoint` | two calls a step: of each pair of events, one call sees the other |
# | `tau_leaping` | the paper's: all events of a time step, as if the state stayed |
# | `adaptive` | as many reveals, but of the masks that the model is surest of |
# | `euler` | at most one event of a mask or gap, at constant rates |
#
# First a law of eight short texts, whose samples can be counted whole. `gap_law`
# says what the denoiser tells of a gap: the law of its missing tokens, as some of
# this package's heads do, or their mean alone, as in the paper.

# %%
TEXTS = {
  "": 0.1,
  "0": 0.1,
  "1": 0.1,
  "01": 0.15,
  "010": 0.15,
  "110": 0.1,
  "0110": 0.2,
  "1001": 0.1,
}
short = ShortLaw(TEXTS, fm.Vocab(size=4, mask=2, pad=3), max_length=4)
methods = ("events", "midpoint", "tau_leaping", "adaptive", "euler")
num = 300 if TINY else 4000


def samplers(method, calls):
  buckets = () if TINY else None  # one canvas: less to compile
  return [fm.SamplerConfig(n, method, buckets=buckets) for n in calls]


configs = {method: samplers(method, calls) for method in methods}
rows = sampler_quality(short, trained, configs, num=num)
show_picture(plot_sampler_quality, rows)

# %% [markdown]
# The dashed line is the **floor**: as many perfect samples are no nearer, so what
# touches it cannot be told from perfect. The same as numbers:

# %%
print("calls  " + "  ".join(f"{method:>11}" for method in methods))
for n in calls:
  line = [row for row in rows if row.calls == n]
  print(
    f"{n:5}  " + "  ".join(f"{row.distance.sequence_tv:11.3f}" for row in line)
  )
print(f"floor  {rows[0].distance.floor.sequence_tv:11.3f}")

# %% [markdown]
# ## A path is a choice, too
#
# A trained model samples on any schedules. `lengths_first` draws the whole
# length before it reveals a token. With the law of a gap known, that takes one
# call from the empty start, and the other calls are all for the tokens.

# %%
names = ("events",) if TINY else ("events", "tau_leaping")
few = {method: configs[method] for method in names}
by_path = {
  "on the schedules of the training": [r for r in rows if r.name in few],
  "on lengths_first": sampler_quality(
    short, trained, few, num=num, path=fm.lengths_first()
  ),
}
show_picture(plot_sampler_quality, by_path)

# %% [markdown]
# ## Longer texts: a hidden Markov language
#
# Sequences too many to be listed, whose likelihood is known all the same. Whole
# sequences cannot be compared; lengths, bigrams and the likelihood can. What is
# drawn is the mean of -log p given the length, against that of perfect samples:
# above the floor, samples are less likely or more likely than they should be.

# %%
language = markov_law(max_length=32 if TINY else 128)
few = {
  method: samplers(method, calls[-1:] if TINY else calls[-3:])
  for method in (("events", "tau_leaping") if TINY else methods)
}
rows = sampler_quality(language, trained, few, num=200 if TINY else 1000)
show_picture(plot_sampler_quality, rows)

# %%
for row in rows:
  d = row.distance
  print(
    f"{row.name:12} {row.calls:3} calls: {d.mean_length:.1f} tokens"
    f" (law {d.law_mean_length:.1f}), lengths {d.length_ks:.3f},"
    f" excess {d.excess_given_length:+.2f} ± {d.excess_given_length_error:.2f}"
    f" nats, {row.seconds:.0f} s"
  )

# %% [markdown]
# Of a **trained** model the best sampler also depends on how it is wrong:
# `sampler_quality(..., denoiser=mine)` measures one that was trained on the law,
# and `python -m experiments.tune_sampler` tries samplers and paths on a run.
# **Next:** [5_retrofit](5_retrofit.ipynb) makes a FlexMDM of a pretrained MDM.
