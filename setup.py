"""Packaging. `pip install -e .[dev]` from a checkout; see README.md."""

import pathlib

from setuptools import find_packages, setup

HERE = pathlib.Path(__file__).parent

# `kernels/` stands at the top of the tree and is installed as
# `flexmdm_jax.kernels`; see flexmdm_jax/kernels.py.
KERNELS = sorted(p.parent.name for p in HERE.glob("kernels/*/__init__.py"))

# Oldest versions on which the tests pass; the newest pass too.
CORE = [
  "jax>=0.10.2",
  "flax>=0.12.8",
  "optax>=0.2.8",
  "orbax-checkpoint>=0.12.8",
  "grain>=0.2.18",
  "absl-py>=2.1",
  "ml_collections>=1.1",
  "numpy>=2.0",
  "jaxtyping>=0.3",
  "tensorboardX>=2.6",
  "tensorflow-datasets>=4.9.10",  # 4.9.10 reads array_record sans TensorFlow
  "array_record>=0.8",
  "safetensors>=0.5",
  "tqdm>=4.66",
]
TEXT = [
  "tokenizers>=0.20",
  "jinja2>=3.1.6",  # older sandboxes let templates out
  "backports.zstd>=1; python_version<'3.14'",  # from then on in Python
]
PLOTS = ["matplotlib>=3.9"]
WATCH = ["rich>=13"]
NOTEBOOKS = [
  *PLOTS,
  "ipykernel>=6",
  "ipywidgets>=8",
  "jupytext>=1.16",
  "nbclient>=0.10",
]
# The arguments of mount_gradio_app change between versions.
DEMO = ["gradio>=6.31,<7"]
MATH = ["math-verify[antlr4_13_2]>=0.9"]
# With Chromium, which the system has: apt-get install chromium.
BROWSER = ["playwright>=1.49"]
README = HERE / "README.md"
PAPER = "https://arxiv.org/abs/2509.01025"

setup(
  name="flexmdm_jax",
  version="0.1.0",
  description="Any-order, variable-length masked diffusion in JAX",
  long_description=README.read_text("utf-8"),
  long_description_content_type="text/markdown",
  license_expression="Apache-2.0",
  license_files=["LICENSE"],
  project_urls={"Paper": PAPER},
  keywords=[
    "discrete diffusion",
    "FlexMDM",
    "flax",
    "infilling",
    "JAX",
    "language model",
    "masked diffusion",
    "TPU",
  ],
  classifiers=[
    "Development Status :: 4 - Beta",
    "Environment :: Console",
    "Environment :: GPU :: NVIDIA CUDA",
    "Intended Audience :: Developers",
    "Intended Audience :: Science/Research",
    "Operating System :: POSIX :: Linux",
    "Programming Language :: Python :: 3",
    "Programming Language :: Python :: 3 :: Only",
    "Programming Language :: Python :: 3.11",
    "Programming Language :: Python :: 3.12",
    "Topic :: Scientific/Engineering :: Artificial Intelligence",
  ],
  python_requires=">=3.11",
  packages=find_packages(include=["flexmdm_jax", "flexmdm_jax.*"])
  + [f"flexmdm_jax.kernels.{name}" for name in KERNELS],
  package_data={"flexmdm_jax.pictures": ["*.html"]},
  package_dir={
    f"flexmdm_jax.kernels.{name}": f"kernels/{name}" for name in KERNELS
  },
  install_requires=CORE,
  extras_require={
    "browser": BROWSER,
    "cuda12": ["jax[cuda12]"],
    "cuda13": ["jax[cuda13]"],
    "tpu": ["jax[tpu]"],
    "demo": [*DEMO, *TEXT],
    "docs": ["mkdocs-material>=9.6", "mkdocstrings[python]>=1", "ruff>=0.8"],
    "eval": ["lm-eval==0.4.13"],  # its interface changes between versions
    "notebooks": NOTEBOOKS,
    "plots": PLOTS,
    "text": TEXT,
    "watch": WATCH,
    # transformers reads GGUF files with the last two.
    "scorers": ["torch>=2.4", "transformers>=5", "accelerate", "gguf"],
    "math": MATH,
    "mauve": ["mauve-text>=0.4"],
    # What the authors' public code needs to run beside ours.
    "peers": ["torch>=2.6", "einops>=0.8", "omegaconf>=2.3"],
    "dev": [
      *NOTEBOOKS,
      *BROWSER,
      *DEMO,
      *MATH,
      *TEXT,
      *WATCH,
      "beartype>=0.20",
      "build>=1.2",
      "hypothesis>=6.100",
      "pytest>=8",
      "pytest-cov>=5",
      "pytest-xdist>=3.6",
      "ruff>=0.8",
      "scipy>=1.14",
      "setuptools>=77",
      "wheel>=0.43",
    ],
  },
)
