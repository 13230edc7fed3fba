# %% [markdown]
# # 5. Retrofit
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/OWNER/flexmdm_jax/blob/main/experiments/colab/5_retrofit.ipynb)
#
# LLaDA and Dream are masked diffusion models of 8B and 7B parameters. A
# **retrofit** leaves their weights as they are and trains low-rank updates, a
# modulation by the time, and a head that tells what is missing. This notebook does
# all of its steps with a tiny LLaDA that it makes itself. With real weights the
# commands are those of `docs/retrofit.md`.

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
import dataclasses

import flax.linen as nn
import jax

import flexmdm_jax as fm
from experiments.configs import base, llada_8b_retrofit
from flexmdm_jax.data.docstrings import write_docstrings
from flexmdm_jax.evaluation.train_once import train_once
from flexmdm_jax.models.parameters import init_params, num_parameters
from flexmdm_jax.pictures.figures import plot_loss
from flexmdm_jax.pictures.notebook import show_picture
from flexmdm_jax.pretrained import checkpoint
from flexmdm_jax.runs import Run
from flexmdm_jax.tasks import make_task

out = pathlib.Path("build/colab")
text = out / "docstrings_32.jsonl"
print(write_docstrings(text, max_characters=32), "lines")

# %% [markdown]
# ## A tiny LLaDA
#
# LLaDA's network, trained as LLaDA is: rows of a fixed length, masked at random,
# no times, no gaps. Its tokens are characters, so its vocabulary comes from the
# text. `llada_to_hf` then writes the form in which the hub has LLaDA.

# %%
config = llada_8b_retrofit.get_config()
config.method = "mdm"
config.data = base.text_data(
  max_length=32,
  buckets=(32,),
  train=str(text),
  tokenizer="char",
  folder=str(out / "data"),
)
vocab = make_task("mdm", config.data.to_dict()).vocab
config.model.update(
  vocab=dataclasses.asdict(vocab),
  hidden_size=96,
  num_layers=4,
  num_heads=4,
  num_kv_heads=4,
  mlp_size=240,
  time_group=None,
  dtype="float32",
  param_dtype="float32",
  remat="none",
)
config.model.lora.rank = 0
config.optimizer.update(learning_rate=2e-3, warmup_steps=100)
config.train.update(
  num_steps=3000, batch_size=64, checkpoint_every=1000, report_every=20
)
if TINY:
  config.model.update(hidden_size=48, num_layers=2, mlp_size=96)
  config.train.update(
    num_steps=60, batch_size=16, checkpoint_every=60, report_every=5
  )
  config.optimizer.warmup_steps = 10
mdm, mdm_curve = train_once(Run.from_config(config.to_dict()), out / "mdm")
llada = out / "llada"
if not llada.exists():
  fm.convert.llada_to_hf(mdm.model, mdm.params, llada)
print(*sorted(path.name for path in llada.iterdir()), sep="  ")

# %% [markdown]
# ## Convert
#
# From the hub's form to one that every layout of devices reads in its own shares.
# Tensors pass one at a time: 8B parameters need the memory of the largest. Nothing
# in the folder is executed.

# %%
converted = out / "llada_orbax"
if not converted.exists():
  network = checkpoint.from_hf(llada, converted)
  print(f"{network.num_layers} layers of {network.hidden_size}")

# %% [markdown]
# ## Low-rank updates, and a gap head
#
# The config names the converted folder as `pretrained`. Its weights are frozen;
# what is trained is counted below. The model can fill masks already, so the gaps
# open at once (`opens=0`).

# %%
config.method = "flexmdm"
config.pretrained = str(converted)
config.model.time_group = 2
config.model.lora.update(rank=8, alpha=8.0)
config.train.states.update(base.curriculum(opens=0.0, full=0.3))
config.train.num_steps = 80 if TINY else 2000
run = Run.from_config(config.to_dict())
total = num_parameters(run.model)
frozen = sum(x.size for x in jax.tree.leaves(run.train_step().abstract_base))
print(f"{total - frozen:,} of {total:,} parameters are trained")

# %%
denoiser, curve = train_once(run, out / "retrofit")
curves = {"MDM": mdm_curve, "FlexMDM": curve}
show_picture(plot_loss, curves, ylabel="loss (nats a token slot)")

# %% [markdown]
# ## Infill and export
#
# The exported folder has the frozen weights too: it needs neither LLaDA's folder
# nor the text.

# %%
folder = out / "retrofitted"
if not folder.exists():
  fm.load(out / "retrofit").export(folder)
model = fm.load(folder)
few = dict(steps=16, buckets=()) if TINY else {}
for made in model.generate(3, infills=[("Return the ", ".")], **few):
  print(made.text)

# %% [markdown]
# ## The public FlexMDM
#
# The public 7B FlexMDM is a Dream, trained on whole. Its folder is read by
# `fm.load` as it is. Here is one of the same form and of no training: what it
# writes is noise, but the road is the real one. Rows begin with a token of their
# own, and nothing can be inserted before it.

# %%
tiny = fm.Transformer(
  vocab=fm.Vocab(size=97, mask=90, pad=88),
  max_length=24,
  hidden_size=32,
  num_layers=2,
  num_heads=4,
  num_kv_heads=2,
  mlp_size=64,
  qkv_bias=True,
  shifted=True,
  gap_head="log_rate",
  time_group=1,
)
dream = out / "dream_flexmdm"
if not dream.exists():
  params = nn.unbox(init_params(tiny, jax.random.key(0)))
  fm.convert.dream_flexmdm_to_hf(tiny, params, dream)
public = fm.load(dream)
print(*sorted(path.name for path in dream.iterdir()), sep="  ")
(made,) = public.generate(infills=[([1, 2, 3], [4, 5])], steps=8, buckets=())
print(made.tokens, "of which", made.filled, "was filled in")

# %% [markdown]
# Its presets are its published sampling: `public.generate(..., preset="published")`
# takes 512 calls. The same steps with the real weights, their memory and cost:
# `docs/retrofit.md`. **Next:** [6_scaling](6_scaling.ipynb).
