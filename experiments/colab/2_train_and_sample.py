# %% [markdown]
# # 2. Train and sample
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/OWNER/flexmdm_jax/blob/main/experiments/colab/2_train_and_sample.ipynb)
#
# Two tasks whose answers can be checked: balanced brackets, from nothing, and
# paths through a maze, around given cells. With full settings this takes some
# 20 minutes of a Colab CPU, and less on a GPU. Results stay in `build/`, so a
# cell that is run again goes on where it was.

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

import flexmdm_jax as fm
from experiments.configs import brackets_quickstart, maze_quickstart
from flexmdm_jax.evaluation.evaluation import evaluate
from flexmdm_jax.evaluation.lengths import LengthLaw
from flexmdm_jax.evaluation.maze_methods import draw, train_and_score
from flexmdm_jax.evaluation.train_once import train_once
from flexmdm_jax.pictures.figures import plot_loss
from flexmdm_jax.pictures.notebook import show_page, show_picture
from flexmdm_jax.runs import Run

out = pathlib.Path("build/colab")
print(fm.__version__, jax.devices())

# %% [markdown]
# ## Balanced brackets
#
# Words of four kinds of bracket with 4, 16, 32 or 64 symbols. A model that is
# wrong about the length cannot close what it opened. A **config** has all
# settings; any of them can be changed before the run is made of it.

# %%
config = brackets_quickstart.get_config()
config.data.folder = str(out / "data")
if TINY:
  config.data.update(num_train=2000, num_eval=100)
  config.model.update(hidden_size=32, num_layers=2)
  config.train.update(num_steps=60, checkpoint_every=60)
  config.optimizer.warmup_steps = 20
run = Run.from_config(config.to_dict())
if TINY:
  run = run.with_sampler(steps=16, buckets=())  # one canvas: less to compile
denoiser, curve = train_once(run, out / "brackets")
show_picture(plot_loss, {"FlexMDM": curve}, ylabel="loss (nats a token slot)")

# %% [markdown]
# A sample begins empty. Each line below is the state after a call of the network:
# masks are inserted in gaps, and revealed in any order.

# %%
SYMBOLS = "()[]{}<>□"
start = fm.empty_start(1, run.task.max_length, run.task.vocab)
trace = run.with_sampler(steps=16).trace(jax.random.key(1), denoiser, start)
for tokens, length in zip(trace.tokens[:, 0], trace.length[:, 0], strict=True):
  print("".join(SYMBOLS[token] for token in tokens[:length]) or "(empty)")

# %% [markdown]
# Are samples balanced, and as long as the data? An **evaluation** compares them
# with held-out words. `length_tv` is the distance of the two laws of lengths, and
# its floor that of as many perfect samples.

# %%
report = evaluate(LengthLaw(plots=out), run, denoiser, num=50 if TINY else 1000)
print(f"{report['balanced']:.0%} are balanced; lengths differ by")
print(f"{report['length_tv']:.3f}, floor {report['length_floor']['tv']:.3f}")
show_picture(out / "lengths.png")

# %% [markdown]
# ## A maze
#
# A path has to visit three numbered cells in order. They are given, frozen, with
# every gap open: the model inserts as many cells as the way needs. The paper's
# baseline is a masked diffusion model of fixed length (`mdm_pinned`). It has the
# same network, but must pin the numbered cells to positions before it knows
# the way.

# %%
config = maze_quickstart.get_config()
config.data.folder = str(out / "data")
if TINY:
  config.data.update(num_train=400, num_eval=20)
  config.model.update(hidden_size=48, num_layers=2, unroll=2)
  config.train.update(num_steps=40, checkpoint_every=40)
  config.optimizer.warmup_steps = 10
methods = {
  name: train_and_score(
    config.to_dict(),
    method,
    out / method,
    num=20 if TINY else 400,
    sampling_steps=(16,) if TINY else (4, 8, 16, 32, 64),
  )
  for name, method in {"FlexMDM": "flexmdm", "MDM": "mdm_pinned"}.items()
}
for name, method in methods.items():
  score = method.best
  print(f"{name:8} {score.success:.1%} solved, ± {score.stderr:.1%}")

# %%
draw(out / "maze", methods)
show_picture(out / "maze" / "loss.png")

# %%
show_picture(out / "maze" / "mazes.png", width=420)

# %%
show_picture(out / "maze" / "success.png", width=520)

# %% [markdown]
# ## Watch a path grow
#
# The same sample, step by step: press play, or use the slider. (GitHub shows no
# frames; open the notebook in Colab or Jupyter.)

# %%
show_page(out / "maze" / "trace.html", height=620)

# %% [markdown]
# **Next:** [3_text](3_text.ipynb) trains on a text of yours.
