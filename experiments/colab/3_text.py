# %% [markdown]
# # 3. A text of your own
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/OWNER/flexmdm_jax/blob/main/experiments/colab/3_text.ipynb)
#
# From a file to a model that writes, scores and fills holes. Tokens are
# characters, so nothing is downloaded. With full settings it takes half an hour
# of a Colab CPU, or minutes of a GPU.

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
from experiments.configs import base, shakespeare
from flexmdm_jax.data.docstrings import write_docstrings
from flexmdm_jax.evaluation.evaluation import evaluate
from flexmdm_jax.evaluation.likelihood import HeldOutLikelihood
from flexmdm_jax.evaluation.samples import held_out
from flexmdm_jax.evaluation.train_once import train_once
from flexmdm_jax.inference.replay import replay, write_page
from flexmdm_jax.pictures.figures import plot_loss
from flexmdm_jax.pictures.notebook import show_page, show_picture, text_box
from flexmdm_jax.runs import Run

out = pathlib.Path("build/colab")

# %% [markdown]
# ## The text
#
# Give the path of a file with `{"text": ...}` on each line: short texts, a
# sentence or a verse each. In Colab, upload it in the panel of files at the left.
# Without one, the notebook takes a text that every machine has: the first
# sentences of the docstrings of Python's own library.

# %%
MY_TEXT = None  # such as "poems.jsonl"

if MY_TEXT is None:
  MY_TEXT = out / "docstrings.jsonl"
  print(write_docstrings(MY_TEXT, max_characters=32 if TINY else 64), "lines")

# %% [markdown]
# ## Training, by a curriculum
#
# A FlexMDM learns two things: which token is behind a mask, and how many are
# missing in a gap. The text configs learn the first before the second. Until 60 %
# of the run the rows lack no token (they are a masked diffusion model's) but for a
# few that hold masks only, from which the length is learned; then gaps open.
# `path="lengths_first"` is how it samples: length first, then the tokens.

# %%
config = shakespeare.get_config()
config.data.update(
  train=str(MY_TEXT), tokenizer="char", folder=str(out / "data")
)
config.train.states.update(base.curriculum(opens=0.6))
config.train.update(num_steps=4000)
if TINY:
  config.data.update(max_length=32, buckets=(32,))
  config.model.update(hidden_size=48, num_layers=2, unroll=2)
  config.train.update(num_steps=80, checkpoint_every=80, report_every=10)
  config.optimizer.warmup_steps = 20
run = Run.from_config(config.to_dict())
if TINY:
  run = run.with_sampler(steps=16, buckets=())
denoiser, curve = train_once(run, out / "text")
show_picture(plot_loss, {"FlexMDM": curve}, ylabel="loss (nats a token slot)")

# %% [markdown]
# ## It writes
#
# `run.model_with` is the model as people use it; `fm.load` gives the same from the
# work directory. Below are texts of the data, held out, and the model's own.

# %%
model = run.model_with(denoiser)
texts = [run.task.to_text(row["tokens"]) for row in held_out(run, 100)]
print(*texts[:5], "", sep="\n")
print(*(made.text for made in model.generate(5, seed=1)), sep="\n")

# %% [markdown]
# ## Any path
#
# The same network on other schedules, without training: what it knows depends on
# the state and on how much is inserted, not on how it came about. On which path
# is it best? The bound of -log p tells, and samples do.

# %%
for path in ("lengths_first", "trained"):
  found = evaluate(
    HeldOutLikelihood(num_times=32 if TINY else 128),
    run.with_path(path),
    denoiser,
    num=50 if TINY else 300,
  )
  made = model.generate(2, path=path, seed=2)
  print(f"{path}: {found['nats']:.1f} ± {found['data_stderr']:.1f} nats a text")
  print(*(f"  {each.text}" for each in made), sep="\n")

# %% [markdown]
# ## The likelihood of your sentences
#
# An upper bound of -log p, the length included, and its error of estimation. A
# sentence of the language should cost less than the same words in another order.

# %%
mine = ["Return the name of the file.", "file the Return of the name."]
nats, error = model.log_likelihood(mine, num_times=64 if TINY else 256)
for text, cost, noise in zip(mine, nats, error, strict=True):
  print(f"{cost:6.1f} ± {noise:.1f} nats  {text}")

# %% [markdown]
# ## It fills holes
#
# Mark each hole by `___`, as many as you like; the model decides how long each
# becomes. Write in the box and press the button, or call `fill` in a cell.


# %%
def fill(text):
  made = model.generate(3, infills=[text.split("___")])
  return "\n".join(each.text for each in made)


print(fill("Return the ___ of ___."))

# %%
text_box(fill, "Return ___ if ___.", "Fill the holes")

# %% [markdown]
# ## Watch it grow
#
# Two samples side by side. A pointer on a token tells when it was inserted and
# revealed, and its probability then. (GitHub shows no frames; open the notebook
# in Colab or Jupyter.)

# %%
requests = model.requests(2, infills=[("Return the ", ".")])
played = replay(model, requests, chances=True, names=["first", "second"])
show_page(write_page, "Two texts grow", played)

# %% [markdown]
# ## Take it with you
#
# An exported folder is self-contained, and `fm.load` reads it anywhere.

# %%
folder = out / "exported"
if not folder.exists():
  model.export(folder)
print(*sorted(path.name for path in folder.iterdir()), sep="  ")
print(fm.load(folder).generate(1, prompts=["Return "], seed=3)[0].text)

# %% [markdown]
# Tokenizers, longer texts and mixtures are in `docs/your_own_text.md`. **Next:**
# [4_samplers](4_samplers.ipynb) asks which sampler to choose.
