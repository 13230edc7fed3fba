# %% [markdown]
# # 6. Scaling
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/OWNER/flexmdm_jax/blob/main/experiments/colab/6_scaling.ipynb)
#
# One training step serves one CPU and a pod: only the mesh differs. Here sixteen
# devices are made of one CPU, the parameters are laid out on them, and a step is
# compiled for GPUs or TPUs that are not here, to read what it would cost before
# anybody pays for it. A CPU runtime is enough; with a GPU, devices are its own.

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
# Before JAX is imported: sixteen devices out of one CPU.
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["JAX_NUM_CPU_DEVICES"] = "16"

import jax

from experiments.configs import llada_8b_retrofit
from flexmdm_jax.dryrun import devices, report
from flexmdm_jax.models.parameters import boxed_params
from flexmdm_jax.pictures import process
from flexmdm_jax.pictures.notebook import show_picture
from flexmdm_jax.training.sharding import make_mesh, tree_shardings

print(len(jax.devices()), "devices")

# %% [markdown]
# ## A mesh and its layout
#
# The mesh has three axes. Rows of the batch are split over `data` and `fsdp`;
# parameters are stored in shares over `fsdp`, and split for good over `tensor`:
# heads, features, vocabulary. Each parameter names its own axes once, and the
# layout's rules say which axis of the mesh each of them goes to. The picture of a
# matrix shows which device holds which part of it.
#
# The model is the paper's retrofit of LLaDA, made small.

# %%
config = llada_8b_retrofit.get_config()
config.model.update(
  hidden_size=256,
  num_layers=8,
  num_heads=8,
  num_kv_heads=8,
  mlp_size=768,
  vocab=dict(size=2048, mask=2046, pad=2047),
  attention="xla",
)
config.model.lora.rank = 8
config.data.max_length = 128
config.train.batch_size = 64
if TINY:
  config.model.update(hidden_size=64, num_layers=2, num_heads=4, num_kv_heads=4)
  config.model.update(mlp_size=128, time_group=2)
run = report.run_without_data(config.to_dict())
mesh = make_mesh(data=4, fsdp=2, tensor=2)
shardings = tree_shardings(boxed_params(run.model), run.layout.rules, mesh)
for name in ("q", "down"):
  print(f"blocks/{name}:", shardings["blocks"][name]["kernel"].spec)
jax.debug.visualize_sharding((8, 8), shardings["head"]["kernel"])

# %% [markdown]
# ## A dry run
#
# The step is compiled for 16 H100 in two nodes. Without NVIDIA's plugin as many
# fake CPU devices take their place: the program is split alike, and its
# collectives are the same. A node has fast links, the nodes a slow one; a layout
# that fits sends the small gradients of the low-rank updates between nodes, and
# the weights within each.

# %%
reports = {}
for layout in ("16xh100", "fsdp"):
  config.mesh.layout = layout
  run = report.run_without_data(config.to_dict())
  topology = devices.topology("gpu:h100:16")
  reports[layout] = report.train_report(run, topology, weak_scaling=True)
for layout, found in reports.items():
  parameters, memory = found["parameters"], found["bytes_per_device"]
  print(f"{layout}: mesh {found['mesh']}")
  print(f"  {parameters['trainable']:,} of {parameters['total']:,} are trained")
  print(f"  {memory['arguments'] / 1e6:.2f} MB a device of state and weights")
  for kind, sent in found["collective_bytes"].items():
    print(f"  {kind}: {sent / 1e6:.2f} MB a device and step")

# %% [markdown]
# ## The roofline
#
# Three times decide a step: of the operations, of reading memory, and of the
# links. It takes at least the longest of them, and their sum if nothing
# overlaps. Such a small model is all memory and links; the 8B model below is
# not.


# %%
def times_of(found):
  times = found["prediction"]
  return {
    "operations": 1e3 * times["compute_seconds"],
    "memory": 1e3 * times["memory_seconds"],
    "links": 1e3 * times["link_seconds"],
  }


show_picture(
  process.plot_parts,
  {layout: times_of(found) for layout, found in reports.items()},
  "ms a step, predicted for 16 H100",
)

# %% [markdown]
# ## Weak scaling
#
# More copies of the devices with as many rows each: a copy's work stays, and
# gradients have to be summed over all. How much of the ideal speed is kept?

# %%
show_picture(
  process.plot_weak_scaling,
  {layout: found["weak_scaling"] for layout, found in reports.items()},
)

# %% [markdown]
# ## The 8B model on a TPU pod
#
# With libtpu (`pip install libtpu`), the compiler of TPUs runs on any Linux
# machine. Tiny settings compile the small model; full ones take LLaDA-8B, some
# minutes, and show the memory of a chip of 95 GB.

# %%
if importlib.util.find_spec("libtpu"):
  large = config if TINY else llada_8b_retrofit.get_config()
  large.mesh.layout = "fsdp"
  found = report.train_report(
    report.run_without_data(large.to_dict()), devices.topology("v5p:2x2x4")
  )
  peak = found["bytes_per_device"]["peak"]
  print(f"peak {peak / 1e9:.2f} GB a chip; fits: {found['fits']}")
  print(f"{found['prediction']['mfu']:.0%} of the peak operations")
else:
  print("no libtpu here: pip install libtpu, and restart the runtime")

# %% [markdown]
# `python -m experiments.dryrun` is all of this as a command, and `docs/results.md`
# has the numbers of the 8B model on H100, v5p and v6e. On several hosts the same
# training runs as one program: `docs/many_hosts.md`.
